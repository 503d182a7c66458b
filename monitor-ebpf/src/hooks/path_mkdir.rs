//! mkdir: a write to the directory entry.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::judge;

/// `int path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`
#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    judge::change_entry(change::MKDIR, judge::pointer(&ctx, 0), judge::address(&ctx, 1))
}
