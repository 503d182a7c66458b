//! Binds: recorded; listening is what rules speak about.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{
    judge,
    kernel_field::{Address, field},
    network::{self, AF_INET, AF_INET6},
};

/// `int socket_bind(struct socket *sock, struct sockaddr *address, int addrlen)`
#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let sock: Address = field!(judge::pointer(&ctx, 0), socket_sk);
    let family = network::family_of(sock);
    if family != AF_INET && family != AF_INET6 {
        return 0;
    }
    let address = judge::pointer(&ctx, 1);
    judge::lsm(kind::BIND, |scratch, subject| {
        let peer = network::with_protocol(network::peer_at(address, family), sock);
        network::judge_peer(scratch, subject, peer, 0);
    })
}
