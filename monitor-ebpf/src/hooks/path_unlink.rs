//! unlink: a write to the directory entry.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::judge;

/// `int path_unlink(const struct path *dir, struct dentry *dentry)`
#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    judge::change_entry(change::UNLINK, judge::pointer(&ctx, 0), judge::address(&ctx, 1))
}
