//! The last thread of a process ends: its tag goes.

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use monitor_common::record::kind;

use crate::{
    instance::{self, Current},
    judge,
    kernel_field::{Address, field},
    matching,
    policy::Means,
};

/// `sched_process_exit(struct task_struct *p)`
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const c_void>(0) as Address;
    let tgid = instance::tgid_of(task);
    let Some(tag) = instance::tag_of(tgid) else { return 0 };
    let signal: Address = field!(task, task_signal);
    let live: i32 = field!(signal, signal_live);
    if live != 0 {
        return 0;
    }
    if let Current::Tagged(subject) = instance::current_even_if_doomed() {
        judge::run(&subject, kind::EXIT, Means::KillOnly, |scratch, _| {
            scratch.record.detail = field!(task, task_exit_code);
        });
    }
    instance::remove(tgid);
    matching::forget(tgid, &tag);
    0
}
