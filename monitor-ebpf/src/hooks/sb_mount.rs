//! mount(2): a way to give files other names, judged by the escape set and as a write to the
//! mount point.

use aya_ebpf::{macros::lsm, programs::LsmContext};

use crate::{hooks::move_mount::judge_mount, judge, path::Place};

/// `int sb_mount(const char *dev_name, const struct path *path, const char *type,
/// unsigned long flags, void *data)`
#[lsm(hook = "sb_mount")]
pub fn sb_mount(ctx: LsmContext) -> i32 {
    judge_mount(Place::of_path(judge::pointer(&ctx, 1)))
}
