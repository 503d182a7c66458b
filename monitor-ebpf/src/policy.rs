//! The verdict: classes of a path or address from the policy's tables, the shared precedence
//! function, and what follows from it.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_loop, maps::lpm_trie::Key};
use monitor_common::{
    automaton::{self, ByteClasses, Row, Rows, START},
    limits::ROWS_MAX,
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
    maps::{ADDRESSES, BYTE_CLASSES, POLICIES, ROWS, SCRATCH},
    scratch::{STRING_BYTES, Scratch},
};

/// [`Rows`] in the kernel's map.
struct KernelRows(*const Row);

impl Rows for KernelRows {
    #[inline(always)]
    fn row(&self, index: u32) -> Option<&Row> {
        // SAFETY: within the map's one value, which lives as long as the program.
        (index < ROWS_MAX).then(|| unsafe { &*self.0.add(index as usize) })
    }
}

#[repr(C)]
struct Match {
    path: *const u64,
    classes: *const ByteClasses,
    rows: *const Row,
    base: u32,
    state: u32,
}

#[inline(never)]
extern "C" fn eat(index: u64, context: *mut Match) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `classify_in_table` gave it.
    let context = unsafe { &mut *context };
    // SAFETY: strings have 513 words; the index is masked to 511. Map values live as long as the
    // program.
    let (word, classes) =
        unsafe { (context.path.add(index as usize & 0x1ff).read(), &*context.classes) };
    let rows = KernelRows(context.rows);
    let step = automaton::step(&rows, context.base, classes, context.state, word);
    context.state = step.state;
    step.done as i64
}

/// Classes of the record's string number `position` under a policy.
#[inline(always)]
pub fn classify(scratch: &mut Scratch, position: usize, policy: &Policy) -> u32 {
    let length = scratch.record.lengths[position] as u32 & 0xfff;
    pad(scratch, position, length);
    let index = scratch.lend() as u64;
    let mut classes = 0;
    let mut i = 0;
    while i < TABLES {
        let table = policy.tables[i];
        if table.base != 0 {
            let at = index << 32 | (position as u64) << 16 | length as u64;
            classes |= classify_in_table(at, table.base, table.classes);
        }
        i += 1;
    }
    classes
}

/// Fills the last word of a string up with NULs.
#[inline(always)]
fn pad(scratch: &mut Scratch, position: usize, length: u32) {
    let end = position * STRING_BYTES + length as usize;
    let mut i = 0;
    while i < 8 {
        // SAFETY: strings have 4,104 bytes, and lengths are below 4,096.
        unsafe { *scratch.strings.as_mut_ptr().add(end + i) = 0 };
        i += 1;
    }
}

/// Classes of a string under one table: `at` is the scratch slot, the string's position and its
/// length. A global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn classify_in_table(at: u64, base: u32, classes: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr((at >> 32) as u32) else { return 0 };
    let Some(byte_classes) = BYTE_CLASSES.get_ptr(classes) else { return 0 };
    let Some(rows) = ROWS.get_ptr(0) else { return 0 };
    let position = (at >> 16) as usize & 3;
    let mut context = Match {
        // SAFETY: within the strings of the slot that the caller has claimed. They begin at a
        // multiple of 8 bytes, and each has 513 words.
        path: unsafe { (*scratch).strings.as_ptr().add(position * STRING_BYTES).cast() },
        classes: byte_classes,
        rows: rows.cast(),
        base,
        state: START,
    };
    // SAFETY: the callback and its context match.
    let state = unsafe {
        bpf_loop(
            (at as u32 & 0xfff).div_ceil(8),
            eat as *mut c_void,
            core::ptr::addr_of_mut!(context).cast::<c_void>(),
            0,
        );
        core::ptr::read_volatile(core::ptr::addr_of!(context.state))
    };
    KernelRows(rows.cast()).row(base.wrapping_add(state)).map_or(0, |row| row.accept)
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
        let classes = classify(scratch, position, subject.policy) | extra;
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

/// The command that the person launched needs no rule of its own; `deny` and the sets still hold.
#[inline(always)]
fn launched(subject: &Subject, decision: Decision) -> Decision {
    let launching = subject.tag.flags & tag_flags::LAUNCH != 0;
    if launching && decision.access == access::EXEC && decision.reason == reason::UNLISTED {
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
    if means == Means::KillOnly || decided == verdict::KILL_TREE || cannot_signal {
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
