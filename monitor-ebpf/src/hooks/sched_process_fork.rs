//! Children inherit the tag before they can run.

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use monitor_common::{
    limits::TAGS_SENTENCE,
    policy::Tag,
    record::{counter, kind},
};

use crate::{
    emit,
    instance::{self, Current},
    judge,
    kernel_field::Address,
    matching,
    policy::Means,
};

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = ctx.arg::<*const c_void>(0) as Address;
    let child = ctx.arg::<*const c_void>(1) as Address;
    let (parent_tgid, child_tgid) = (instance::tgid_of(parent), instance::tgid_of(child));
    if parent_tgid == child_tgid {
        return 0;
    }
    let Some(tag) = instance::tag_of(parent_tgid) else { return 0 };
    let tagged = matching::keep(child_tgid, &tag) && instance::insert(child_tgid, &Tag { ..tag });
    if let Current::Tagged(subject) = instance::current() {
        judge::run(&subject, kind::FORK, Means::KillOnly, |scratch, _| {
            judge::describe_target(scratch, child);
        });
    }
    if !tagged || instance::tags_in_use() >= TAGS_SENTENCE {
        emit::count(counter::TAG_FAILED);
        instance::doom(tag.slot);
        instance::kill_current();
    }
    0
}
