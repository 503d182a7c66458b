//! Tags: which processes belong to which instance, and the policy they are under.
//!
//! | happens | tag |
//! | --- | --- |
//! | exec of a server that others start | see [`crate::matching`] |
//! | fork of a tagged process | inherited, before the child can run |
//! | new thread | shared, it has the tgid |
//! | exec | kept |
//! | last thread ends | removed |
//! | table nearly full | lsm: the fork is refused; else the tree is killed, while all are tagged |

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_ktime_get_boot_ns, bpf_send_signal},
};
use aya_log_ebpf::warn;
use monitor_common::{
    policy::{Policy, Tag, mode, tag_flags},
    record::counter,
};

use crate::{
    atomic, emit,
    kernel_field::{Address, field, load},
    maps::{INSTANCES, POLICIES, TAG_COUNT, TAGS},
    matching,
};

/// SIGKILL; the kernel's number on every architecture.
const SIGKILL: u32 = 9;

/// The tagged process that a hook runs for.
pub struct Subject {
    /// Its tag.
    pub tag: Tag,
    /// tgid in the upper half, tid in the lower.
    pub ids: u64,
    /// The policy it is under.
    pub policy: &'static Policy,
    /// Slot of that policy.
    pub slot: u32,
}

/// What [`current`] found.
pub enum Current {
    /// Not a process of ours.
    Untagged,
    /// Tagged, but sentenced, held or without a policy: to be refused, and already killed if
    /// sentenced, stopped if held.
    Outlaw,
    /// Tagged.
    Tagged(Subject),
}

/// The running process; a sentenced one is killed.
#[inline(always)]
pub fn current() -> Current {
    look_up(true)
}

/// The same for programs that cannot send signals.
#[inline(always)]
pub fn current_without_signal() -> Current {
    look_up(false)
}

/// The same for what a process does not do but suffers, such as its end: a sentence is no matter.
#[inline(always)]
pub fn current_even_if_doomed() -> Current {
    let ids = bpf_get_current_pid_tgid();
    match tag_of((ids >> 32) as u32) {
        Some(tag) if tag.flags & tag_flags::HELD != 0 => Current::Outlaw,
        Some(tag) => subject_of(ids, tag),
        None => Current::Untagged,
    }
}

#[inline(always)]
fn look_up(may_signal: bool) -> Current {
    let ids = bpf_get_current_pid_tgid();
    let Some(tag) = tag_of((ids >> 32) as u32) else { return Current::Untagged };
    if tag.flags & tag_flags::HELD != 0 {
        if may_signal {
            matching::stop_again((ids >> 32) as u32);
        }
        return Current::Outlaw;
    }
    if is_doomed(tag.slot) {
        if may_signal {
            kill_current();
        }
        return Current::Outlaw;
    }
    subject_of(ids, tag)
}

#[inline(always)]
fn subject_of(ids: u64, tag: Tag) -> Current {
    let mut slot = policy_at(tag.slot);
    let Some(mut policy) = policy_in(slot) else { return missing() };
    if policy.until_ns != 0 && now_ns() >= policy.until_ns {
        slot = policy.after;
        let Some(after) = policy_in(slot) else { return missing() };
        policy = after;
    }
    Current::Tagged(Subject { tag, ids, policy, slot })
}

/// The policy in a slot; in slot 0 there is none.
#[inline(always)]
fn policy_in(slot: u32) -> Option<&'static Policy> {
    if slot == 0 {
        return None;
    }
    // SAFETY: userspace does not touch a policy that is in force or comes into force by itself.
    POLICIES.get_ptr(slot).map(|policy| unsafe { &*policy })
}

/// Slot of the policy that stands at a position of the table of instances, 0 when there is none.
#[inline(always)]
pub fn policy_at(position: u32) -> u32 {
    INSTANCES.get_ptr(position).map_or(0, |state| {
        // SAFETY: a map value lives as long as the program. Volatile: userspace replaces the word
        // while we run; it is read once.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*state).policy)) }
    })
}

