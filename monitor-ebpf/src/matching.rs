//! Servers that others start. A process that nobody watches and that the rules name is tagged when
//! it executes its program, before that has run an instruction, and stopped. Held like this it gets
//! nothing, whoever lets it go on; the agent finds out which server it is, puts it under the rules
//! of that server and lets it go.
//!
//! | happens | |
//! | --- | --- |
//! | exec of a process without a tag | held, if the table accepts it or cannot be asked |
//! | exec of a process that has one | nothing: no process changes the server it is |
//! | a held process goes on | refused, and stopped again |
//! | a held process forks | the child is held |
//!
//! The table accepts `executable NUL cgroup NUL argv[0] NUL argument NUL ...`, by the walk of
//! [`vector`].

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_loop, bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user,
            bpf_send_signal,
        },
    },
};
use monitor_common::{
    limits::{ARGV_MAX, HELD_POSITION, MATCH_POSITION, PATH_MAX},
    offsets::ABSENT,
    policy::{HELD_INSTANCE, Tag, tag_flags},
    record::{ARGV, PATH, SECOND, counter, flags, kind},
};

use crate::{
    emit, instance,
    kernel_field::{Address, field, offset, read},
    maps::{BELL, HELD, SCRATCH},
    path::{self, Place},
    policy,
    scratch::{Claim, STRING_AT, Scratch, masked},
    vector,
};

/// SIGSTOP, as on x86-64 and arm64; no handler and no mask keeps it off.
const SIGSTOP: u32 = 19;
/// SIGCONT, as there.
const SIGCONT: u32 = 18;
/// The machine's first process: no server, and it cannot be stopped.
const INIT: u32 = 1;
/// Cgroups beneath each other that are walked; the kernel's own bound is set by people.
const DEPTH_MAX: u32 = 256;
/// `NAME_MAX` and its NUL.
const NAME_BYTES: u32 = 256;

/// Holds the running process if it is a server that others start.
#[inline(always)]
pub fn at_exec(task: Address, bprm: Address) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if tgid == INIT || instance::tag_of(tgid).is_some() {
        return;
    }
    let slot = instance::policy_at(MATCH_POSITION);
    if slot == 0 {
        return;
    }
    let is_server = match Claim::new() {
        Some(mut claim) => may_be_server(claim.scratch(), slot, task, bprm),
        // Nobody can tell; the agent does.
        None => true,
    };
    if is_server {
        hold(tgid);
    }
}

/// Whether the table in `slot` accepts the new image, or could if more of it were known: the agent
/// lets those go that are no server after all.
#[inline(always)]
fn may_be_server(scratch: &mut Scratch, slot: u32, task: Address, bprm: Address) -> bool {
    emit::begin(scratch, kind::EXEC);
    path::resolve(scratch, PATH, Place::of_file(field!(bprm, binprm_file)));
    if scratch.record.flags & flags::TRUNCATED != 0 {
        return true;
    }
    let length = scratch.record.lengths[PATH] as u32 & 0xfff;
    policy::pad(scratch, PATH, length);
    // Most programs are no server's: nothing else of them is looked at.
    if vector::outcome(scratch, slot) == vector::REFUSED {
        return false;
    }
    let set: Address = field!(task, task_cgroups);
    let cgroup: Address = field!(set, css_set_cgroup);
    if cgroup_in_slot(scratch.lend(), field!(cgroup, cgroup_node)) == 0 {
        return true;
    }
    scratch.settle();
    let whole = read_arguments(scratch, field!(task, task_mm));
    match vector::outcome(scratch, slot) {
        vector::ACCEPTED => true,
        vector::OPEN => !whole,
        _ => false,
    }
}

/// Puts the arguments behind the cgroup, as far as there is room; whether these are all.
#[inline(always)]
fn read_arguments(scratch: &mut Scratch, mm: Address) -> bool {
    let start: Address = field!(mm, mm_arg_start);
    let end: Address = field!(mm, mm_arg_end);
    let at = scratch.record.lengths[ARGV] as u32 & 0xfff;
    let room = ARGV_MAX as u32 - 1 - at;
    let total = end.wrapping_sub(start);
    let whole = total <= room as u64;
    let length = masked::<0x7fff>(if whole { total as u32 } else { room });
    let strings = scratch.strings.as_mut_ptr();
    // SAFETY: string 3 has 36 KiB, of which at most 16 KiB are written.
    let result = unsafe {
        let at = strings.add(STRING_AT[ARGV] as usize + at as usize);
        *at = 0;
        bpf_probe_read_user(at.add(1).cast::<c_void>(), length, start as *const c_void)
    };
    let read = if result == 0 { length } else { 0 };
    scratch.record.lengths[ARGV] = (at + 1 + read) as u16;
    whole && result == 0
}

