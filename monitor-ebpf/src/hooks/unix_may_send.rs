//! Connects of and sends to AF_UNIX datagram sockets. A peer without a name was handed over or made
//! by the tree itself, and each of its many sends would be an event: not recorded.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{
    judge::{self, Noted},
    kernel_field::{Address, field},
    unix_socket,
};

/// `int unix_may_send(struct socket *sock, struct socket *other)`
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    let other: Address = field!(judge::pointer(&ctx, 1), socket_sk);
    judge::lsm_noting(kind::UNIX, |scratch, subject| {
        match unix_socket::judge_sock(scratch, subject, other, unix_socket::TO_SOCKET) {
            true => Noted::Yes,
            false => Noted::No,
        }
    })
}
