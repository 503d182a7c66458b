//! The verdict: classes of a path or address from the policy's tables, the shared precedence
//! function, and what follows from it.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_loop, maps::lpm_trie::Key};
use monitor_common::{
    automaton::{self, ByteClasses, DEAD, Row, Rows, START},
    limits::ROWS_MAX,
    network::{self, AddressKey, TABLE_BITS},
    policy::{
        Decision, Policy, TABLES, TableRef, access, beyond_bound, decide_one, reason, stronger,
        tag_flags, verdict,
    },
    record::{Record, counter, enforced, flags},
};

use crate::{
    emit,
    instance::{self, Subject},
    maps::{ADDRESSES, BYTE_CLASSES, POLICIES, ROWS, SCRATCH},
    scratch::{STRING_BYTES, Scratch},
};

/// [`Rows`] in the kernel's map.
pub struct KernelRows(pub *const Row);

impl Rows for KernelRows {
    #[inline(always)]
    fn row(&self, index: u64) -> Option<&Row> {
        // SAFETY: within the map's one value, which lives as long as the program.
        (index < ROWS_MAX as u64).then(|| unsafe { &*self.0.add(index as usize) })
    }
}

/// A string on its way through the tables of a policy.
#[repr(C)]
struct Match {
    path: *const u64,
    rows: *const Row,
    tables: [Progress; TABLES],
}

/// How far it is in one of them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Progress {
    classes: *const ByteClasses,
    base: u64,
    state: u64,
    /// Whether the rest of the string can still change the state.
    open: u64,
}

#[inline(never)]
extern "C" fn eat(index: u64, context: *mut Match) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `classify_in_slot` gave it.
    let context = unsafe { &mut *context };
    // SAFETY: strings have 513 words; the index is masked to 511.
    let word = unsafe { context.path.add(index as usize & 0x1ff).read() };
    let rows = KernelRows(context.rows);
    let mut open = 0;
    let mut i = 0;
    while i < TABLES {
        let table = &mut context.tables[i];
        if table.open != 0 {
            // SAFETY: map values live as long as the program.
            let classes = unsafe { &*table.classes };
            let step = automaton::step(&rows, table.base, classes, table.state, word);
            table.state = step.state;
            table.open = !step.done as u64;
            open |= table.open;
        }
        i += 1;
    }
    (open == 0) as i64
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
    let Some(scratch) = SCRATCH.get_ptr(index) else { return 0 };
    let Some(policy) = POLICIES.get(slot) else { return 0 };
    let Some(rows) = ROWS.get_ptr(0) else { return 0 };
    let position = (string >> 16) as usize & 3;
    let mut context = Match {
        // SAFETY: within the strings of the slot that the caller has claimed. They begin at a
        // multiple of 8 bytes, and each has 513 words.
        path: unsafe { (*scratch).strings.as_ptr().add(position * STRING_BYTES).cast() },
        rows: rows.cast(),
        tables: [Progress { classes: core::ptr::null(), base: 0, state: DEAD, open: 0 }; TABLES],
    };
    let mut i = 0;
    while i < TABLES {
        let TableRef { base, classes } = policy.tables[i];
        let Some(classes) = BYTE_CLASSES.get_ptr(classes) else { return 0 };
        // An absent table is at row 0 of the map, which accepts nothing.
        let present = base != 0;
        let state = if present { START } else { DEAD };
        context.tables[i] = Progress { classes, base: base as u64, state, open: present as u64 };
        i += 1;
    }
    // SAFETY: the callback and its context match.
    unsafe {
        bpf_loop(
            (string & 0xfff).div_ceil(8),
            eat as *mut c_void,
            core::ptr::addr_of_mut!(context).cast::<c_void>(),
            0,
        );
    }
    // To the compiler the callback may have written to it.
    let context = core::hint::black_box(&mut context);
    let rows = KernelRows(rows.cast());
    let mut classes = 0;
    let mut i = 0;
    while i < TABLES {
        let Progress { base, state, .. } = context.tables[i];
        classes |= rows.row(base.wrapping_add(state)).map_or(0, |row| row.accept);
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
