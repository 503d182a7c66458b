//! Forks near the end of the tag table are refused, so that no child goes untagged.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{limits::TAGS_REFUSE, record::counter};

use crate::{
    emit,
    instance::{self, Current},
    judge,
};

const CLONE_THREAD: u64 = 0x10000;

/// `int task_alloc(struct task_struct *task, unsigned long clone_flags)`
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    if ctx.arg::<u64>(1) & CLONE_THREAD != 0 {
        return 0;
    }
    match instance::current() {
        Current::Untagged => 0,
        Current::Outlaw => judge::refused(),
        Current::Tagged(_) if instance::tags_in_use() < TAGS_REFUSE => 0,
        Current::Tagged(_) => {
            emit::count(counter::FORK_REFUSED);
            judge::refused()
        }
    }
}
