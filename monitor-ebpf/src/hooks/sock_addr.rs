//! Connects and sends on the tracepoint backend: cgroup programs on the root cgroup, which see
//! kernel copies of addresses and can refuse.

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use monitor_common::{
    network::mapped_v4,
    record::{Peer, kind},
};

use crate::{
    hooks::dns,
    instance::{self, Current},
    judge,
    network::{self, AF_INET, AF_INET6},
    policy::Means,
};

/// `BPF_CGROUP_INET4_CONNECT`
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    judge_peer(kind::CONNECT, peer4(ctx.sock_addr))
}

/// `BPF_CGROUP_INET6_CONNECT`
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    judge_peer(kind::CONNECT, peer6(ctx.sock_addr))
}

/// `BPF_CGROUP_UDP4_SENDMSG`
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge_peer(kind::SEND, peer4(ctx.sock_addr))
}

/// `BPF_CGROUP_UDP6_SENDMSG`
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge_peer(kind::SEND, peer6(ctx.sock_addr))
}

/// Whom a call names.
#[inline(always)]
pub fn peer4(address: *mut bpf_sock_addr) -> Peer {
    // SAFETY: the context of the program; the verifier checks each field.
    unsafe {
        Peer {
            address: mapped_v4(u32::from_be((*address).user_ip4)),
            port: u16::from_be((*address).user_port as u16),
            family: AF_INET,
            socket_type: (*address).type_ as u16,
            protocol: (*address).protocol as u16,
        }
    }
}

/// Whom a call on an IPv6 socket names.
#[inline(always)]
pub fn peer6(address: *mut bpf_sock_addr) -> Peer {
    // SAFETY: as above; each word is read by itself, as the verifier wants.
    unsafe {
        let words = [
            core::ptr::read_volatile(core::ptr::addr_of!((*address).user_ip6[0])),
            core::ptr::read_volatile(core::ptr::addr_of!((*address).user_ip6[1])),
            core::ptr::read_volatile(core::ptr::addr_of!((*address).user_ip6[2])),
            core::ptr::read_volatile(core::ptr::addr_of!((*address).user_ip6[3])),
        ];
        Peer {
            address: core::mem::transmute::<[u32; 4], [u8; 16]>(words),
            port: u16::from_be((*address).user_port as u16),
            family: AF_INET6,
            socket_type: (*address).type_ as u16,
            protocol: (*address).protocol as u16,
        }
    }
}

/// 1 lets the call pass, 0 refuses it with EPERM.
#[inline(always)]
fn judge_peer(event: u8, peer: Peer) -> i32 {
    match instance::current_without_signal() {
        Current::Untagged => 1,
        Current::Outlaw => 0,
        Current::Tagged(subject) if event == kind::SEND && dns::is_to_agent(&subject, &peer) => 1,
        Current::Tagged(subject) => {
            let refuse = judge::run(&subject, event, Means::RefuseOnly, |scratch, subject| {
                network::judge_peer(scratch, subject, peer, network::TO_PEER);
            });
            !refuse as i32
        }
    }
}
