//! What the forked child does between its fork and the server's first instruction.
//!
//! Everything here runs in a copy of the monitor and only makes system calls on memory that was
//! prepared before the fork: it would be right even if the monitor had other threads. The child
//! opens no file once it is tagged, so its own doings make no events.

use std::{
    ffi::{CString, c_char, c_int},
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStringExt as _,
    },
    ptr,
};

use nix::{
    errno::Errno,
    unistd::{Gid, Pid},
};

use super::{LaunchError, Program, signals::Inherited};

/// Descriptor on which the child waits until it may go on.
const GO: RawFd = 3;
/// Descriptor on which it reports that it could not; closed by the exec that succeeds.
const REPORT: RawFd = 4;

/// The step that failed, as reported by the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Moving and closing descriptors.
    Descriptors = 1,
    /// Becoming the calling user.
    User = 2,
    /// no_new_privs, the death signal.
    Protection = 3,
    /// execvpe.
    Exec = 4,
}

impl Step {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Descriptors, Self::User, Self::Protection, Self::Exec]
            .into_iter()
            .find(|step| *step as u8 == byte)
    }
}

/// Bytes of a report: the step, then errno.
pub const REPORT_BYTES: usize = 5;

/// Reads a report.
pub fn parse_report(bytes: &[u8]) -> Option<(Step, Errno)> {
    let (&step, errno) = bytes.split_first()?;
    Some((Step::from_byte(step)?, Errno::from_raw(i32::from_ne_bytes(errno.try_into().ok()?))))
}

/// Everything that the child needs, laid out before the fork.
pub struct Plan {
    argv: Vec<CString>,
    environment: Vec<CString>,
    account: Option<(u32, u32, Vec<Gid>)>,
    signals: Inherited,
}

