//! Descriptors received from other processes: judged as an open of the same file.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    file::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFMT, S_IFREG},
    record::{kind, process},
};

use crate::{
    judge::{self, Opened},
    kernel_field::{Address, field},
};

/// `int file_receive(struct file *file)`
#[lsm(hook = "file_receive")]
pub fn file_receive(ctx: LsmContext) -> i32 {
    let file = judge::pointer(&ctx, 0);
    let inode: Address = field!(file, file_inode);
    let mode: u16 = field!(inode, inode_mode);
    if !matches!(mode as u32 & S_IFMT, S_IFREG | S_IFDIR | S_IFCHR | S_IFBLK) {
        // Pipes and sockets have no name that a rule could cover.
        return 0;
    }
    judge::lsm(kind::PROCESS, |scratch, subject| {
        scratch.record.op = process::DESCRIPTOR;
        let opened = Opened::of_argument(scratch, file);
        judge::judge_file(scratch, subject, &opened);
    })
}
