//! Arguments of a program against those that its rules name: the walk of
//! [`monitor_common::automaton::accepts_vector`] through the strings of a record.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use monitor_common::{
    automaton::{self, Cells as _, DEAD, START},
    limits::ARGV_MAX,
    policy::class,
    record::{ARGV, PATH, flags},
};

use crate::{
    instance::Subject,
    maps::{POLICIES, SCRATCH},
    policy::{self, KernelCells},
    scratch::{STRING_AT, Scratch},
};

/// Words of the longest argument vector; a path has fewer.
const WORDS: usize = ARGV_MAX / 8;

/// Judges a program that falls in `classes` once its path and arguments stand in the record.
#[inline(always)]
pub fn judge(scratch: &mut Scratch, subject: &Subject, classes: u32) {
    let pathless = scratch.record.flags & (flags::TRUNCATED | flags::FOREIGN) != 0;
    if classes & class::ARGUMENTS == 0 || pathless {
        return;
    }
    // What exceeds the bound, or cannot be read, is named by no rule.
    let whole = scratch.record.flags & (flags::ARGV_TRUNCATED | flags::UNREADABLE) == 0;
    if whole && is_named(scratch, subject.slot) {
        scratch.record.flags |= flags::NAMED_ARGUMENTS;
        return;
    }
    let classes = classes | scratch.record.labels;
    policy::judge_arguments(&mut scratch.record, subject, classes);
}

/// Whether the policy in `slot` names the arguments in the record, for the path in the record that
/// has been classified before.
#[inline(always)]
pub fn is_named(scratch: &mut Scratch, slot: u32) -> bool {
    outcome(scratch, slot) == ACCEPTED
}

/// What came of a walk: nothing that follows could be accepted.
pub const REFUSED: u32 = 0;
/// Not accepted, and could still be if more followed.
pub const OPEN: u32 = 1;
/// Accepted.
pub const ACCEPTED: u32 = 2;

/// What comes of the path in the record, behind which a NUL stands, and the arguments in it.
#[inline(always)]
pub fn outcome(scratch: &mut Scratch, slot: u32) -> u32 {
    let path = scratch.record.lengths[PATH] as u32 & 0xfff;
    let arguments = scratch.record.lengths[ARGV] as u32 & 0x7fff;
    walk_in_slot(scratch.lend(), path << 16 | arguments, slot)
}

/// A string on its way through the table.
#[repr(C)]
struct Walk {
    text: *const u64,
    length: u64,
    cells: KernelCells,
    base: u64,
    state: u64,
}

#[inline(never)]
extern "C" fn eat(index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `walk_in_slot` gave it.
    let walk = unsafe { &mut *walk };
    // SAFETY: behind the beginning of either string, the slot has that many words and more.
    let word = unsafe { walk.text.add(index as usize & (WORDS - 1)).read() };
    let left = walk.length.wrapping_sub(index * 8);
    let step = automaton::step_exactly(&walk.cells, walk.base, walk.state, word, left);
    walk.state = step.state;
    (step.stays != 0) as i64
}

/// What the table says. A global function, which the verifier checks once for all its callers:
/// `lengths` are those of the path, behind which a NUL stands, and of the arguments.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_in_slot(index: u32, lengths: u32, slot: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr(index) else { return 0 };
    let Some(policy) = POLICIES.get(slot) else { return 0 };
    let Some(cells) = KernelCells::new() else { return 0 };
    // SAFETY: the strings of the slot that the caller has claimed.
    let strings = unsafe { (*scratch).strings.as_ptr() };
    let mut walk = Walk {
        text: strings.cast(),
        length: (lengths >> 16 & 0xfff) as u64 + 1,
        cells,
        base: policy.arguments as u64,
        state: START as u64,
    };
    run(&mut walk);
    // SAFETY: within the strings, which begin at a multiple of 8 bytes.
    walk.text = unsafe { strings.add(STRING_AT[ARGV] as usize).cast() };
    walk.length = (lengths & 0x7fff) as u64;
    run(&mut walk);
    if cells.cell(walk.base.wrapping_add(walk.state)).accept() != 0 {
        return ACCEPTED;
    }
    (walk.state != DEAD as u64) as u32 * OPEN
}

#[inline(always)]
fn run(walk: &mut Walk) {
    // SAFETY: the callback and its context match.
    unsafe {
        bpf_loop(
            walk.length.div_ceil(8) as u32,
            eat as *mut c_void,
            core::ptr::from_mut(walk).cast::<c_void>(),
            0,
        );
    }
    // To the compiler the callback may have written to it.
    core::hint::black_box(walk);
}
