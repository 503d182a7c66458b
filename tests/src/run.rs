//! One run of `mcp-monitor run`: how it is started, and what came of it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::events::Events;
use crate::lab::{Lab, Mode, SERVER};

/// Longer than any honest run takes, on a virtual machine without hardware help, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// Environment variable that marks every process of a test, so that none is left behind.
pub(crate) const MARKER: &str = "MCP_MONITOR_TEST";

/// A run of the monitor, made by [`Lab::run`].
#[must_use = "nothing runs before `actor`, `command` or `start`"]
pub struct Run<'a> {
    lab: &'a Lab,
    command: Command,
    events: PathBuf,
    stdin: Stdio,
}

impl<'a> Run<'a> {
    pub(crate) fn new(lab: &'a Lab, mode: Mode, events: PathBuf, has_policy: bool) -> Self {
        let mut command = Command::new(lab.monitor().unwrap_or_else(|_| "mcp-monitor".into()));
        command.args(["run", "--mode", &mode.to_string()]);
        command.args(["--backend", &lab.backend().to_string()]);
        command.arg("--home").arg(lab.home());
        command.arg("--events").arg(&events).arg("--key").arg(lab.key());
        if has_policy {
            command.args(["--server", SERVER]).arg("--rules").arg(lab.rules());
        }
        command.env("HOME", lab.home()).env("TMPDIR", "/tmp").env(MARKER, lab.marker());
        for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command.current_dir(lab.home());
        Self { lab, command, events, stdin: Stdio::null() }
    }

    /// Further arguments of `mcp-monitor run`, before the command.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.command.args(options);
        self
    }

    /// An environment variable of the monitor, and so of the server.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The server's standard input. It is empty otherwise.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// A file that the monitor is started with as descriptor 9.
    pub fn left_open(mut self, file: &Path) -> Result<Self> {
        let file = File::open(file)?;
        // SAFETY: dup2 takes numbers, and may be called between fork and exec.
        let leave = move || match unsafe { libc::dup2(file.as_raw_fd(), 9) } {
            9 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        // SAFETY: the closure calls nothing else.
        unsafe { self.command.pre_exec(leave) };
        Ok(self)
    }

    /// Runs the `actor` with these arguments to its end.
    pub fn actor<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Result<Outcome> {
        self.start_actor(arguments)?.finish()
    }

    /// Starts the `actor` with these arguments.
    pub fn start_actor<S: AsRef<OsStr>>(
        self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Running> {
        let actor = self.lab.actor()?.into_os_string();
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.start(std::iter::once(actor).chain(arguments))
    }

    /// Runs a command to its end.
    pub fn command<S: AsRef<OsStr>>(self, command: impl IntoIterator<Item = S>) -> Result<Outcome> {
        self.start(command)?.finish()
    }

    /// Starts a command, for tests that act while it runs.
    pub fn start<S: AsRef<OsStr>>(
        mut self,
        command: impl IntoIterator<Item = S>,
    ) -> Result<Running> {
        self.lab.monitor()?;
        let stdout = self.events.with_extension("stdout");
        let stderr = self.events.with_extension("stderr");
        let what: Vec<OsString> = command.into_iter().map(|part| part.as_ref().into()).collect();
        self.command.arg("--").args(&what);
        self.command.stdin(self.stdin);
        // Files, not pipes: whoever keeps a pipe open would keep us waiting for its end.
        self.command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = self.command.spawn().context("cannot start mcp-monitor")?;
        let started = Instant::now();
        Ok(Running { child, started, what, stdout, stderr, events: self.events })
    }
}

/// A monitor that runs. Dropping it ends the monitor and, by the monitor's own promise, its tree.
pub struct Running {
    child: Child,
    started: Instant,
    what: Vec<OsString>,
    stdout: PathBuf,
    stderr: PathBuf,
    events: PathBuf,
}

impl Running {
    /// The monitor's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The server's standard input, if [`Run::stdin`] asked for a pipe; dropping it closes it.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What the server has written so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What the monitor and the server have said so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// The events written so far.
    pub fn events(&self) -> Result<Events> {
        Events::read(&self.events)
    }

    /// Waits until the server has written this, which an actor does when it is ready.
    pub fn wait_for(&mut self, wanted: &str) -> Result<()> {
        while !self.stdout().contains(wanted) {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended ({status}) before it said `{wanted}`: {}", self.stderr());
            }
            self.check_time()?;
        }
        Ok(())
    }

    /// Sends the monitor a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: kill only takes numbers; the child is not reaped before `finish` or drop.
        if unsafe { libc::kill(self.child.id() as i32, signal) } != 0 {
            bail!("cannot signal mcp-monitor: {}", std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Result<Outcome> {
        drop(self.child.stdin.take());
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            self.check_time()?;
        };
        let events = Events::read(&self.events)
            .with_context(|| format!("mcp-monitor ended ({status}): {}", self.stderr()))?;
        Ok(Outcome { status, stdout: self.stdout(), stderr: self.stderr(), events })
    }

    fn check_time(&self) -> Result<()> {
        if self.started.elapsed() > PATIENCE {
            bail!("{:?} did not end in {PATIENCE:?}: {}", self.what, self.stderr());
        }
        thread::sleep(Duration::from_millis(10));
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test waited for it; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a run.
pub struct Outcome {
    /// The monitor's own end.
    pub status: ExitStatus,
    /// What the server wrote.
    pub stdout: String,
    /// What the monitor and the server said.
    pub stderr: String,
    /// What was recorded; empty if the monitor did not get as far as a file.
    pub events: Events,
}

impl Outcome {
    /// The monitor's exit code: the server's own, or 128 and its signal. A monitor that was itself
    /// ended by a signal gives the negative signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or_default())
    }
}

/// All of it, for the messages of failed assertions.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        writeln!(f, "stdout: {}\nstderr: {}", self.stdout.trim_end(), self.stderr.trim_end())?;
        write!(f, "{}", self.events)
    }
}

/// Waits until something holds; an error that names it when it takes longer than anything honest.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            bail!("after {PATIENCE:?} still not: {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn text(path: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
