//! io_uring set-up, told by the anonymous inode that every ring gets.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{
    judge,
    kernel_field::{Address, field, read},
};

const IO_URING: [u8; 8] = *b"[io_urin";

/// `int inode_init_security_anon(struct inode *inode, const struct qstr *name,
/// const struct inode *context_inode)`
#[lsm(hook = "inode_init_security_anon")]
pub fn inode_init_security_anon(ctx: LsmContext) -> i32 {
    let text: Address = field!(judge::pointer(&ctx, 1), qstr_name);
    let start: u64 = read(text, 0);
    if start != u64::from_le_bytes(IO_URING) {
        return 0;
    }
    judge::lsm(kind::IO_URING, |_, _| {})
}
