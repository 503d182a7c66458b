//! How many different files a tree reads: where the rules refuse a mass read, the open that is one
//! too many is judged here. Other policies pay for one look at theirs.
//!
//! A window is counted in [`STEPS`] steps, the oldest of which drops out as a whole: never fewer
//! files than the rules say are enough, and the window is up to an eighth longer than they say. Of
//! what does not fit into the table of files (many instances, each at its limit) a file that is
//! read again counts again.

use monitor_common::{
    file::holds_data,
    policy::{Decision, ReadKey, Reads, STEPS, access, class, detector, reason, verdict},
    record::{Record, did, kind},
};

use crate::{
    atomic,
    instance::{self, Subject},
    maps::{POLICIES, READ_FILES, READS, SCRATCH},
    scratch::Scratch,
};

/// Judges an open that the rules allow by all that the tree has read.
#[inline(always)]
pub fn judge(scratch: &mut Scratch, subject: &Subject) {
    if subject.policy.reads.files == 0 || !counts(&scratch.record) {
        return;
    }
    let index = scratch.lend();
    if count_read(index, subject.tag.slot, subject.tag.instance, subject.slot) != 0 {
        scratch.record.decision = Decision {
            verdict: subject.policy.reads.verdict as u8,
            reason: reason::DETECTOR,
            set: detector::MASS_READ as u8,
            access: access::READ,
        };
    }
}

/// Somebody's data, and not the runtime's own.
#[inline(always)]
fn counts(record: &Record) -> bool {
    record.kind == kind::OPEN
        && record.did & did::READ != 0
        && record.classes & class::RUNTIME == 0
        && record.decision.verdict < verdict::DENY
        && holds_data(record.inode_mode, record.nlink, record.fs_magic)
}

/// Counts the file of the record in a scratch slot; 1 when it is one too many, and then it is not
/// counted.
///
/// A global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_read(index: u32, position: u32, instance: u32, slot: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr(index) else { return 0 };
    let Some(policy) = POLICIES.get(slot) else { return 0 };
    let Some(reads) = READS.get_ptr_mut(position) else { return 0 };
    let step_ns = policy.reads.step_ms as u64 * 1_000_000;
    if step_ns == 0 {
        return 0;
    }
    let step = (instance::now_ns() / step_ns) as u32;
    // SAFETY: a slot that the caller has claimed.
    let inode = unsafe { (*scratch).record.inode };
    let key = ReadKey { inode, instance, reserved: 0 };
    // SAFETY: the value is copied at once; one that is replaced meanwhile is as good.
    if let Some(&seen) = unsafe { READ_FILES.get(key) }
        && step.wrapping_sub(seen) < STEPS as u32
    {
        return 0;
    }
    if files(reads, step) + 1 >= policy.reads.files {
        return 1;
    }
    let word = word(reads, step);
    begin(word, step);
    // SAFETY: a word of a map value that is only written atomically.
    unsafe { atomic::add(word, 1) };
    if files(reads, step) >= policy.reads.files {
        // Others have come in between.
        // SAFETY: as above.
        unsafe { atomic::add(word, u64::MAX) };
        return 1;
    }
    let _ = READ_FILES.insert(key, step, 0);
    0
}

/// The word of a step: its number in the upper half, its count in the lower.
#[inline(always)]
fn word(reads: *mut Reads, step: u32) -> *mut u64 {
    // SAFETY: masked to the length of the array.
    unsafe { core::ptr::addr_of_mut!((*reads).steps).cast::<u64>().add(step as usize % STEPS) }
}

/// Makes a word that of a step, if it is still that of an earlier one. Of several who do so at once
/// one may find what another has counted already, and gives it back.
#[inline(always)]
fn begin(word: *mut u64, step: u32) {
    let fresh = (step as u64) << 32;
    // SAFETY: a word of a map value; volatile because other CPUs change it.
    if unsafe { core::ptr::read_volatile(word) } >> 32 == step as u64 {
        return;
    }
    // SAFETY: as above.
    unsafe {
        let found = atomic::swap(word, fresh);
        if found >> 32 == step as u64 {
            atomic::add(word, found & 0xffff_ffff);
        }
    }
}

/// Files that count at a step.
#[inline(always)]
fn files(reads: *mut Reads, step: u32) -> u32 {
    let mut sum = 0;
    let mut i = 0;
    while i < STEPS as u32 {
        // SAFETY: a word of a map value; volatile because other CPUs change it.
        let found = unsafe { core::ptr::read_volatile(word(reads, i)) };
        if step.wrapping_sub((found >> 32) as u32) < STEPS as u32 {
            sum += found as u32;
        }
        i += 1;
    }
    sum
}
