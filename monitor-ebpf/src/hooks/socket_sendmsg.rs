//! Sends that name their destination: UDP without connect, TCP Fast Open, raw sockets.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{
    judge,
    kernel_field::{Address, field},
    network::{self, AF_NETLINK, AF_UNIX},
};

/// `int socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)`
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let message = judge::pointer(&ctx, 1);
    let name: Address = field!(message, msghdr_name);
    if name == 0 {
        return 0;
    }
    let sock: Address = field!(judge::pointer(&ctx, 0), socket_sk);
    let family = network::family_of(sock);
    if family == AF_UNIX || family == AF_NETLINK {
        return 0;
    }
    judge::lsm(kind::SEND, |scratch, subject| {
        let peer = network::with_protocol(network::peer_at(name, family), sock);
        network::judge_peer(scratch, subject, peer, network::TO_PEER);
    })
}
