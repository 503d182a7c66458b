//! move_mount(2), the last step of the newer mount calls.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    policy::{access, class, set},
    record::kind,
};

use crate::{judge, path::Place};

/// `int move_mount(const struct path *from_path, const struct path *to_path)`
#[lsm(hook = "move_mount")]
pub fn move_mount(ctx: LsmContext) -> i32 {
    judge_mount(Place::of_path(judge::pointer(&ctx, 1)))
}

/// Judges a mount on `target`.
#[inline(always)]
pub fn judge_mount(target: Place) -> i32 {
    judge::lsm(kind::MOUNT, |scratch, subject| {
        judge::describe_inode(scratch, target.inode());
        let escape = class::of_set(set::ESCAPE);
        judge::judge_place(scratch, subject, 0, target, escape, access::WRITE);
    })
}
