//! Sockets of families and types that no rule names: raw, packet, vsock and the like. They are
//! judged as a connect to nothing that is listed.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    network::protocol,
    policy::access,
    record::{Peer, kind},
};

use crate::{
    judge,
    network::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM},
    policy,
};

/// `int socket_create(int family, int type, int protocol, int kern)`
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let family = ctx.arg::<u32>(0) as u16;
    let socket_type = ctx.arg::<u32>(1) as u16;
    let protocol = ctx.arg::<u32>(2) as u16;
    if ctx.arg::<u32>(3) != 0 || !unusual(family, socket_type, protocol) {
        return 0;
    }
    judge::lsm(kind::SOCKET, |scratch, subject| {
        scratch.record.peer = Peer { family, socket_type, protocol, ..Peer::default() };
        policy::judge_classes(&mut scratch.record, subject, 0, access::CONNECT);
    })
}

/// Whether connects and sends of such a socket would escape the other hooks.
#[inline(always)]
pub fn unusual(family: u16, socket_type: u16, protocol: u16) -> bool {
    if family == AF_UNIX || family == AF_NETLINK {
        return false;
    }
    let peer = Peer { family, socket_type, protocol, ..Peer::default() };
    let common = matches!(socket_type, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET);
    let internet = family == AF_INET || family == AF_INET6;
    !internet || !common || protocol::of(&peer) == protocol::OTHER
}
