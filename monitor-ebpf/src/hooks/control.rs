//! Programs that userspace runs by BPF_PROG_TEST_RUN in its own context: for what only the kernel
//! can do right, and to test that both sides decide alike.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::policy::{Label, Tag};

use crate::{
    instance,
    kernel_field::{Address, current_task, field, read},
    label,
};

/// Arguments: a descriptor of the caller, then the [`Label`] to add. The key is written here, so
/// that it is the one that the hooks will see on every file system. 0, or 1 when it failed.
#[raw_tracepoint]
pub fn control_label(ctx: RawTracePointContext) -> i32 {
    let file = file_of(current_task(), ctx.arg::<u64>(0));
    if file == 0 {
        return 1;
    }
    let (own, beneath) = (ctx.arg::<u64>(1) as u32, ctx.arg::<u64>(2) as u32);
    let label = Label { own, beneath, above: ctx.arg::<u64>(3) as u32, reserved: 0 };
    !label::add(field!(file, file_inode), &label) as i32
}

/// Arguments: tgid, then the [`Tag`]'s instance, slot and flags. 0, or 1 when the table is full.
#[raw_tracepoint]
pub fn control_tag(ctx: RawTracePointContext) -> i32 {
    let tag = Tag {
        instance: ctx.arg::<u64>(1) as u32,
        slot: ctx.arg::<u64>(2) as u32,
        flags: ctx.arg::<u64>(3) as u32,
        reserved: 0,
    };
    !instance::insert(ctx.arg::<u64>(0) as u32, &tag) as i32
}

/// Argument: tgid, whose tag is removed.
#[raw_tracepoint]
pub fn control_untag(ctx: RawTracePointContext) -> i32 {
    instance::remove(ctx.arg::<u64>(0) as u32);
    0
}

/// The `struct file` behind a descriptor of a task, 0 when there is none.
#[inline(always)]
pub fn file_of(task: Address, descriptor: u64) -> Address {
    let files: Address = field!(task, task_files);
    let table: Address = field!(files, files_fdt);
    let size: u32 = field!(table, fdt_max);
    if descriptor >= size as u64 {
        return 0;
    }
    let entries: Address = field!(table, fdt_fd);
    read(entries.wrapping_add(descriptor * 8), 0)
}
