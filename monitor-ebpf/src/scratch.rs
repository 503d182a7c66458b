//! Working memory of a hook.
//!
//! A per-CPU buffer is not private: a hook can be preempted, and another task's hook then runs on
//! the same CPU. So a slot is claimed with an atomic flag and released when the claim is dropped.
//! There are more slots than processors: under `preempt=full` every runnable task can be in the
//! middle of a hook.

use core::{arch::asm, ffi::c_void, hint::black_box, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_loop};
use aya_log_ebpf::warn;
use monitor_common::{
    limits::{PATH_MAX, SCRATCH_SLOTS},
    policy::TABLES,
    record::{Record, counter},
};

use crate::{
    atomic, emit,
    kernel_field::Address,
    maps::SCRATCH,
    path::{Dentry, Walk},
    policy::Progress,
};

/// Room for one string of a record while it is built; the last one, the arguments, has more.
pub const STRING_BYTES: usize = PATH_MAX + 8;
/// Where each string stands while the record is built.
pub const STRING_AT: [u32; 4] =
    [0, STRING_BYTES as u32, 2 * STRING_BYTES as u32, 3 * STRING_BYTES as u32];
/// Bytes behind `record` in [`Scratch`]: the strings, and slack so that masked offsets stay inside.
const STRINGS_BYTES: usize = 32768 + 16384;
/// Room for a path that is written from the end, and may overrun by one name.
const BACKWARDS_BYTES: usize = PATH_MAX + 512;

/// A length that is known to stay below `MASK`, in a way that the verifier of 6.1 can follow: the
/// compiler, which knows as well, would drop the mask.
#[inline(always)]
pub fn masked<const MASK: u32>(length: u32) -> u32 {
    const { assert!((MASK + 1).is_power_of_two()) };
    black_box(length) & MASK
}

/// Number of slots, [`SCRATCH_SLOTS`] or more; the loader sets it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static SLOTS: u32 = SCRATCH_SLOTS;

/// One slot.
#[repr(C)]
pub struct Scratch {
    claimed: u64,
    /// Position of this slot in its map, for functions that the verifier checks by themselves and
    /// that can be handed numbers only.
    pub index: u64,
    /// The dentry that the last walk began at.
    pub entry: Dentry,
    /// The walk that is under way.
    pub walk: Walk,
    /// The match that is under way.
    pub tables: [Progress; TABLES],
    /// Whether the last walk ended in a mount that a stacked file system keeps for itself.
    pub is_private: u64,
    /// A dentry whose ancestors' labels the last walk did not come by, 0 when there is none.
    pub unseen: Address,
    /// Where inodes and file systems are copied to.
    pub words: MaybeUninit<[u64; 11]>,
    /// The record; its strings follow without a gap when it is emitted.
    pub record: Record,
    /// Strings at [`STRING_AT`].
    pub strings: [u8; STRINGS_BYTES],
    /// Where walks write paths, from the end.
    pub backwards: [u8; BACKWARDS_BYTES],
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

#[repr(C)]
struct Search {
    first: u32,
    /// Position of the claimed slot and one more, 0 while there is none.
    found: u32,
}

#[inline(never)]
extern "C" fn try_slot(index: u64, search: *mut Search) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `claim_slot` gave it.
    let search = unsafe { &mut *search };
    // SAFETY: a static integer; volatile because the loader sets it.
    let slots = unsafe { core::ptr::read_volatile(core::ptr::addr_of!(SLOTS)) };
    let at = search.first.wrapping_add(index as u32);
    let at = if at >= slots { at.wrapping_sub(slots) } else { at };
    let Some(slot) = SCRATCH.get_ptr_mut(at) else { return 0 };
    // SAFETY: a map value lives as long as the program; the flag is only ever accessed atomically.
    if unsafe { atomic::swap(core::ptr::addr_of_mut!((*slot).claimed), 1) } != 0 {
        return 0;
    }
    search.found = at + 1;
    1
}

/// Claims a slot, this CPU's own if it is free; its position and one more, 0 when all are in use.
///
/// A global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_slot() -> u32 {
    // SAFETY: the helper has no preconditions.
    let first = unsafe { bpf_get_smp_processor_id() };
    let mut search = Search { first, found: 0 };
    if try_slot(0, &mut search) == 0 {
        // SAFETY: the callback and its context match.
        unsafe {
            bpf_loop(
                core::ptr::read_volatile(core::ptr::addr_of!(SLOTS)),
                try_slot as *mut c_void,
                core::ptr::addr_of_mut!(search).cast::<c_void>(),
                0,
            );
        }
    }
    // SAFETY: a local; volatile because the compiler does not see the callback write.
    unsafe { core::ptr::read_volatile(core::ptr::addr_of!(search.found)) }
}

impl Claim {
    /// Claims a slot; `None`, counted, when all are in use.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        let index = claim_slot().wrapping_sub(1);
        let Some(slot) = SCRATCH.get_ptr_mut(index) else {
            emit::count(counter::SCRATCH_EXHAUSTED);
            warn!((), "no scratch slot is free");
            return None;
        };
        // SAFETY: the slot is ours now.
        unsafe { (*slot).index = index as u64 };
        Some(Self { slot })
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
