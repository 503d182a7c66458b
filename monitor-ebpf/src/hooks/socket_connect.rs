//! Connects of every family and socket type, addresses as copied into the kernel. AF_UNIX is
//! judged where the peer is known: `unix_stream_connect`, `unix_may_send`.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{
    judge,
    kernel_field::{Address, field, read},
    network::{self, AF_UNIX, AF_UNSPEC},
};

/// `int socket_connect(struct socket *sock, struct sockaddr *address, int addrlen)`
#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let sock: Address = field!(judge::pointer(&ctx, 0), socket_sk);
    let address = judge::pointer(&ctx, 1);
    let given: u16 = read(address, 0);
    if given == AF_UNIX || given == AF_UNSPEC {
        // AF_UNSPEC takes a connection away and makes none.
        return 0;
    }
    judge::lsm(kind::CONNECT, |scratch, subject| {
        let peer = network::peer_at(address, network::family_of(sock));
        let peer = network::with_protocol(peer, sock);
        network::judge_peer(scratch, subject, peer, network::TO_PEER);
    })
}
