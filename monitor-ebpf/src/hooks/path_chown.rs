//! chown, lchown and fchown: a write.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::{judge, path::Place};

/// `int path_chown(const struct path *path, kuid_t uid, kgid_t gid)`
#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    judge::change_at(change::CHOWN, Place::of_path(judge::pointer(&ctx, 0)))
}
