//! The guard: a process that outlives the monitor by just long enough to end its server.
//!
//! The parent-death signal reaches only the server's root process. Whatever else is in the
//! instance's cgroup, double-forked and in sessions of its own, is ended by the guard when the
//! monitor's end of their pipe closes, for whatever reason, SIGKILL included.
//!
//! The guard is a fork that keeps the monitor's descriptors of kernel programs and maps. That is
//! on purpose: the programs stay attached, and go on refusing, until the tree is gone.

use std::{
    ffi::c_int,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork, pipe2},
};

use super::tree::Tree;

/// The running guard. It acts when this is dropped, however that happens.
#[derive(Debug)]
pub struct Guard {
    pid: Pid,
    /// Held open while the monitor lives.
    leash: Option<OwnedFd>,
}

impl Guard {
    /// Starts a guard over a tree.
    pub fn start(tree: &Tree) -> Result<Self, Errno> {
        let (watched, leash) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the child only makes system calls and plain file operations and then ends; the
        // monitor has no other thread when it launches, so no lock is held across the fork.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(leash);
                stand_by(&watched, tree);
                // SAFETY: ends this process without running the monitor's own clean-up.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => Ok(Self { pid: child, leash: Some(leash) }),
        }
    }

    /// The guard's process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the guard has ended although the monitor lives.
    pub fn has_died(&self) -> bool {
        !matches!(waitpid(self.pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.leash.take());
        // Fails when the guard was killed and has been waited for.
        let _ = waitpid(self.pid, None);
    }
}

/// The guard's life.
fn stand_by(watched: &OwnedFd, tree: &Tree) {
    step_aside();
    let mut byte = 0_u8;
    loop {
        // SAFETY: reads one byte into a live local.
        let count =
            unsafe { libc::read(watched.as_raw_fd(), std::ptr::from_mut(&mut byte).cast(), 1) };
        if count == 0 || (count < 0 && Errno::last() != Errno::EINTR) {
            break;
        }
    }
    // Fails when the cgroup has been removed, as after an orderly end.
    let _ = tree.end();
    tree.remove();
}

/// Leaves the monitor's session, its standard descriptors and its directory, and takes no signal
/// that can be refused: a Ctrl-C or a closed terminal must not end the guard before the tree.
fn step_aside() {
    let root = c"/";
    let null = c"/dev/null";
    let name = c"mcp-guard";
    // SAFETY: the strings are static, the set is initialised by sigfillset, and descriptors 0 to 2
    // belong to this process alone. Nothing here can fail in a way that changes what follows.
    unsafe {
        libc::setsid();
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        libc::chdir(root.as_ptr());
        let null: c_int = libc::open(null.as_ptr(), libc::O_RDWR);
        for standard in 0..=2 {
            if null < 0 || libc::dup2(null, standard) < 0 {
                libc::close(standard);
            }
        }
        if null > 2 {
            libc::close(null);
        }
    }
}
