//! The verdict: classes of a path or address from the policy's tables, the shared precedence
//! function, and what follows from it.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_loop, maps::lpm_trie::Key};
use monitor_common::{
    automaton::{self, Cell, Cells, START},
    limits::CELLS_MAX,
    network::{self, AddressKey, TABLE_BITS},
    policy::{
        Decision, Policy, TABLES, access, beyond_bound, decide_one, reason, stronger, tag_flags,
        verdict,
    },
    record::{Record, counter, enforced, flags},
};

use crate::{
    emit,
    instance::{self, Subject},
    maps::{ADDRESSES, CELLS, POLICIES, SCRATCH},
    scratch::{STRING_BYTES, Scratch},
};

/// The kernel's map. Tables lie within it, so the masks change nothing; the verifier goes by them.
#[derive(Clone, Copy)]
pub struct KernelCells(*const Cell);

const WITHIN: u64 = CELLS_MAX as u64 - 1;
const _: () = assert!(CELLS_MAX.is_power_of_two());

impl KernelCells {
    /// The map.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        CELLS.get_ptr(0).map(|cells| Self(cells.cast()))
    }
}

impl Cells for KernelCells {
    #[inline(always)]
    fn cell(&self, index: u64) -> Cell {
        // SAFETY: within the map's one value, which lives as long as the program.
        unsafe { *self.0.add((index & WITHIN) as usize) }
    }

    #[inline(always)]
    fn class(&self, base: u64, byte: u8) -> u8 {
        // SAFETY: as above, with room for the classes of a byte behind the last cell.
        unsafe { *self.0.add((base & WITHIN) as usize).cast::<u8>().add(byte as usize) }
    }
}

/// How far a string is on its way through a table; in the scratch slot, as [`crate::path::Walk`] is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Progress {
    base: u64,
    state: u64,
    /// Not 0 when the rest of the string cannot change the state.
    stays: u64,
}

/// Where the string, the cells, and its progress through the tables of a policy are.
#[repr(C)]
struct Match {
    path: *const u64,
    cells: KernelCells,
    tables: *mut [Progress; TABLES],
}

#[inline(never)]
extern "C" fn eat(index: u64, context: *mut Match) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `classify_in_slot` gave it.
    let context = unsafe { &mut *context };
    // SAFETY: of the slot that the hook has claimed, to which nobody else writes meanwhile.
    let tables = unsafe { &mut *context.tables };
    // SAFETY: strings have 513 words; the index is masked to 511.
    let word = unsafe { context.path.add(index as usize & 0x1ff).read() };
    let cells = context.cells;
    let mut stays = u64::MAX;
    let mut i = 0;
    while i < TABLES {
        let table = &mut tables[i];
        if table.stays == 0 {
            let step = automaton::step(&cells, table.base, table.state, word);
            table.state = step.state;
            table.stays = step.stays as u64;
        }
        stays &= table.stays;
        i += 1;
    }
    (stays != 0) as i64
}

/// Classes of the record's string number `position` under the policy in `slot`.
#[inline(always)]
pub fn classify(scratch: &mut Scratch, position: usize, slot: u32) -> u32 {
    let length = scratch.record.lengths[position] as u32 & 0xfff;
    pad(scratch, position, length);
    let string = (position as u32) << 16 | length;
    classify_in_slot(scratch.lend(), string, slot)
}

/// [`classify`] as a global function, which the verifier checks once for all its callers: `string`
/// is its position and length.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn classify_in_slot(index: u32, string: u32, slot: u32) -> u32 {
    let Some(memory) = SCRATCH.get_ptr_mut(index) else { return 0 };
    let Some(policy) = POLICIES.get(slot) else { return 0 };
    let Some(cells) = KernelCells::new() else { return 0 };
    // SAFETY: the caller has claimed the slot and does not touch it meanwhile.
    let scratch = unsafe { &mut *memory };
    let mut i = 0;
    while i < TABLES {
        let base = policy.tables[i] as u64;
        let stays = automaton::stays(&cells, base, START as u64) as u64;
        scratch.tables[i] = Progress { base, state: START as u64, stays };
        i += 1;
    }
    let position = (string >> 16) as usize & 3;
    let mut context = Match {
        // SAFETY: within the strings. They begin at a multiple of 8 bytes, and each has 513 words.
        path: unsafe { scratch.strings.as_ptr().add(position * STRING_BYTES).cast() },
        cells,
        tables: core::ptr::addr_of_mut!(scratch.tables),
    };
    scratch.settle();
    // SAFETY: the callback and its context match.
    unsafe {
        bpf_loop(
            (string & 0xfff).div_ceil(8),
            eat as *mut c_void,
            core::ptr::addr_of_mut!(context).cast::<c_void>(),
            0,
        );
    }
    scratch.settle();
    let mut classes = 0;
    let mut i = 0;
    while i < TABLES {
        let Progress { base, state, .. } = scratch.tables[i];
        classes |= cells.cell(base.wrapping_add(state)).accept();
        i += 1;
    }
    classes
}

/// Fills the last word of a string up with NULs.
#[inline(always)]
pub fn pad(scratch: &mut Scratch, position: usize, length: u32) {
    let end = position * STRING_BYTES + length as usize;
    let mut i = 0;
    while i < 8 {
        // SAFETY: strings have 4,104 bytes, and lengths are below 4,096.
        unsafe { *scratch.strings.as_mut_ptr().add(end + i) = 0 };
        i += 1;
    }
}

