//! Hard links: a write to the file, which gets a name that other rules may cover, and to the new
//! name.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::{judge, kernel_field::field, path::Place};

/// `int path_link(struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry)`
#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    let directory = judge::pointer(&ctx, 1);
    // Links do not cross mounts, so the new directory's mount is the old file's too.
    let mount = field!(directory, path_mnt);
    let old = Place { mount, dentry: judge::address(&ctx, 0) };
    let new = Place { mount, dentry: judge::address(&ctx, 2) };
    judge::change_two(change::LINK, old, new)
}
