//! Records into the ring buffers, and the counters that say what was lost.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_uid_gid,
        bpf_probe_read_kernel, bpf_ringbuf_output, bpf_ringbuf_query,
    },
    maps::RingBuf,
};
use monitor_common::{
    limits::EVENTS_RING_BYTES,
    policy::verdict,
    record::{Record, counter, flags},
};

use crate::{
    atomic,
    instance::{self, Subject},
    kernel_field::{Address, current_task, load},
    maps::{COUNTERS, EVENTS, VIOLATIONS},
    scratch::{STRING_AT, Scratch},
};

/// Bytes waiting in the ring from which the consumer is woken; below that it comes by itself every
/// few milliseconds, because a wake-up an event would cost the watched process more than the event.
const WAKE_BYTES: u64 = EVENTS_RING_BYTES as u64 / 8;

/// Adds one to a counter.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a map value that is only written atomically: per-CPU values are not private
        // under full preemption.
        unsafe { atomic::add(value, 1) };
    }
}

/// Begins a record: zeros it and says what it will be about.
#[inline(always)]
pub fn begin(scratch: &mut Scratch, kind: u8) {
    const { assert!(size_of::<Record>() % 8 == 0 && align_of::<Record>() == 8) };
    let words = core::ptr::addr_of_mut!(scratch.record).cast::<u64>();
    let mut i = 0;
    while i < size_of::<Record>() / 8 {
        // SAFETY: `Record` is plain integers, and these are its words. Volatile, because the
        // compiler would otherwise call a `memset` that goes byte by byte.
        unsafe { core::ptr::write_volatile(words.add(i), 0) };
        i += 1;
    }
    scratch.record.kind = kind;
}

/// Fills in who; left to the end, because most records of a quiet policy are never sent.
#[inline(always)]
fn identify(record: &mut Record, subject: &Subject) {
    let task = current_task();
    record.mode = subject.policy.mode;
    record.policy = subject.policy.id;
    record.instance = subject.tag.instance;
    record.tgid = (subject.ids >> 32) as u32;
    record.tid = subject.ids as u32;
    record.time_ns = instance::now_ns();
    let (leader, parent): (Address, Address) =
        (load!(task, task_group_leader), load!(task, task_real_parent));
    record.start_ns = load!(leader, task_start);
    record.ppid = load!(parent, task_tgid);
    let namespaces: Address = load!(task, task_nsproxy);
    let mounts: Address = load!(namespaces, nsproxy_mnt_ns);
    record.mnt_ns = load!(mounts, mnt_ns_inum);
    // SAFETY: these helpers have no preconditions; `comm` is as long as the helper is told.
    unsafe {
        record.uid = bpf_get_current_uid_gid() as u32;
        record.cgroup = bpf_get_current_cgroup_id();
        bpf_get_current_comm(record.comm.as_mut_ptr().cast::<c_void>(), 16);
    }
}

/// Whether the record is wanted at all: a violation, or a kind that the policy records.
#[inline(always)]
pub fn wanted(record: &Record, subject: &Subject) -> bool {
    record.decision.verdict > verdict::ALLOW || subject.policy.record >> (record.kind & 63) & 1 != 0
}

/// Sends the record if it is wanted.
#[inline(always)]
pub fn send(scratch: &mut Scratch, subject: &Subject) {
    if !wanted(&scratch.record, subject) {
        return;
    }
    identify(&mut scratch.record, subject);
    let total = close_ranks(scratch);
    let size = size_of::<Record>() as u32 + (total & 0x7fff);
    scratch.record.size = size;
    let data = core::ptr::addr_of_mut!(scratch.record).cast::<c_void>();
    if scratch.record.decision.verdict > verdict::ALLOW {
        count(counter::VIOLATIONS_PRODUCED);
        // SAFETY: `size` bytes from `record` on lie within the slot.
        let result = unsafe {
            bpf_ringbuf_output(handle(&VIOLATIONS), data, size as u64, BPF_RB_FORCE_WAKEUP as u64)
        };
        if result != 0 {
            count(counter::VIOLATIONS_LOST);
        }
    } else {
        count(counter::EVENTS_PRODUCED);
        // What was judged by a string alone is judged again by userspace, the sooner the better.
        let urgent = scratch.record.flags & flags::ARGUMENT != 0 && subject.enforcing();
        // SAFETY: as above.
        let result = unsafe {
            let waiting = bpf_ringbuf_query(handle(&EVENTS), BPF_RB_AVAIL_DATA as u64);
            let wake = urgent || waiting > WAKE_BYTES;
            let wake = if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
            bpf_ringbuf_output(handle(&EVENTS), data, size as u64, wake as u64)
        };
        if result != 0 {
            count(counter::EVENTS_LOST);
        }
    }
}

fn handle(ring: &'static RingBuf) -> *mut c_void {
    core::ptr::from_ref(ring).cast_mut().cast::<c_void>()
}

/// Moves the strings behind the first one up, so that they follow each other; bytes of all.
#[inline(always)]
fn close_ranks(scratch: &mut Scratch) -> u32 {
    let mut total = scratch.record.lengths[0] as u32;
    let mut i = 1;
    while i < STRING_AT.len() {
        let length = scratch.record.lengths[i] as u32 & 0x7fff;
        if length != 0 {
            let strings = scratch.strings.as_mut_ptr();
            // SAFETY: the offset is below 32 KiB, the length at most 16 KiB, the array 48 KiB.
            // The target lies below the source, and the helper copies upwards.
            unsafe {
                bpf_probe_read_kernel(
                    strings.add((total & 0x7fff) as usize).cast::<c_void>(),
                    if length > 16384 { 16384 } else { length },
                    strings.add(STRING_AT[i] as usize).cast::<c_void>(),
                );
            }
            total += length;
        }
        i += 1;
    }
    total
}
