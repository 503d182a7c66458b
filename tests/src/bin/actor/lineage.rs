//! Ways to become another process or thread, in which the rest of the line is then done.

use std::{
    ffi::OsString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    process::ExitCode,
};

use crate::{
    exec::Vector,
    steps::{self, Done, Report, Step, Words, wrapper},
    sys::{self, Failure, open, sys},
};

pub const STEPS: &[Step] = &[
    wrapper("fork", "STEP...", |words| in_child(words.0, sys::fork)),
    wrapper("double-fork", "STEP...", double_fork),
    wrapper("clone-parent", "STEP...", |words| {
        in_child(words.0, || clone3(libc::CLONE_PARENT as u64, |_| {}))
    }),
    wrapper("into-cgroup", "CGROUP STEP...", into_cgroup),
    wrapper("leave-cgroup", "CGROUP STEP...", leave_cgroup),
    wrapper("with-pid", "PID STEP...", with_pid),
    wrapper("vfork", "STEP...", vfork),
    wrapper("thread", "STEP...", thread),
    wrapper("thread-fork", "STEP...", thread_fork),
    wrapper("dead-leader", "STEP...", dead_leader),
];

/// Does the steps in the child that `spawn` makes, and waits until it has said how it went.
fn in_child(words: &[OsString], spawn: impl FnOnce() -> Result<i32, Failure>) -> Done {
    let (told, teller) = sys::pipe()?;
    let child = spawn()?;
    if child == 0 {
        drop(told);
        finish(words, &teller);
    }
    drop(teller);
    let answer = answer(&told);
    // Fails where the child is a sibling; then its parent reaps it.
    let _ = sys::wait(child);
    answer
}

/// Does the steps and ends this process; whoever holds the other end learns the exit code.
fn finish(words: &[OsString], teller: &OwnedFd) -> ! {
    let code = u8::from(steps::run_line(words) != ExitCode::SUCCESS);
    let _ = sys::write(teller.as_fd(), &[code]);
    std::process::exit(code.into())
}

fn answer(told: &OwnedFd) -> Done {
    let mut code = [0_u8];
    match sys!(SYS_read, told.as_raw_fd(), code.as_mut_ptr(), 1_usize)? {
        1 => Ok(Report::Printed(code[0])),
        // It ended without a word: killed, or it became another program, which printed the line.
        _ => Ok(Report::Printed(0)),
    }
}

/// A grandchild in a session of its own, whose parent has gone.
fn double_fork(words: Words<'_>) -> Done {
    let (told, teller) = sys::pipe()?;
    let middle = sys::fork()?;
    if middle == 0 {
        sys!(SYS_setsid)?;
        let middle = std::process::id();
        if sys::fork()? != 0 {
            std::process::exit(0);
        }
        while std::os::unix::process::parent_id() == middle {
            std::thread::yield_now();
        }
        finish(words.0, &teller);
    }
    drop(teller);
    sys::wait(middle)?;
    answer(&told)
}

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A fork with flags: 0 in the child.
fn clone3(flags: u64, adjust: impl FnOnce(&mut CloneArguments)) -> Result<i32, Failure> {
    // With CLONE_PARENT the kernel takes the parent's own exit signal and wants none given.
    let inherits = flags & libc::CLONE_PARENT as u64 != 0;
    let exit_signal = if inherits { 0 } else { libc::SIGCHLD as u64 };
    let mut arguments = CloneArguments { flags, exit_signal, ..CloneArguments::default() };
    adjust(&mut arguments);
    let size = size_of::<CloneArguments>();
    sys!(SYS_clone3, &raw const arguments, size).map(|pid| pid as i32)
}

fn into_cgroup(words: Words<'_>) -> Done {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let cgroup = open(&words.path(0), libc::O_PATH | libc::O_DIRECTORY)?;
    in_child(words.rest(1), || {
        clone3(CLONE_INTO_CGROUP, |arguments| arguments.cgroup = cgroup.as_raw_fd() as u64)
    })
}

fn leave_cgroup(words: Words<'_>) -> Done {
    let mut members = words.word(0).to_owned();
    members.push("/cgroup.procs");
    let members = open(&sys::c_path(&members), libc::O_WRONLY)?;
    sys::write(members.as_fd(), b"0")?;
    Ok(Report::Printed(exit_code(steps::run_line(words.rest(1)))))
}

fn exit_code(code: ExitCode) -> u8 {
    u8::from(code != ExitCode::SUCCESS)
}

/// A child with a chosen process id, which has to be free.
fn with_pid(words: Words<'_>) -> Done {
    let pid: i32 = words.number(0)?;
    in_child(words.rest(1), || {
        clone3(0, |arguments| {
            arguments.set_tid = (&raw const pid).addr() as u64;
            arguments.set_tid_size = 1;
        })
    })
}

/// Everything that a vfork child needs, made by its parent.
struct Start {
    vector: Vector,
}

extern "C" fn exec_self(start: *mut libc::c_void) -> i32 {
    // SAFETY: `vfork` passes a pointer to its `Start` and waits until this function has ended.
    let start = unsafe { &*start.cast::<Start>() };
    let path = c"/proc/self/exe".as_ptr();
    let failure = sys!(SYS_execve, path, start.vector.argv(), start.vector.envp());
    failure.err().map_or(0, |failure| failure.errno())
}

/// A child that shares the memory until it executes this program again.
fn vfork(words: Words<'_>) -> Done {
    let mut line = vec![OsString::from("actor")];
    line.extend_from_slice(words.0);
    let mut start = Start { vector: Vector::new(&line) };
    let mut stack = vec![0_u128; 4096];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the stack and `start` outlive the child's use: CLONE_VFORK holds this thread back
    // until the child executes or ends.
    let pid = unsafe { libc::clone(exec_self, top.cast(), flags, (&raw mut start).cast()) };
    let status = sys::wait(sys::outcome("clone", pid.into())? as i32)?;
    Ok(Report::Printed(libc::WEXITSTATUS(status) as u8))
}

fn thread(words: Words<'_>) -> Done {
    let code = std::thread::scope(|scope| scope.spawn(|| steps::run_line(words.0)).join());
    Ok(Report::Printed(exit_code(code.unwrap_or(ExitCode::FAILURE))))
}

fn thread_fork(words: Words<'_>) -> Done {
    let forked = std::thread::scope(|scope| scope.spawn(|| in_child(words.0, sys::fork)).join());
    forked.unwrap_or_else(|_| Err(Failure::call("thread", libc::EINVAL)))
}

/// A thread that goes on when the leader of its group has ended.
fn dead_leader(words: Words<'_>) -> Done {
    let line = words.0.to_vec();
    let leader = std::process::id();
    std::thread::spawn(move || {
        let stat = format!("/proc/self/task/{leader}/stat");
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z")) {
            std::thread::yield_now();
        }
        std::process::exit(exit_code(steps::run_line(&line)).into());
    });
    sys!(SYS_exit, 0)?;
    Err(Failure::call("exit", libc::EINVAL))
}
