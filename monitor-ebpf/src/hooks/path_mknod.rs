//! Creation of files by open and mknod, and of socket nodes by bind: judged before there is one.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    file::{S_IFMT, S_IFREG},
    record::change,
};

use crate::judge;

/// `int path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev)`
#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    let kind = ctx.arg::<u32>(2) & S_IFMT;
    let op = if kind == S_IFREG || kind == 0 { change::CREATE } else { change::MKNOD };
    judge::change_entry(op, judge::pointer(&ctx, 0), judge::address(&ctx, 1))
}
