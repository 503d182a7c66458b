//! chmod and fchmod: a write.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::{judge, path::Place};

/// `int path_chmod(const struct path *path, umode_t mode)`
#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    judge::change_at(change::CHMOD, Place::of_path(judge::pointer(&ctx, 0)))
}
