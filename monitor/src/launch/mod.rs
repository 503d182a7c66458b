//! Starts a server so that nothing it does goes unseen, and stays out of its way.
//!
//! In: the command, the account, a cgroup. Out: a running server whose standard descriptors,
//! process group, signals and exit code are as if it had been started directly. The order is what
//! matters: the child waits while it is put into its cgroup and tagged, and the guard that ends
//! the tree when the monitor dies stands before the child may go on.

pub mod account;
pub mod cgroup;
mod child;
mod environment;
mod guard;
pub mod handed;
mod handle;
mod server;
pub mod signals;
mod tree;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork, getpid, pipe2},
};

pub use self::{
    account::Account,
    cgroup::Cgroup,
    environment::Environment,
    handle::Handle,
    server::{Ended, Root, Server},
    tree::{Tagged, Tree},
};
use self::{child::Step, guard::Guard};

/// Why a server could not be started. Nothing is left of it then.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The command holds a NUL byte.
    #[error("the command holds a NUL byte, which no program can be given")]
    NulInCommand,
    /// A system call of the launch failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What came of it.
        source: Errno,
    },
    /// The cgroup could not be used.
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    /// The instance could not be put under the kernel's watch.
    #[error("cannot put the server under watch: {0}")]
    Watch(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The child could not become the server.
    #[error("cannot {} before {} starts: {errno}", describe(*step), command.display())]
    Prepare {
        /// Which step.
        step: Step,
        /// The command's first word.
        command: OsString,
        /// What came of it.
        errno: Errno,
    },
    /// The command could not be executed.
    #[error("cannot run {}: {}", command.display(), explain_exec(*errno))]
    Exec {
        /// The command's first word.
        command: OsString,
        /// What came of it.
        errno: Errno,
    },
    /// The child ended without a word.
    #[error("the server's process ended before it could start {}", .0.display())]
    Vanished(OsString),
}

impl LaunchError {
    /// The exit code that `env` would give.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exec { errno: Errno::ENOENT, .. } => 127,
            Self::Exec { .. } => 126,
            _ => 125,
        }
    }
}

fn describe(step: Step) -> &'static str {
    match step {
        Step::Descriptors => "close the monitor's descriptors",
        Step::User => "become the calling user",
        Step::Protection => "bind the process to the monitor",
        Step::Exec => "execute",
    }
}

fn explain_exec(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "command not found, or the interpreter that it names is not there",
        Errno::EACCES => "not executable for this user",
        Errno::ENOEXEC => "not a program that this machine can execute",
        Errno::E2BIG => "its arguments and environment are too long",
        Errno::EPERM => "refused by the kernel",
        errno => errno.desc(),
    }
}

fn system(action: &'static str) -> impl FnOnce(Errno) -> LaunchError {
    move |source| LaunchError::System { action, source }
}

/// What is started.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// The command with its arguments.
    pub command: &'a [OsString],
    /// What it is given.
    pub environment: &'a Environment,
    /// As whom it runs.
    pub account: &'a Account,
    /// The signal state that the monitor was started with.
    pub inherited: signals::Inherited,
}

/// Starts a program in the tree's cgroup. `watch` gets the child's process number while the child waits,
/// and puts it under the kernel's watch; when it fails nothing is executed.
///
/// Must be called from the process's only thread, which must live as long as the server does: the
/// server dies with the thread that started it.
pub fn start<E>(
    program: Program<'_>,
    tree: Tree,
    watch: impl FnOnce(Pid) -> Result<(), E>,
) -> Result<Server, LaunchError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let guard = Guard::start(&tree).map_err(system("start the guard process"))?;
    let waiting = Waiting::fork(program)?;
    tree.add(waiting.pid)?;
    watch(waiting.pid).map_err(|error| LaunchError::Watch(error.into()))?;
    Ok(Server::new(waiting.let_go()?, guard, tree))
}

/// Replaces the monitor's own standard input and output by `null` once the server has them: the
/// client must see the end of the server's output when the server closes it.
pub fn let_go_of_streams(null: &File) -> Result<(), LaunchError> {
    nix::unistd::dup2_stdin(null)
        .and_then(|()| nix::unistd::dup2_stdout(null))
        .map_err(system("let go of standard input and output"))
}

/// The child before it executes. Dropped, it is killed and waited for.
pub struct Waiting {
    pid: Pid,
    command: OsString,
    go: Option<File>,
    report: File,
    running: bool,
}

impl Waiting {
    /// Forks the child that is to become the server; it waits.
    ///
    /// # Errors
    /// When the command cannot be one, or the kernel refuses.
    pub fn fork(program: Program<'_>) -> Result<Self, LaunchError> {
        let plan = child::Plan::new(program)?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(system("make a pipe"));
        let (go_read, go_write): (OwnedFd, OwnedFd) = pipe()?;
        let (report_read, report_write) = pipe()?;
        let (argv, envp) = (plan.argv(), plan.envp());
        let monitor = getpid();
        // SAFETY: the child calls only `child::run`, which makes system calls on prepared memory.
        match unsafe { fork() }.map_err(system("fork"))? {
            ForkResult::Child => child::run(&plan, &argv, &envp, &go_read, &report_write, monitor),
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                command: program.command.first().cloned().unwrap_or_default(),
                go: Some(go_write.into()),
                report: report_read.into(),
                running: false,
            }),
        }
    }

    /// Its process number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the child go on, and waits until it has become the server.
    ///
    /// # Errors
    /// When it cannot.
    pub fn let_go(mut self) -> Result<Root, LaunchError> {
        let command = self.command.clone();
        let vanished = |_: io::Error| LaunchError::Vanished(command.clone());
        if let Some(mut go) = self.go.take() {
            go.write_all(b"g").map_err(vanished)?;
        }
        let mut report = Vec::with_capacity(child::REPORT_BYTES);
        self.report.read_to_end(&mut report).map_err(vanished)?;
        match child::parse_report(&report) {
            // Exec closed the pipe. A child killed before it looks the same, and its end is then
            // reported as the server's.
            None if report.is_empty() => {
                self.running = true;
                Ok(Root::new(self.pid))
            }
            None => Err(LaunchError::Vanished(command)),
            Some((Step::Exec, errno)) => Err(LaunchError::Exec { command, errno }),
            Some((step, errno)) => Err(LaunchError::Prepare { step, command, errno }),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.running {
            return;
        }
        drop(self.go.take());
        // Both fail only when the child has ended already.
        let _ = signals::send(self.pid, libc::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}