impl Plan {
    /// A plan to run a program.
    pub fn new(program: Program<'_>) -> Result<Self, LaunchError> {
        let Program { command, environment, account, inherited } = program;
        let argv = command
            .iter()
            .map(|argument| CString::new(argument.clone().into_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| LaunchError::NulInCommand)?;
        let account = account
            .drop
            .then(|| (account.uid.as_raw(), account.gid.as_raw(), account.groups.clone()));
        Ok(Self { argv, environment: environment.given.clone(), account, signals: inherited })
    }

    /// Pointers to the arguments, ended by a null pointer. Valid as long as the plan.
    pub fn argv(&self) -> Vec<*const c_char> {
        pointers(&self.argv)
    }

    /// The same for the environment.
    pub fn envp(&self) -> Vec<*const c_char> {
        pointers(&self.environment)
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// The child's life. Never returns; ends in exec or in a report.
pub fn run(
    plan: &Plan,
    argv: &[*const c_char],
    envp: &[*const c_char],
    go: &OwnedFd,
    report: &OwnedFd,
    monitor: Pid,
) -> ! {
    let failed = match become_server(plan, argv, envp, go.as_raw_fd(), report.as_raw_fd(), monitor)
    {
        Some(failed) => failed,
        // The monitor has gone or given up: there is nobody to report to.
        // SAFETY: _exit only ends this process.
        None => unsafe { libc::_exit(125) },
    };
    let mut bytes = [failed.0 as u8; REPORT_BYTES];
    bytes[1..].copy_from_slice(&(failed.1 as c_int).to_ne_bytes());
    // SAFETY: the buffer is live for the call; _exit only ends this process. A report that cannot
    // be written leaves the exit status to speak.
    unsafe {
        libc::write(REPORT, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(125)
    }
}

fn become_server(
    plan: &Plan,
    argv: &[*const c_char],
    envp: &[*const c_char],
    go: RawFd,
    report: RawFd,
    monitor: Pid,
) -> Option<(Step, Errno)> {
    if let Err(errno) = keep_two_descriptors(go, report) {
        // The report has not reached its place: leave quietly, the monitor sees the end.
        let _ = errno;
        return None;
    }
    if !may_go() {
        return None;
    }
    if let Some((uid, gid, groups)) = &plan.account
        && let Err(errno) = drop_privileges(*uid, *gid, groups)
    {
        return Some((Step::User, errno));
    }
    match protect(monitor) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(errno) => return Some((Step::Protection, errno)),
    }
    if let Err(errno) = restore_signals(&plan.signals) {
        return Some((Step::Protection, errno));
    }
    // SAFETY: both point into `plan`'s strings, which live in this process's own copy, and end with
    // a null pointer; `argv` has at least one string because clap demands a command.
    unsafe { libc::execvpe(argv[0], argv.as_ptr(), envp.as_ptr()) };
    Some((Step::Exec, Errno::last()))
}

/// Puts `go` and `report` at their places and closes everything else above standard error.
fn keep_two_descriptors(go: RawFd, report: RawFd) -> Result<(), Errno> {
    // SAFETY: only descriptors of this process change, and it uses none but 0 to 4 from here on.
    unsafe {
        // First out of the way of the final places, so that neither overwrites the other.
        let go = Errno::result(libc::fcntl(go, libc::F_DUPFD_CLOEXEC, 16))?;
        let report = Errno::result(libc::fcntl(report, libc::F_DUPFD_CLOEXEC, 16))?;
        Errno::result(libc::dup3(go, GO, libc::O_CLOEXEC))?;
        Errno::result(libc::dup3(report, REPORT, libc::O_CLOEXEC))?;
        let after = (REPORT + 1) as libc::c_uint;
        Errno::result(libc::syscall(libc::SYS_close_range, after, libc::c_uint::MAX, 0))?;
    }
    Ok(())
}

/// Waits for the monitor's word; `false` when it died or gave up.
fn may_go() -> bool {
    let mut word = 0_u8;
    loop {
        // SAFETY: reads one byte into a live local.
        let count = unsafe { libc::read(GO, ptr::from_mut(&mut word).cast(), 1) };
        match count {
            1 => return true,
            -1 if Errno::last() == Errno::EINTR => {}
            _ => return false,
        }
    }
}

/// Becomes the user for good. Raw calls: the C library's wrappers would look for other threads.
fn drop_privileges(uid: u32, gid: u32, groups: &[Gid]) -> Result<(), Errno> {
    // SAFETY: `Gid` is a transparent gid_t and the slice is live; the other calls take integers.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        // The way back must be shut.
        if libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0 {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

/// no_new_privs, and death with the monitor. After the change of user, which clears the death
/// signal. `false` when the monitor has died already.
fn protect(monitor: Pid) -> Result<bool, Errno> {
    // SAFETY: both options take integers.
    unsafe {
        Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        Errno::result(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        Ok(libc::getppid() == monitor.as_raw())
    }
}

/// Gives the server the signal state that the monitor was started with: the mask, SIGCHLD, and
/// SIGPIPE, which Rust's start-up ignores. All other dispositions are untouched.
fn restore_signals(signals: &Inherited) -> Result<(), Errno> {
    // SAFETY: neither disposition is a handler; the mask is live.
    unsafe {
        if signals.ignores_children {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        }
        if libc::signal(libc::SIGPIPE, libc::SIG_DFL) == libc::SIG_ERR {
            return Err(Errno::last());
        }
        Errno::result(libc::sigprocmask(
            libc::SIG_SETMASK,
            signals.mask.as_ref(),
            ptr::null_mut(),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back() {
        let mut bytes = vec![Step::Exec as u8];
        bytes.extend(libc::ENOENT.to_ne_bytes());
        assert_eq!(parse_report(&bytes), Some((Step::Exec, Errno::ENOENT)));
    }

    #[test]
    fn a_report_that_is_cut_short_is_refused() {
        assert_eq!(parse_report(&[]), None);
        assert_eq!(parse_report(&[Step::Exec as u8, 2]), None);
        assert_eq!(parse_report(&[99, 0, 0, 0, 0]), None);
    }
}
