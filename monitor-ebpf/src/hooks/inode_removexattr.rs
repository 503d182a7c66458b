//! Extended attributes: a write.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::judge;

/// `int inode_removexattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name)`
#[lsm(hook = "inode_removexattr")]
pub fn inode_removexattr(ctx: LsmContext) -> i32 {
    judge::change_dentry(change::XATTR, judge::address(&ctx, 1))
}
