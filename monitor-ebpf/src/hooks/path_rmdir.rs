//! rmdir: a write to the directory entry.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::judge;

/// `int path_rmdir(const struct path *dir, struct dentry *dentry)`
#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    judge::change_entry(change::RMDIR, judge::pointer(&ctx, 0), judge::address(&ctx, 1))
}
