//! Renames: a write to what is moved and to what it replaces. What an untagged process moves into
//! a labelled directory inherits the label.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::{
    instance::{self, Current},
    judge,
    kernel_field::field,
    label,
    path::Place,
};

/// `int path_rename(const struct path *old_dir, struct dentry *old_dentry,
/// const struct path *new_dir, struct dentry *new_dentry, unsigned int flags)`
#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    let old_directory = judge::pointer(&ctx, 0);
    let new_directory = judge::pointer(&ctx, 2);
    let old = Place { mount: field!(old_directory, path_mnt), dentry: judge::address(&ctx, 1) };
    let new = Place { mount: field!(new_directory, path_mnt), dentry: judge::address(&ctx, 3) };
    if let Current::Untagged = instance::current() {
        label::inherit(old.inode(), &new);
        return 0;
    }
    judge::change_two(change::RENAME, old, new)
}