/// Classes of an address in its canonical form under a policy.
#[inline(always)]
pub fn classify_address(policy: &Policy, address: [u8; 16], port: u16, protocol: u8) -> u32 {
    let data = AddressKey { table: policy.network, address };
    match ADDRESSES.get(Key::new(TABLE_BITS + 128, data)) {
        Some(rules) => network::classify(rules, port, protocol),
        None => 0,
    }
}

/// Judges the record's string number `position` together with `extra` classes (from labels and the
/// like), keeping the stronger of this verdict and the one already in the record.
#[inline(always)]
pub fn judge_path(
    scratch: &mut Scratch,
    subject: &Subject,
    position: usize,
    extra: u32,
    asked: u8,
) {
    if asked == 0 {
        // Nothing is asked of the object: an O_PATH descriptor gives no access to it.
        return;
    }
    let decision = if scratch.record.flags & (flags::TRUNCATED | flags::FOREIGN) != 0 {
        scratch.record.classes |= extra;
        // What its inode is known for says more than that its path says nothing.
        let (by_label, bound) = (decide_under(subject, extra, asked), beyond_bound(asked));
        let says_more = by_label.reason == reason::SET && by_label.verdict >= bound.verdict;
        if says_more { by_label } else { bound }
    } else {
        let classes = classify(scratch, position, subject.slot) | extra;
        scratch.record.classes |= classes;
        decide_under(subject, classes, asked)
    };
    keep_stronger(&mut scratch.record, launched(subject, decision));
}

/// Judges classes that do not come from a path.
#[inline(always)]
pub fn judge_classes(record: &mut Record, subject: &Subject, classes: u32, asked: u8) {
    record.classes |= classes;
    keep_stronger(record, decide_under(subject, classes, asked));
}

#[inline(always)]
fn decide_under(subject: &Subject, classes: u32, asked: u8) -> Decision {
    let mut strongest = Decision::default();
    let mut bit = 0;
    while bit < access::COUNT as u32 {
        if asked & (1 << bit) != 0 {
            let packed = decide_in_slot(subject.slot, classes, bit);
            let [verdict, reason, set, access] = packed.to_le_bytes();
            strongest = stronger(strongest, Decision { verdict, reason, set, access });
        }
        bit += 1;
    }
    strongest
}

/// [`decide_one`] as a global function: the verifier checks it once and by itself, instead of
/// following all its outcomes through the rest of every hook.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decide_in_slot(slot: u32, classes: u32, bit: u32) -> u32 {
    // Written out, so that the verifier sees constant positions.
    let decision = match (POLICIES.get(slot), bit) {
        (None, _) => beyond_bound(1 << (bit & 7)),
        (Some(policy), 0) => decide_one(policy, classes, 0),
        (Some(policy), 1) => decide_one(policy, classes, 1),
        (Some(policy), 2) => decide_one(policy, classes, 2),
        (Some(policy), 3) => decide_one(policy, classes, 3),
        (Some(policy), 4) => decide_one(policy, classes, 4),
        (Some(policy), _) => decide_one(policy, classes, 5),
    };
    let Decision { verdict, reason, set, access } = decision;
    u32::from_le_bytes([verdict, reason, set, access])
}

/// Judges a program whose arguments no rule names; keeps the stronger verdict, as [`judge_path`].
#[inline(always)]
pub fn judge_arguments(record: &mut Record, subject: &Subject, classes: u32) {
    let decision = decide_under(subject, classes, access::EXEC);
    keep_stronger(record, launched(subject, decision));
}

/// The command that the person launched needs no rule of its own; `deny` and the sets still hold.
#[inline(always)]
fn launched(subject: &Subject, decision: Decision) -> Decision {
    let launching = subject.tag.flags & tag_flags::LAUNCH != 0;
    let no_rule = matches!(decision.reason, reason::UNLISTED | reason::ARGUMENTS);
    if launching && decision.access == access::EXEC && no_rule {
        return Decision { verdict: verdict::ALLOW, reason: reason::LAUNCH, ..decision };
    }
    decision
}

#[inline(always)]
fn keep_stronger(record: &mut Record, decision: Decision) {
    record.decision = stronger(record.decision, decision);
}

/// What a hook can do about a verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Return an error.
    Refuse,
    /// Return an error, but not send signals (cgroup programs).
    RefuseOnly,
    /// Only kill: the call has already been carried out.
    KillOnly,
}

/// Carries the record's verdict out; true when the hook is to refuse.
#[inline(always)]
pub fn enforce(record: &mut Record, subject: &Subject, means: Means) -> bool {
    let decided = record.decision.verdict;
    if decided < verdict::DENY || !subject.enforcing() {
        return false;
    }
    let cannot_signal = means == Means::RefuseOnly && decided == verdict::KILL;
    // An image that has not run an instruction is refused by killing it.
    let too_late = means == Means::KillOnly && record.decision.reason != reason::ARGUMENTS;
    if too_late || decided == verdict::KILL_TREE || cannot_signal {
        instance::doom(subject.tag.slot);
    }
    record.enforced = enforced::DENIED;
    if means == Means::KillOnly || (decided >= verdict::KILL && means == Means::Refuse) {
        instance::kill_current();
        record.enforced =
            if means == Means::KillOnly { enforced::KILLED } else { enforced::DENIED_AND_KILLED };
    }
    if means == Means::KillOnly {
        return false;
    }
    emit::count(counter::DENIED);
    true
}
