//! Working memory of a hook.
//!
//! A per-CPU buffer is not private: a hook can be preempted, and another task's hook then runs on
//! the same CPU. So a slot is claimed with an atomic flag and released when the claim is dropped.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_log_ebpf::warn;
use monitor_common::{
    limits::{PATH_MAX, SCRATCH_SLOTS_PER_CPU},
    record::{Record, counter},
};

use crate::{atomic, emit, maps::SCRATCH};

/// Room for one string of a record while it is built; the last one, the arguments, has more.
pub const STRING_BYTES: usize = PATH_MAX + 8;
/// Where each string stands while the record is built.
pub const STRING_AT: [u32; 4] =
    [0, STRING_BYTES as u32, 2 * STRING_BYTES as u32, 3 * STRING_BYTES as u32];
/// Bytes behind `record` in [`Scratch`]: the strings, and slack so that masked offsets stay inside.
const STRINGS_BYTES: usize = 32768 + 16384;
/// Room of the path walk: it fills from the end and may overrun by one name.
const WALK_BYTES: usize = PATH_MAX + 512;

/// One slot.
#[repr(C)]
pub struct Scratch {
    claimed: u64,
    /// Position of this slot in its map, for functions that the verifier checks by themselves and
    /// that can be handed numbers only.
    pub index: u64,
    /// Where an inode is read to: `i_mode` to `i_generation`.
    pub inode: [u64; 16],
    /// The record; its strings follow without a gap when it is emitted.
    pub record: Record,
    /// Strings at [`STRING_AT`].
    pub strings: [u8; STRINGS_BYTES],
    /// Where paths are walked.
    pub walk: [u8; WALK_BYTES],
}

impl Scratch {
    /// The slot's index, for a function that finds the slot by itself. What has been written is in
    /// memory when it is called, and what it writes is read from memory afterwards: through an
    /// exclusive reference the compiler would otherwise assume that nobody else can.
    #[inline(always)]
    pub fn lend(&mut self) -> u32 {
        self.settle();
        self.index as u32
    }

    /// The end of a loan: see [`Self::lend`].
    #[inline(always)]
    pub fn settle(&mut self) {
        let mut slot = core::ptr::from_mut(self);
        // SAFETY: copies a register to itself; to the compiler it may touch all that `slot` leads
        // to.
        unsafe { asm!("{0} = {0}", inout(reg) slot) };
        let _ = slot;
    }
}

/// A claimed slot.
pub struct Claim {
    slot: *mut Scratch,
}

impl Claim {
    /// Claims a slot of this CPU; `None`, counted, when all are in use.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        // SAFETY: the helper has no preconditions.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let mut i = 0;
        while i < SCRATCH_SLOTS_PER_CPU {
            let index = cpu * SCRATCH_SLOTS_PER_CPU + i;
            if let Some(slot) = SCRATCH.get_ptr_mut(index) {
                // SAFETY: a map value lives as long as the program; the flag is only ever
                // accessed atomically.
                if unsafe { atomic::swap(core::ptr::addr_of_mut!((*slot).claimed), 1) } == 0 {
                    // SAFETY: the slot is ours now.
                    unsafe { (*slot).index = index as u64 };
                    return Some(Self { slot });
                }
            }
            i += 1;
        }
        emit::count(counter::SCRATCH_EXHAUSTED);
        warn!((), "no scratch slot is free on cpu {}", cpu);
        None
    }

    /// The slot.
    #[inline(always)]
    pub fn scratch(&mut self) -> &mut Scratch {
        // SAFETY: the flag makes this hook the only user until the claim is dropped.
        unsafe { &mut *self.slot }
    }
}

impl Drop for Claim {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { atomic::swap(core::ptr::addr_of_mut!((*self.slot).claimed), 0) };
    }
}
