//! Extended attributes: a write.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::judge;

/// `int inode_setxattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name,
/// const void *value, size_t size, int flags)`
#[lsm(hook = "inode_setxattr")]
pub fn inode_setxattr(ctx: LsmContext) -> i32 {
    judge::change_dentry(change::XATTR, judge::address(&ctx, 1))
}
