//! Connects to AF_UNIX stream sockets.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{judge, unix_socket};

/// `int unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`
#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let other = judge::pointer(&ctx, 1);
    judge::lsm(kind::UNIX, |scratch, subject| {
        unix_socket::judge_sock(scratch, subject, other, unix_socket::TO_SOCKET);
    })
}
