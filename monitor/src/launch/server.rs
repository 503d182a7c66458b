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
    pid: Pid,
    tree: Tree,
    guard: Guard,
    reaped: bool,
}

impl Server {
    pub(super) fn new(pid: Pid, guard: Guard, tree: Tree) -> Self {
        Self { pid, tree, guard, reaped: false }
    }

    /// Process number of the tree's root.
    pub fn pid(&self) -> Pid {
        self.pid
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
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        Ok(undoing(&status))
    }

    /// Handles the signals that have arrived; the server's end when it has come.
    pub fn handle(&mut self, signals: &Signals) -> io::Result<Option<Ended>> {
        let mut ended = None;
        while let Some(signal) = signals.next()? {
            let number = signal.ssi_signo as i32;
            if number == libc::SIGCHLD {
                ended = ended.or(self.look()?);
                continue;
            }
            let sender = Pid::from_raw(signal.ssi_pid as i32);
            let from_tree = || self.tree.cgroup().contains(sender);
            if !self.reaped && signals::is_for_server(number, signal.ssi_code, from_tree) {
                // Fails when the server has just ended, which the next SIGCHLD tells.
                let _ = signals::send(self.pid, number);
            }
        }
        Ok(ended)
    }

    /// What has become of the child and the guard.
    fn look(&mut self) -> io::Result<Option<Ended>> {
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
                self.stop_with(signal)?;
            }
        }
        if self.guard.has_died() {
            // Without its guard the tree would outlive a killed monitor: it ends here.
            self.end_root();
            return Ok(Some(self.reap(Ended::Unguarded)));
        }
        Ok(None)
    }

    /// Kills the tree with its root, which is this process's child and must be waited for.
    fn end_root(&self) {
        // All three fail only when nothing is left to end.
        let _ = self.tree.kill();
        let _ = signals::send(self.pid, libc::SIGKILL);
        let _ = waitpid(self.pid, None);
    }

    fn reap(&mut self, ended: Ended) -> Ended {
        self.reaped = true;
        ended
    }

    /// Stops with the server, so that the shell sees a stopped job; until it is continued the
    /// whole tree is frozen, because nobody reads its events meanwhile.
    fn stop_with(&self, signal: Signal) -> io::Result<()> {
        // Nobody would continue a monitor that no shell started: a server that merely stops
        // itself is left at it.
        if signal == Signal::SIGSTOP && fs::File::open("/dev/tty").is_err() {
            return Ok(());
        }
        self.tree.cgroup().freeze(true)?;
        signals::stop_self(signal);
        self.tree.cgroup().freeze(false)?;
        match signals::send(self.pid, libc::SIGCONT) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.reaped {
            self.end_root();
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
