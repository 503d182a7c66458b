//! A new image runs: what, through which interpreter, with which arguments. The lsm backend has
//! judged the files before; the tracepoint backend judges here and can only kill. Arguments are
//! judged here on both: the new image has not run an instruction, and a kill is as good as a refusal.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use monitor_common::{
    limits::{ARGV_MAX, PATH_MAX},
    policy::{class, tag_flags},
    record::{ARGV, CWD, SECOND, flags, kind},
};

use crate::{
    hooks::bprm_check_security::judge_executable,
    instance::{self, Current, Subject},
    judge,
    kernel_field::{Address, field, offset},
    matching,
    path::{self, Place},
    policy::{self, Means},
    scratch::{STRING_AT, Scratch},
    vector,
};

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, on the
/// lsm backend
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const c_void>(0) as Address;
    let bprm = ctx.arg::<*const c_void>(2) as Address;
    if let Current::Tagged(subject) = instance::current() {
        judge::run(&subject, kind::EXEC, Means::KillOnly, |scratch, subject| {
            describe_file(scratch, field!(bprm, binprm_file));
            finish(scratch, subject, task, bprm);
        });
    }
    0
}

/// The same on the tracepoint backend, where nothing has been judged before
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec_judge(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const c_void>(0) as Address;
    let bprm = ctx.arg::<*const c_void>(2) as Address;
    if let Current::Tagged(subject) = instance::current() {
        judge::run(&subject, kind::EXEC, Means::KillOnly, |scratch, subject| {
            scratch.record.flags |= flags::AFTER;
            judge_executable(scratch, subject, field!(bprm, binprm_file), class::NAMED);
            scratch.record.flags &= !flags::NAMED_ARGUMENTS;
            finish(scratch, subject, task, bprm);
        });
    }
    0
}

/// The same for processes that nobody watches, on both backends: those that the rules name as
/// servers are held before they run an instruction
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec_match(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const c_void>(0) as Address;
    let bprm = ctx.arg::<*const c_void>(2) as Address;
    matching::at_exec(task, bprm);
    0
}

/// Path and inode of the executable, without a verdict.
#[inline(always)]
fn describe_file(scratch: &mut Scratch, file: Address) {
    judge::describe_inode(scratch, field!(file, file_inode));
    if scratch.record.nlink == 0 {
        scratch.record.flags |= flags::FILELESS;
    }
    path::resolve(scratch, 0, Place::of_file(file));
}

/// Script, working directory and arguments; and what the tag has to remember of this exec.
#[inline(always)]
fn finish(scratch: &mut Scratch, subject: &Subject, task: Address, bprm: Address) {
    let classes = policy::classify(scratch, 0, subject.slot);
    let kept = subject.tag.flags & !(tag_flags::LAUNCH | tag_flags::LOADER);
    let new = if classes & class::LOADER != 0 { kept | tag_flags::LOADER } else { kept };
    if new != subject.tag.flags {
        instance::set_flags(subject.ids, new);
    }
    describe_script(scratch, bprm);
    let fs: Address = field!(task, task_fs);
    path::resolve(scratch, CWD, Place::of_path(fs.wrapping_add(offset!(fs_pwd) as u64)));
    read_arguments(scratch, field!(task, task_mm));
    vector::judge(scratch, subject, classes);
}

/// The name that was executed, when an interpreter runs in its place.
#[inline(always)]
fn describe_script(scratch: &mut Scratch, bprm: Address) {
    let filename: Address = field!(bprm, binprm_filename);
    let interp: Address = field!(bprm, binprm_interp);
    if filename == interp {
        return;
    }
    // SAFETY: string 1 has 4,104 bytes.
    let length = unsafe {
        bpf_probe_read_kernel_str(
            scratch.strings.as_mut_ptr().add(STRING_AT[SECOND] as usize).cast::<c_void>(),
            PATH_MAX as u32,
            filename as *const c_void,
        )
    };
    if length > 0 {
        scratch.record.lengths[SECOND] = (length as u16 - 1) & 0xfff;
    }
}

#[inline(always)]
fn read_arguments(scratch: &mut Scratch, mm: Address) {
    let start: Address = field!(mm, mm_arg_start);
    let end: Address = field!(mm, mm_arg_end);
    let total = end.wrapping_sub(start);
    let length = if total > ARGV_MAX as u64 {
        scratch.record.flags |= flags::ARGV_TRUNCATED;
        ARGV_MAX as u32
    } else {
        total as u32 & (2 * ARGV_MAX as u32 - 1)
    };
    // SAFETY: string 3 has 36 KiB, of which at most 32 KiB are written.
    let result = unsafe {
        bpf_probe_read_user(
            scratch.strings.as_mut_ptr().add(STRING_AT[ARGV] as usize).cast::<c_void>(),
            length,
            start as *const c_void,
        )
    };
    if result == 0 {
        scratch.record.lengths[ARGV] = length as u16;
    } else {
        scratch.record.flags |= flags::UNREADABLE;
    }
}
