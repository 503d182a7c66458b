//! truncate, and on 6.1 ftruncate and O_TRUNC: a write.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::{judge, path::Place};

/// `int path_truncate(const struct path *path)`
#[lsm(hook = "path_truncate")]
pub fn path_truncate(ctx: LsmContext) -> i32 {
    judge::change_at(change::TRUNCATE, Place::of_path(judge::pointer(&ctx, 0)))
}
