//! ftruncate and O_TRUNC, where kernels since 6.2 no longer go through `path_truncate`.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::change;

use crate::{judge, path::Place};

/// `int file_truncate(struct file *file)`, since 6.2
#[lsm(hook = "file_truncate")]
pub fn file_truncate(ctx: LsmContext) -> i32 {
    judge::change_at(change::TRUNCATE, Place::of_file(judge::pointer(&ctx, 0)))
}
