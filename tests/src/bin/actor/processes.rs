//! Reaching into other processes.

use std::{ffi::OsString, os::fd::AsRawFd as _, process::ExitCode};

use crate::{
    floods,
    steps::{self, Done, Report, Step, Words, done, step, wrapper},
    sys::{self, Failure, own, sys},
};

pub const STEPS: &[Step] = &[
    step("victim", "", |_| victim()),
    wrapper("with-child", "STEP...", with_child),
    step("vm-read", "PID ADDRESS", |words| {
        transfer(words, |pid, local, remote| {
            sys!(SYS_process_vm_readv, pid, local, 1_usize, remote, 1_usize, 0_usize)
        })
    }),
    step("vm-write", "PID ADDRESS", |words| {
        transfer(words, |pid, local, remote| {
            sys!(SYS_process_vm_writev, pid, local, 1_usize, remote, 1_usize, 0_usize)
        })
    }),
    step("proc-mem", "PID ADDRESS", proc_mem),
    step("ptrace-attach", "PID", |words| ptrace(words, libc::PTRACE_ATTACH)),
    step("ptrace-seize", "PID", |words| ptrace(words, libc::PTRACE_SEIZE)),
    step("kill", "PID SIGNAL", |words| {
        let (pid, signal): (i32, i32) = (words.number(0)?, words.number(1)?);
        sys!(SYS_kill, pid, signal).and_then(|_| done(""))
    }),
    step("pidfd-signal", "PID SIGNAL", |words| {
        let (pid, signal): (i32, i32) = (words.number(0)?, words.number(1)?);
        let pidfd = own(sys!(SYS_pidfd_open, pid, 0)?);
        sys!(SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0_usize, 0)?;
        done("")
    }),
    step("queue-signal", "PID SIGNAL", queue_signal),
    step("kill-ended", "", kill_ended),
    step("pidfd-getfd", "PID FD", |words| {
        let (pid, fd): (i32, i32) = (words.number(0)?, words.number(1)?);
        let pidfd = own(sys!(SYS_pidfd_open, pid, 0)?);
        sys!(SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0).map(own).and_then(|_| done(""))
    }),
    step("bpf", "COMMAND", |words| {
        let attributes = [0_u64; 16];
        let size = size_of_val(&attributes);
        sys!(SYS_bpf, words.number::<i32>(0)?, attributes.as_ptr(), size).and_then(|_| done(""))
    }),
    step("pid", "", |_| done(format!("pid={}", std::process::id()))),
    step("sleep", "MILLISECONDS", |words| {
        std::thread::sleep(std::time::Duration::from_millis(words.number(0)?));
        done("")
    }),
    step("await", "PATH", |words| {
        while sys::identity(&words.path(0)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        done("")
    }),
];

/// Sends a signal that claims to come from a timer.
fn queue_signal(words: Words<'_>) -> Done {
    let (pid, signal): (i32, i32) = (words.number(0)?, words.number(1)?);
    // SAFETY: plain integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    info.si_code = libc::SI_TIMER;
    sys!(SYS_rt_sigqueueinfo, pid, signal, &raw const info).and_then(|_| done(""))
}

/// Sends a signal to a child that has ended and was not waited for.
fn kill_ended(_: Words<'_>) -> Done {
    let child = sys::fork()?;
    if child == 0 {
        // SAFETY: _exit has no preconditions.
        unsafe { libc::_exit(0) };
    }
    let none = std::ptr::null_mut::<libc::siginfo_t>();
    let ended = libc::WEXITED | libc::WNOWAIT;
    sys!(SYS_waitid, libc::P_PID, child, none, ended, 0_usize)?;
    let killed = sys!(SYS_kill, child, libc::SIGTERM);
    sys::wait(child)?;
    killed.and_then(|_| done(""))
}

/// Says where its secret lies and waits until stdin ends: the target of the other steps, run
/// outside the tree.
fn victim() -> Done {
    use std::io::{Read as _, Write as _};
    let secret = Box::new(*b"victim's secret\n");
    let (pid, address) = (std::process::id(), (&raw const *secret).addr());
    let said = writeln!(std::io::stdout(), "ok pid={pid} address={address}");
    said.map_err(|error| Failure::call("write", error.raw_os_error().unwrap_or(0)))?;
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    done(format!("intact={}", u8::from(std::hint::black_box(&*secret) == b"victim's secret\n")))
}

/// Does the steps with a child of its own as victim: its id stands for the word `PID`, the place
/// of its secret for `ADDRESS`.
fn with_child(words: Words<'_>) -> Done {
    let secret = Box::new(*b"a child's secret");
    let child = sys::fork()?;
    if child == 0 {
        floods::stay();
    }
    let replaced = words.0.iter().map(|word| match word.to_str() {
        Some("PID") => child.to_string().into(),
        Some("ADDRESS") => (&raw const *secret).addr().to_string().into(),
        Some(text) => text.replace("/PID/", &format!("/{child}/")).into(),
        None => word.clone(),
    });
    let code = steps::run_line(&replaced.collect::<Vec<OsString>>());
    let _ = sys!(SYS_kill, child, libc::SIGKILL);
    sys::wait(child)?;
    Ok(Report::Printed(u8::from(code != ExitCode::SUCCESS)))
}

type Transfer = fn(i32, *const libc::iovec, *const libc::iovec) -> Result<usize, Failure>;

fn transfer(words: Words<'_>, transfer: Transfer) -> Done {
    let mut data = [0_u8; 16];
    let local = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    let address: usize = words.number(1)?;
    let iov_base = std::ptr::without_provenance_mut(address);
    let remote = libc::iovec { iov_base, iov_len: data.len() };
    let bytes = transfer(words.number(0)?, &raw const local, &raw const remote)?;
    done(format!("bytes={bytes}"))
}

fn proc_mem(words: Words<'_>) -> Done {
    let path = format!("/proc/{}/mem", words.number::<i32>(0)?);
    let file = sys::open(&sys::c_path(path.as_ref()), libc::O_RDONLY)?;
    let mut data = [0_u8; 16];
    let (fd, at) = (file.as_raw_fd(), words.number::<usize>(1)?);
    let bytes = sys!(SYS_pread64, fd, data.as_mut_ptr(), data.len(), at)?;
    done(format!("bytes={bytes}"))
}

/// Attaches to a process, and lets it go again.
fn ptrace(words: Words<'_>, request: u32) -> Done {
    let pid: i32 = words.number(0)?;
    sys!(SYS_ptrace, request, pid, 0_usize, 0_usize)?;
    if request == libc::PTRACE_SEIZE {
        sys!(SYS_ptrace, libc::PTRACE_INTERRUPT, pid, 0_usize, 0_usize)?;
    }
    sys::wait(pid)?;
    sys!(SYS_ptrace, libc::PTRACE_DETACH, pid, 0_usize, 0_usize)?;
    done("")
}
