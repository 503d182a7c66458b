//! Opens, on kernel objects: whichever call or io_uring request they come from.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{
    judge::{self, FMODE_CREATED, Noted, Opened},
    kernel_field::load,
    label,
    path::Place,
};

/// `__FMODE_EXEC` of include/linux/fs.h.
const FMODE_EXEC_FLAG: u32 = 0x20;

/// `int file_open(struct file *file)`. Opens that execve makes are judged by its own hook.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let file = judge::pointer(&ctx, 0);
    let mode: u32 = load!(file, file_mode);
    if mode & FMODE_CREATED != 0 {
        label::inherit(load!(file, file_inode), &Place::of_file(judge::address(&ctx, 0)));
    }
    let flags: u32 = load!(file, file_flags);
    judge::lsm_noting(kind::OPEN, |scratch, subject| match flags & FMODE_EXEC_FLAG {
        0 => {
            let opened = Opened::of_argument(scratch, file);
            judge::judge_file(scratch, subject, &opened)
        }
        _ => Noted::No,
    })
}
