//! A running server: its end, its stops, the signals meant for it, and the end of its tree.

use std::{fs, io};

use nix::{
    errno::Errno,
    sys::{signal::Signal, wait::waitpid},
    unistd::Pid,
};

use super::{
    guard::Guard,
    signals::{self, Signals},
    tree::Tree,
};

/// Capabilities that can undo enforcement, by number.
const UNDOING: [(u32, &str); 4] =
    [(16, "CAP_SYS_MODULE"), (17, "CAP_SYS_RAWIO"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")];

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// The guard was killed while the server ran; the tree was ended with it.
    Unguarded,
}

impl Ended {
    /// The code that `run` exits with.
    pub fn exit_code(self) -> u8 {
        match self {
            // Exit codes have eight bits.
            Self::Exited(code) => code as u8,
            Self::Killed(signal) => (128 + signal) as u8,
            Self::Unguarded => 125,
        }
    }
}

/// A server that runs. Dropped, its whole tree is killed and its cgroup removed.
///
/// The fields' order is the order in which they are dropped: the tree ends before the guard.
#[derive(Debug)]
pub struct Server {
    root: Root,
    tree: Tree,
    guard: Guard,
}

impl Server {
    pub(super) fn new(root: Root, guard: Guard, tree: Tree) -> Self {
        Self { root, tree, guard }
    }

    /// Process number of the tree's root.
    pub fn pid(&self) -> Pid {
        self.root.pid
    }

    /// Process number of the guard.
    pub fn guard_pid(&self) -> Pid {
        self.guard.pid()
    }

    /// Everything that belongs to the server.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Capabilities of the root process with which it could undo enforcement.
    pub fn undoing_capabilities(&self) -> io::Result<Vec<&'static str>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        Ok(undoing(&status))
    }

    /// Handles the signals that have arrived; the server's end when it has come.
    pub fn handle(&mut self, signals: &Signals) -> io::Result<Option<Ended>> {
        let tree = &self.tree;
        let ended = self.root.handle(
            signals,
            |sender| tree.contains(sender),
            // Nobody reads the tree's events while we stand still.
            |frozen| tree.freeze(frozen),
        )?;
        if ended.is_none() && !self.root.reaped && self.guard.has_died() {
            // Without its guard the tree would outlive a killed monitor: it ends here. Fails only
            // when nothing is left to end.
            let _ = self.tree.kill();
            self.root.end();
            return Ok(Some(Ended::Unguarded));
        }
        Ok(ended)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.root.reaped {
            // As above.
            let _ = self.tree.kill();
        }
    }
}

/// The process that a tree began with, which is our child. Dropped, it is killed.
#[derive(Debug)]
pub struct Root {
    pid: Pid,
    reaped: bool,
}

impl Root {
    pub(super) fn new(pid: Pid) -> Self {
        Self { pid, reaped: false }
    }

    /// Handles the signals that have arrived; the end when it has come. `is_inside` tells who
    /// belongs to the tree; `freeze` stops and continues it while we are stopped ourselves.
    pub fn handle(
        &mut self,
        signals: &Signals,
        is_inside: impl Fn(Pid) -> bool,
        freeze: impl Fn(bool) -> io::Result<()>,
    ) -> io::Result<Option<Ended>> {
        let mut ended = None;
        while let Some(signal) = signals.next()? {
            let number = signal.ssi_signo as i32;
            if number == libc::SIGCHLD {
                ended = ended.or(self.look(&freeze)?);
                continue;
            }
            let sender = Pid::from_raw(signal.ssi_pid as i32);
            let from_tree = || is_inside(sender);
            if !self.reaped && signals::is_for_server(number, signal.ssi_code, from_tree) {
                // Fails when the server has just ended, which the next SIGCHLD tells.
                let _ = signals::send(self.pid, number);
            }
        }
        Ok(ended)
    }

    /// What has become of the child.
    fn look(&mut self, freeze: &impl Fn(bool) -> io::Result<()>) -> io::Result<Option<Ended>> {
        if self.reaped {
            return Ok(None);
        }
        while let Some(status) = poll_child(self.pid)? {
            if libc::WIFEXITED(status) {
                return Ok(Some(self.reap(Ended::Exited(libc::WEXITSTATUS(status)))));
            }
            if libc::WIFSIGNALED(status) {
                return Ok(Some(self.reap(Ended::Killed(libc::WTERMSIG(status)))));
            }
            if let Ok(signal) = Signal::try_from(libc::WSTOPSIG(status)) {
                self.stop_with(signal, freeze)?;
            }
        }
        Ok(None)
    }

    fn reap(&mut self, ended: Ended) -> Ended {
        self.reaped = true;
        ended
    }

    /// Kills it and waits for it.
    fn end(&mut self) {
        // Both fail only when nothing is left to end.
        let _ = signals::send(self.pid, libc::SIGKILL);
        let _ = waitpid(self.pid, None);
        self.reaped = true;
    }

    /// Stops with the server, so that the shell sees a stopped job.
    fn stop_with(
        &self,
        signal: Signal,
        freeze: &impl Fn(bool) -> io::Result<()>,
    ) -> io::Result<()> {
        // Nobody would continue a monitor that no shell started: a server that merely stops
        // itself is left at it.
        if signal == Signal::SIGSTOP && fs::File::open("/dev/tty").is_err() {
            return Ok(());
        }
        freeze(true)?;
        signals::stop_self(signal);
        freeze(false)?;
        match signals::send(self.pid, libc::SIGCONT) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if !self.reaped {
            self.end();
        }
    }
}

/// A child's wait status when it has changed. Not nix's, which knows no real-time signals.
fn poll_child(pid: Pid) -> Result<Option<i32>, Errno> {
    let mut status = 0;
    let flags = libc::WNOHANG | libc::WUNTRACED;
    // SAFETY: the status is a live local.
    let changed = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, flags) };
    Ok((Errno::result(changed)? != 0).then_some(status))
}

/// Names the capabilities in a `/proc/PID/status` with which enforcement can be undone.
fn undoing(status: &str) -> Vec<&'static str> {
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    UNDOING.iter().filter(|(bit, _)| held >> bit & 1 == 1).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_servers_own() {
        assert_eq!(Ended::Exited(0).exit_code(), 0);
        assert_eq!(Ended::Exited(42).exit_code(), 42);
        assert_eq!(Ended::Killed(libc::SIGTERM).exit_code(), 143);
        assert_eq!(Ended::Killed(libc::SIGKILL).exit_code(), 137);
    }

    #[test]
    fn a_root_server_can_undo_enforcement() {
        assert_eq!(
            undoing("Name:\tnode\nCapPrm:\t000001ffffffffff\n"),
            ["CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_ADMIN", "CAP_BPF"]
        );
        assert_eq!(undoing("CapPrm:\t0000000000200000\n"), ["CAP_SYS_ADMIN"]);
    }

    #[test]
    fn a_server_without_capabilities_cannot() {
        assert!(undoing("Name:\tnode\nCapPrm:\t0000000000000000\n").is_empty());
        assert!(undoing("").is_empty());
    }
}
