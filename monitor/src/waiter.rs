//! What the watching thread of `run` and of the agent waits on, and for how long.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{kernel::Rings, pipeline::Look};

/// Longest time without a look at the ordinary ring while it fills.
pub const BUSY: Duration = Duration::from_millis(20);
/// Looks at an empty ring after which it counts as idle.
const QUIET: u32 = 50;
/// Longest wait while records wait for earlier ones of the other ring.
const HOLDING: Duration = Duration::from_millis(5);

/// Waits on the rings and on whatever else is added.
pub struct Waiter {
    epoll: Epoll,
    quiet: u32,
}

impl Waiter {
    /// Waits on the rings.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn new(rings: &Rings) -> io::Result<Self> {
        let Rings { events, violations } = rings;
        let waiter = Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, quiet: 0 };
        waiter.add(violations.as_fd())?;
        // By edge: it is readable whenever a record is in it, but wakes only when it fills.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        waiter.epoll.add(events.as_fd(), EpollEvent::new(edge, 0))?;
        Ok(waiter)
    }

    /// Waits on this too, until it is closed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
    }

    /// Waits until there is something to do: no longer than `idle` once the rings have been quiet
    /// for a while.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&mut self, look: Look, idle: Duration) -> io::Result<()> {
        self.quiet = if look.any { 0 } else { self.quiet.saturating_add(1) };
        let patience = match look {
            Look { more: true, .. } => Duration::ZERO,
            Look { holds: true, .. } => HOLDING,
            _ if self.quiet < QUIET => idle.min(BUSY),
            _ => idle,
        };
        let mut events = [EpollEvent::empty(); 8];
        let timeout = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::ZERO);
        match self.epoll.wait(&mut events, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
