//! Extended attributes: a write.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::judge;

/// `int inode_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, const char *acl_name,
/// struct posix_acl *kacl)`, since 6.2; before, it is an extended attribute
#[lsm(hook = "inode_set_acl")]
pub fn inode_set_acl(ctx: LsmContext) -> i32 {
    judge::change_dentry(change::XATTR, judge::address(&ctx, 1))
}
