//! Signals while a server runs: who gets which.
//!
//! The monitor blocks every signal and reads them from a descriptor and handles none, so that what
//! its caller chose to ignore stays ignored in the server. What the terminal sends goes to the whole
//! foreground process group, the server among it, and is not sent on; what a process sends to the
//! monitor was meant for the server, and is.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd, siginfo},
    },
    unistd::Pid,
};

/// Faults of the monitor itself: blocking them would only hide what happened.
const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
];

/// What the server inherits of the signal state that the monitor was started with.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    /// Blocked signals.
    pub mask: SigSet,
    /// SIGCHLD was ignored, which the monitor cannot afford.
    pub ignores_children: bool,
}

/// The monitor's signals, blocked and readable. Dropping it restores the mask.
pub struct Signals {
    descriptor: SignalFd,
    inherited: Inherited,
}

impl Signals {
    /// Blocks the signals of the calling thread, which must be the only one.
    pub fn block() -> Result<Self, Errno> {
        let mut all = SigSet::all();
        for fault in FAULTS {
            all.remove(fault);
        }
        let descriptor =
            SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut mask))?;
        // Ignored children are not reported and leave no exit code.
        let ignores_children = set_disposition(Signal::SIGCHLD, libc::SIG_DFL) == libc::SIG_IGN;
        Ok(Self { descriptor, inherited: Inherited { mask, ignores_children } })
    }

    /// What the server is to start with.
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// A signal by which the monitor was asked to end before there was a server to send it to.
    pub fn asked_to_end(&self) -> io::Result<Option<i32>> {
        const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP];
        while let Some(signal) = self.next()? {
            let number = signal.ssi_signo as i32;
            if ENDING.contains(&number) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The next signal that has arrived.
    pub fn next(&self) -> io::Result<Option<siginfo>> {
        Ok(self.descriptor.read_signal()?)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A mask that was valid when it was read is valid now.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.inherited.mask), None);
    }
}

/// Sets a signal's default or ignored disposition, and returns what it was.
fn set_disposition(signal: Signal, disposition: libc::sighandler_t) -> libc::sighandler_t {
    // SAFETY: only ever called with SIG_DFL, SIG_IGN or what an earlier call returned, in a
    // program that installs no handlers.
    unsafe { libc::signal(signal as i32, disposition) }
}

/// Whether a signal that reached the monitor is for the server.
///
/// `from_tree` tells whether its sender belongs to the server's own tree: a server that signals
/// its whole process group must not be hit twice.
pub fn is_for_server(signal: i32, code: i32, from_tree: impl FnOnce() -> bool) -> bool {
    // Codes above 0 are the kernel's own: the terminal, an ended child, a timer.
    signal != libc::SIGCHLD && code <= 0 && !from_tree()
}

/// Sends a signal, real-time ones included.
pub fn send(target: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes integers only; the target is a child that has not been waited for, so its
    // number is still its own.
    Errno::result(unsafe { libc::kill(target.as_raw(), signal) }).map(drop)
}

/// Stops the monitor the way its server was stopped, until it is continued.
pub fn stop_self(signal: Signal) {
    let mut only = SigSet::empty();
    only.add(signal);
    if signal != Signal::SIGSTOP {
        // Discards what the terminal has sent already, lest the monitor stop twice.
        set_disposition(signal, libc::SIG_IGN);
        set_disposition(signal, libc::SIG_DFL);
    }
    // None of these fails for a valid signal.
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None);
    let _ = nix::sys::signal::raise(signal);
    // Stopped here, until SIGCONT.
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&only), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM_PROCESS: i32 = libc::SI_USER;
    const FROM_TERMINAL: i32 = libc::SI_KERNEL;

    #[test]
    fn a_process_that_terminates_the_monitor_means_the_server() {
        assert!(is_for_server(libc::SIGTERM, FROM_PROCESS, || false));
        assert!(is_for_server(libc::SIGINT, FROM_PROCESS, || false));
        assert!(is_for_server(libc::SIGRTMIN() + 3, libc::SI_QUEUE, || false));
    }

    #[test]
    fn what_the_terminal_sends_has_reached_the_server_already() {
        assert!(!is_for_server(libc::SIGINT, FROM_TERMINAL, || false));
        assert!(!is_for_server(libc::SIGTSTP, FROM_TERMINAL, || false));
    }

    #[test]
    fn the_servers_own_signals_are_not_sent_back_to_it() {
        assert!(!is_for_server(libc::SIGTERM, FROM_PROCESS, || true));
    }

    #[test]
    fn an_ended_child_is_no_message_for_the_server() {
        assert!(!is_for_server(libc::SIGCHLD, FROM_PROCESS, || false));
    }
}
