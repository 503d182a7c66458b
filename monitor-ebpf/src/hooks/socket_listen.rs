//! Listening sockets, TCP and AF_UNIX.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{policy::access, record::kind};

use crate::{
    judge,
    kernel_field::{Address, field},
    network::{self, AF_UNIX},
    unix_socket,
};

/// `int socket_listen(struct socket *sock, int backlog)`
#[lsm(hook = "socket_listen")]
pub fn socket_listen(ctx: LsmContext) -> i32 {
    let sock: Address = field!(judge::pointer(&ctx, 0), socket_sk);
    judge::lsm(kind::LISTEN, |scratch, subject| {
        if network::family_of(sock) == AF_UNIX {
            unix_socket::judge_sock(scratch, subject, sock, access::LISTEN);
        } else {
            let peer = network::with_protocol(network::local_of(sock), sock);
            network::judge_peer(scratch, subject, peer, access::LISTEN);
        }
    })
}
