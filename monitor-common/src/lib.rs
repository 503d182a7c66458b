//! What the kernel programs and the agent share, and nothing else: the records of the ring
//! buffers, the layout of the policy tables, and the functions that match and decide. The kernel
//! runs them in its hooks, userspace runs the same code for `explain`, replay and tests.
//!
//! Wire types hold fixed-width integers and byte arrays only, without implicit padding.
#![cfg_attr(not(test), no_std)]

pub mod automaton;
pub mod file;
pub mod limits;
pub mod network;
pub mod offsets;
pub mod policy;
pub mod record;
pub mod syscall;

/// Marks types that userspace may copy into and out of maps, and asserts their layout.
macro_rules! wire {
    ($($type:ty = $size:literal),* $(,)?) => { $(
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: a `repr(C)` struct of integers and byte arrays without padding; every bit
        // pattern is a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )* };
}
pub(crate) use wire;