/// A way up through cgroups.
#[repr(C)]
struct Rise {
    slot: *mut Scratch,
    /// `struct kernfs_node *`
    node: Address,
    at: u32,
    arrived: u32,
}

#[inline(never)]
extern "C" fn rise(_index: u64, walk: *mut Rise) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `cgroup_in_slot` gave it.
    let walk = unsafe { &mut *walk };
    let parent = parent_of(walk.node);
    if parent == 0 {
        walk.arrived = 1;
        return 1;
    }
    let name: Address = field!(walk.node, node_name);
    // SAFETY: the slot is claimed, and nobody else writes to it meanwhile. String 1 has 4,104
    // bytes; it tells how long the name is.
    let length = unsafe {
        let place = (*walk.slot).strings.as_mut_ptr().add(STRING_AT[SECOND] as usize);
        bpf_probe_read_kernel_str(place.cast::<c_void>(), NAME_BYTES, name as *const c_void)
    };
    let mut at = walk.at & 0x1fff;
    if length <= 1 {
        return 1;
    }
    let length = (length as u32).wrapping_sub(1) & 0xff;
    if at <= length || at > PATH_MAX as u32 {
        return 1;
    }
    at -= length;
    // SAFETY: `at` is below PATH_MAX + 1 after the check above and the buffer has 512 bytes more.
    unsafe {
        let buffer = (*walk.slot).backwards.as_mut_ptr();
        let place = buffer.add((at & 0xfff) as usize).cast::<c_void>();
        bpf_probe_read_kernel(place, length, name as *const c_void);
        at -= 1;
        *buffer.add((at & 0xfff) as usize) = b'/';
    }
    walk.at = at;
    walk.node = parent;
    0
}

/// `parent` has been `__parent` since 6.15.
#[inline(always)]
fn parent_of(node: Address) -> Address {
    let older = offset!(node_parent);
    read(node, if older == ABSENT { offset!(node_rcu_parent) } else { older })
}

/// Writes the path of a cgroup beneath the root of its hierarchy where arguments stand; 0 when it
/// is too long. A global function, which the verifier checks by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cgroup_in_slot(index: u32, node: Address) -> u32 {
    let Some(slot) = SCRATCH.get_ptr_mut(index) else { return 0 };
    let mut walk = Rise { slot, node, at: PATH_MAX as u32 - 1, arrived: 0 };
    // SAFETY: the callback and its context match.
    unsafe {
        bpf_loop(DEPTH_MAX, rise as *mut c_void, core::ptr::addr_of_mut!(walk).cast::<c_void>(), 0);
    }
    // To the compiler the callback may have written to it.
    let Rise { at, arrived, .. } = *core::hint::black_box(&mut walk);
    if arrived == 0 {
        return 0;
    }
    // SAFETY: the caller has claimed the slot and does not touch it meanwhile.
    let scratch = unsafe { &mut *slot };
    let length = (PATH_MAX as u32 - 1).wrapping_sub(at) & 0xfff;
    path::set(scratch, ARGV, length, at & 0xfff);
    1
}

/// Stops and tags the running process, and tells the agent.
#[inline(always)]
fn hold(tgid: u32) {
    stop_current();
    let tag =
        Tag { instance: HELD_INSTANCE, slot: HELD_POSITION, flags: tag_flags::HELD, reserved: 0 };
    if !(instance::insert(tgid, &tag) && keep(tgid, &tag)) {
        // Nobody would ever let it go, and unwatched it must not run.
        emit::count(counter::TAG_FAILED);
        instance::kill_current();
    }
}

/// Stops the running process before it is back in its own code.
#[inline(always)]
fn stop_current() {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_send_signal(SIGSTOP) };
}

/// Stops the running process, which is held and which somebody else has let go on; unless it was
/// the agent, just now: its SIGCONT may have come before our SIGSTOP, and no other follows.
#[inline(always)]
pub fn stop_again(tgid: u32) {
    stop_current();
    let is_held = instance::tag_of(tgid).is_some_and(|tag| tag.flags & tag_flags::HELD != 0);
    if !is_held {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_send_signal(SIGCONT) };
    }
}

/// Tells the agent of a process if it has the tag of one that is held; false when there are too
/// many.
#[inline(always)]
pub fn keep(tgid: u32, tag: &Tag) -> bool {
    if tag.flags & tag_flags::HELD == 0 {
        return true;
    }
    if HELD.insert(tgid, instance::now_ns(), 0).is_err() {
        return false;
    }
    // Full only of what the agent has not been woken for yet.
    let _ = BELL.output::<u64>(tgid as u64, BPF_RB_FORCE_WAKEUP as u64);
    true
}

/// A process that was held has ended.
#[inline(always)]
pub fn forget(tgid: u32, tag: &Tag) {
    if tag.flags & tag_flags::HELD != 0 {
        // Fails when the agent was quicker.
        let _ = HELD.remove(tgid);
    }
}