#[inline(always)]
fn is_doomed(slot: u32) -> bool {
    INSTANCES.get_ptr(slot).is_some_and(|state| {
        // SAFETY: as above; other CPUs set the word.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*state).doomed)) != 0 }
    })
}

#[inline(always)]
fn missing() -> Current {
    emit::count(counter::POLICY_MISSING);
    warn!((), "process {} is tagged but has no policy", (bpf_get_current_pid_tgid() >> 32) as u32);
    Current::Outlaw
}

/// Tag of a thread group.
#[inline(always)]
pub fn tag_of(tgid: u32) -> Option<Tag> {
    // SAFETY: the entry of a living process is removed by nobody but its own exit.
    unsafe { TAGS.get(tgid) }.copied()
}

/// Tags a thread group; false when the table is full.
#[inline(always)]
pub fn insert(tgid: u32, tag: &Tag) -> bool {
    let fresh = tag_of(tgid).is_none();
    if let Err(errno) = TAGS.insert(tgid, tag, 0) {
        warn!((), "cannot tag process {} of instance {}: {}", tgid, tag.instance, errno);
        return false;
    }
    if fresh {
        add_tags(1);
    }
    true
}

/// Removes the tag of a thread group.
#[inline(always)]
pub fn remove(tgid: u32) {
    if TAGS.remove(tgid).is_ok() {
        add_tags(u64::MAX);
    }
}

/// Clears bits of the running process's tag.
#[inline(always)]
pub fn set_flags(ids: u64, flags: u32) {
    if let Some(tag) = TAGS.get_ptr_mut((ids >> 32) as u32) {
        // SAFETY: a map value; only the process itself changes its flags.
        unsafe { (*tag).flags = flags };
    }
}

/// Tags in use.
#[inline(always)]
pub fn tags_in_use() -> u64 {
    TAG_COUNT.get_ptr(0).map_or(0, |count| {
        // SAFETY: a map value; volatile because other CPUs change it.
        unsafe { core::ptr::read_volatile(count) }
    })
}

#[inline(always)]
fn add_tags(delta: u64) {
    if let Some(count) = TAG_COUNT.get_ptr_mut(0) {
        // SAFETY: a map value that is only written atomically.
        unsafe { atomic::add(count, delta) };
    }
}

/// Sends SIGKILL to the running process.
#[inline(always)]
pub fn kill_current() {
    // SAFETY: the helper has no preconditions.
    let result = unsafe { bpf_send_signal(SIGKILL) };
    if result == 0 {
        emit::count(counter::KILLED);
    } else {
        warn!((), "cannot kill the running process: {}", result);
    }
}

/// Sentences a whole instance: each of its processes is killed at its next hook, and userspace,
/// told by the record, kills the cgroup.
#[inline(always)]
pub fn doom(slot: u32) {
    if let Some(state) = INSTANCES.get_ptr_mut(slot) {
        // SAFETY: a map value; this word is only ever set to 1 by the programs.
        unsafe { core::ptr::write_volatile(core::ptr::addr_of_mut!((*state).doomed), 1) };
    }
}

impl Subject {
    /// Whether verdicts are carried out.
    #[inline(always)]
    pub fn enforcing(&self) -> bool {
        self.policy.mode == mode::ENFORCE
    }
}

/// Thread group of a task.
#[inline(always)]
pub fn tgid_of(task: Address) -> u32 {
    field!(task, task_tgid)
}

/// Whether the last thread of a task's group has ended: it has no tag any more, and nothing
/// reaches it.
#[inline(always)]
pub fn is_dead(task: Address) -> bool {
    let signal: Address = load!(task, task_signal);
    let live: i32 = load!(signal, signal_live);
    live == 0
}

/// Start of a task's thread group leader.
#[inline(always)]
pub fn start_of(task: Address) -> u64 {
    field!(field!(task, task_group_leader), task_start)
}

/// Now, CLOCK_BOOTTIME, ns.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}
