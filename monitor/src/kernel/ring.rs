//! The ring buffers, as the consumer sees them.

use std::{
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::{MapData, RingBuf};

/// The two rings.
pub struct Rings {
    /// Ordinary events.
    pub events: Ring,
    /// Violations.
    pub violations: Ring,
}

/// One ring; its descriptor becomes readable when the kernel programs ask for attention.
pub struct Ring(pub(super) RingBuf<MapData>);

impl Ring {
    /// The next record, `None` when the ring is empty.
    #[expect(clippy::should_implement_trait, reason = "a record borrows the ring")]
    pub fn next(&mut self) -> Option<impl Deref<Target = [u8]> + '_> {
        self.0.next()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
