//! Programs that userspace runs by BPF_PROG_TEST_RUN in its own context: for what only the kernel
//! can do right, and to test that both sides decide alike. Raw tracepoint programs that are never
//! attached, written out because aya's attribute for them drops what they return.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_probe_read_user, programs::RawTracePointContext};
use monitor_common::{
    limits::{ARGV_MAX, PATH_MAX},
    policy::{Label, Tag},
    record::{ARGV, PATH},
};

use crate::{
    emit, instance, judge,
    kernel_field::{Address, current_task, field, load, read},
    label,
    maps::POLICIES,
    policy,
    scratch::{Claim, STRING_AT},
    vector,
};

/// Arguments: a descriptor of the caller, then the [`Label`] to add. The key is written here, so
/// that it is the one that the hooks will see on every file system. 0, or 1 when it failed.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint/control_label")]
pub extern "C" fn control_label(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let file = file_of(current_task(), ctx.arg::<u64>(0));
    if file == 0 {
        return 1;
    }
    let (own, beneath) = (ctx.arg::<u64>(1) as u32, ctx.arg::<u64>(2) as u32);
    let label = Label { own, beneath, above: ctx.arg::<u64>(3) as u32, reserved: 0 };
    !label::add(field!(file, file_inode), &label) as i32
}

/// Arguments: tgid, then the [`Tag`]'s instance, slot and flags. 0, or 1 when the table is full.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint/control_tag")]
pub extern "C" fn control_tag(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let tag = Tag {
        instance: ctx.arg::<u64>(1) as u32,
        slot: ctx.arg::<u64>(2) as u32,
        flags: ctx.arg::<u64>(3) as u32,
        reserved: 0,
    };
    !instance::insert(ctx.arg::<u64>(0) as u32, &tag) as i32
}

/// Argument: tgid, whose tag is removed.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint/control_untag")]
pub extern "C" fn control_untag(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    instance::remove(ctx.arg::<u64>(0) as u32);
    0
}

/// Arguments: a pidfd of the caller, and which half of the answer is asked for: 0 the lower 32 bits.
/// When the process began, CLOCK_BOOTTIME, ns, as records carry it; 0 when it has ended.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint/control_start")]
pub extern "C" fn control_start(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let file = file_of(current_task(), ctx.arg::<u64>(0));
    if file == 0 {
        return 0;
    }
    let task = judge::task_of_pid(judge::pid_of_file(file));
    let start = instance::start_of(task);
    (start >> (32 * (ctx.arg::<u64>(1) & 1))) as i32
}

/// What no path's classes are: the path could not be read, or the policy is not there.
const UNREADABLE: i32 = -1;

/// Arguments: the slot of a policy, then address and length of a path in the caller's memory. The
/// path's classes under the policy, by the same function as the hooks call.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint/control_classify")]
pub extern "C" fn control_classify(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let slot = ctx.arg::<u64>(0) as u32;
    if POLICIES.get(slot).is_none() {
        return UNREADABLE;
    }
    let length = ctx.arg::<u64>(2);
    if length >= PATH_MAX as u64 {
        return UNREADABLE;
    }
    let length = length as u32 & (PATH_MAX as u32 - 1);
    let Some(mut claim) = Claim::new() else { return UNREADABLE };
    let scratch = claim.scratch();
    emit::begin(scratch, 0);
    let path = scratch.strings.as_mut_ptr();
    // SAFETY: strings have 4,104 bytes each, of which at most 4,095 are written.
    unsafe {
        let from = ctx.arg::<u64>(1) as *const c_void;
        if bpf_probe_read_user(path.cast::<c_void>(), length, from) != 0 {
            return UNREADABLE;
        }
    }
    scratch.record.lengths[0] = length as u16;
    policy::classify(scratch, 0, slot) as i32
}

/// Arguments: the slot of a policy, address and length of a path in the caller's memory, and of
/// arguments. 1 if the policy names them for the program, by the same function as the hooks call.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint/control_vector")]
pub extern "C" fn control_vector(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let slot = ctx.arg::<u64>(0) as u32;
    let (path, arguments) = (ctx.arg::<u64>(2), ctx.arg::<u64>(4));
    if POLICIES.get(slot).is_none() || path >= PATH_MAX as u64 || arguments > ARGV_MAX as u64 {
        return UNREADABLE;
    }
    let (path, arguments) = (path as u32 & 0xfff, arguments as u32 & 0x7fff);
    let Some(mut claim) = Claim::new() else { return UNREADABLE };
    let scratch = claim.scratch();
    emit::begin(scratch, 0);
    let strings = scratch.strings.as_mut_ptr();
    // SAFETY: of paths at most 4,095 bytes are written where 4,104 are, of arguments at most 32 KiB
    // where 36 are.
    let unreadable = unsafe {
        let (path_at, arguments_at) = (ctx.arg::<u64>(1), ctx.arg::<u64>(3));
        let behind = strings.add(STRING_AT[ARGV] as usize).cast::<c_void>();
        bpf_probe_read_user(strings.cast::<c_void>(), path, path_at as *const c_void) != 0
            || bpf_probe_read_user(behind, arguments, arguments_at as *const c_void) != 0
    };
    if unreadable {
        return UNREADABLE;
    }
    scratch.record.lengths[PATH] = path as u16;
    scratch.record.lengths[ARGV] = arguments as u16;
    policy::classify(scratch, PATH, slot);
    vector::is_named(scratch, slot) as i32
}

/// The `struct file` behind a descriptor of a task that [`load!`] can read, 0 when there is none.
#[inline(always)]
pub fn file_of(task: Address, descriptor: u64) -> Address {
    let files: Address = load!(task, task_files);
    let table: Address = load!(files, files_fdt);
    let size: u32 = load!(table, fdt_max);
    if descriptor >= size as u64 {
        return 0;
    }
    let entries: Address = load!(table, fdt_fd);
    read(entries.wrapping_add(descriptor * 8), 0)
}
