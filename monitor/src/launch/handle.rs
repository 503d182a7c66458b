//! A process by a descriptor of it (pidfd, 5.3).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::{libc, unistd::Pid};

/// What is done by it is done to this process or to none: its number may come to mean another one.
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    /// Opens a process.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn open(tgid: Pid) -> io::Result<Self> {
        // SAFETY: takes integers.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, tgid.as_raw(), 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor as i32) }))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a descriptor of our own; no siginfo is passed.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, none, 0)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
