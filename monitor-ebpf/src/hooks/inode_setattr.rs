//! Times: a write. Mode, owner and size have hooks of their own that know the mount.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::{
    judge,
    kernel_field::{Address, field},
};

// include/linux/fs.h
const ATTR_SIZE: u32 = 1 << 3;
const ATTR_ATIME: u32 = 1 << 4;
const ATTR_MTIME: u32 = 1 << 5;

/// `int inode_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)`, since
/// 6.9
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr(ctx: LsmContext) -> i32 {
    set_times(judge::address(&ctx, 1), judge::pointer(&ctx, 2))
}

/// `int inode_setattr(struct dentry *dentry, struct iattr *attr)`, before 6.9
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr_without_idmap(ctx: LsmContext) -> i32 {
    set_times(judge::address(&ctx, 0), judge::pointer(&ctx, 1))
}

#[inline(always)]
fn set_times(dentry: Address, attributes: Address) -> i32 {
    let valid: u32 = field!(attributes, iattr_valid);
    if valid & (ATTR_ATIME | ATTR_MTIME) == 0 || valid & ATTR_SIZE != 0 {
        return 0;
    }
    judge::change_dentry(change::TIMES, dentry)
}
