//! Addresses of sockets: read from kernel copies, judged by the policy's address table.

use monitor_common::{
    network::{canonical, canonical_local, mapped_v4, protocol},
    policy::access,
    record::Peer,
};

use crate::{
    instance::Subject,
    kernel_field::{Address, field, read},
    policy,
    scratch::Scratch,
};

// include/linux/socket.h, include/linux/net.h.
pub const AF_UNSPEC: u16 = 0;
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const AF_NETLINK: u16 = 16;
pub const SOCK_STREAM: u16 = 1;
pub const SOCK_DGRAM: u16 = 2;
pub const SOCK_SEQPACKET: u16 = 5;

/// A `struct sockaddr_in` or `sockaddr_in6` in kernel memory. An unspecified family is taken for
/// the socket's own, as the protocols do.
#[inline(always)]
pub fn peer_at(address: Address, socket_family: u16) -> Peer {
    let given: u16 = read(address, 0);
    let port = u16::from_be(read(address, 2));
    let family = if given == AF_UNSPEC { socket_family } else { given };
    let address = match family {
        AF_INET => mapped_v4(u32::from_be(read(address, 4))),
        AF_INET6 => read(address, 8),
        _ => [0; 16],
    };
    Peer { address, port, family, ..Peer::default() }
}

/// The local address of a `struct sock`.
#[inline(always)]
pub fn local_of(sock: Address) -> Peer {
    let family: u16 = field!(sock, sock_family);
    let address = match family {
        AF_INET => mapped_v4(u32::from_be(field!(sock, sock_address4))),
        AF_INET6 => field!(sock, sock_address6),
        _ => [0; 16],
    };
    Peer { address, port: field!(sock, sock_num), family, ..Peer::default() }
}

/// Family of a `struct sock`.
#[inline(always)]
pub fn family_of(sock: Address) -> u16 {
    field!(sock, sock_family)
}

/// Adds type and protocol of a `struct sock`.
#[inline(always)]
pub fn with_protocol(peer: Peer, sock: Address) -> Peer {
    Peer { socket_type: field!(sock, sock_type), protocol: field!(sock, sock_protocol), ..peer }
}

/// Describes and judges an address; `asked` is [`access::CONNECT`], [`access::LISTEN`] or 0 for
/// what is only recorded.
#[inline(always)]
pub fn judge_peer(scratch: &mut Scratch, subject: &Subject, peer: Peer, asked: u8) {
    let internet = peer.family == AF_INET || peer.family == AF_INET6;
    let classes = if asked != 0 && internet {
        let transport = protocol::of(&peer);
        // To listen on 0.0.0.0 is to listen on every interface; to connect to it is loopback.
        let address = if asked == access::LISTEN {
            canonical_local(peer.address)
        } else {
            canonical(peer.address)
        };
        policy::classify_address(subject.policy, address, peer.port, transport)
    } else {
        0
    };
    scratch.record.peer = peer;
    policy::judge_classes(&mut scratch.record, subject, classes, asked);
}

/// What connects and sends ask.
pub const TO_PEER: u8 = access::CONNECT;
