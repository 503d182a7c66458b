//! DNS of instances whose rules name hosts, on both backends: cgroup programs on the root cgroup
//! send it to the agent, which asks the resolvers of the host. Who reads an answer or asks for the
//! peer sees the one that was meant: resolvers take answers from nobody else.
//!
//! They are attached behind those that judge, which see the address that was given. While the agent
//! does not answer, DNS is refused.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use monitor_common::{
    network::{is_dns, mapped_v4},
    record::Peer,
};

use crate::{
    hooks::sock_addr::{peer4, peer6},
    instance::{self, Current, Subject},
    maps::{INSTANCES, REDIRECTED},
};

/// 127.0.0.1 and its mapped form.
const LOOPBACK_V4: u32 = 0x7f00_0001;
const LOOPBACK_MAPPED: [u32; 4] = words(mapped_v4(LOOPBACK_V4));
/// ::1.
const LOOPBACK_V6: [u32; 4] = [0, 0, 0, 1_u32.to_be()];

/// `BPF_CGROUP_INET4_CONNECT`
#[cgroup_sock_addr(connect4)]
pub fn dns_connect4(ctx: SockAddrContext) -> i32 {
    redirect4(ctx.sock_addr)
}

/// `BPF_CGROUP_UDP4_SENDMSG`
#[cgroup_sock_addr(sendmsg4)]
pub fn dns_sendmsg4(ctx: SockAddrContext) -> i32 {
    redirect4(ctx.sock_addr)
}

/// `BPF_CGROUP_INET6_CONNECT`
#[cgroup_sock_addr(connect6)]
pub fn dns_connect6(ctx: SockAddrContext) -> i32 {
    redirect6(ctx.sock_addr)
}

/// `BPF_CGROUP_UDP6_SENDMSG`
#[cgroup_sock_addr(sendmsg6)]
pub fn dns_sendmsg6(ctx: SockAddrContext) -> i32 {
    redirect6(ctx.sock_addr)
}

/// `BPF_CGROUP_UDP4_RECVMSG`, which cannot refuse
#[cgroup_sock_addr(recvmsg4)]
pub fn dns_recvmsg4(ctx: SockAddrContext) -> i32 {
    restore4(ctx.sock_addr);
    1
}

/// `BPF_CGROUP_INET4_GETPEERNAME`, which cannot refuse
#[cgroup_sock_addr(getpeername4)]
pub fn dns_getpeername4(ctx: SockAddrContext) -> i32 {
    restore4(ctx.sock_addr);
    1
}

/// `BPF_CGROUP_UDP6_RECVMSG`, which cannot refuse
#[cgroup_sock_addr(recvmsg6)]
pub fn dns_recvmsg6(ctx: SockAddrContext) -> i32 {
    restore6(ctx.sock_addr);
    1
}

/// `BPF_CGROUP_INET6_GETPEERNAME`, which cannot refuse
#[cgroup_sock_addr(getpeername6)]
pub fn dns_getpeername6(ctx: SockAddrContext) -> i32 {
    restore6(ctx.sock_addr);
    1
}

/// 1 lets the call pass, 0 refuses it with EPERM.
#[inline(always)]
fn redirect4(address: *mut bpf_sock_addr) -> i32 {
    let meant = peer4(address);
    match divert(address, &meant) {
        Way::AsItIs => 1,
        Way::Nowhere => 0,
        Way::ToAgent(port) => {
            write4(address, LOOPBACK_V4.to_be(), port);
            1
        }
    }
}

#[inline(always)]
fn redirect6(address: *mut bpf_sock_addr) -> i32 {
    let meant = peer6(address);
    match divert(address, &meant) {
        Way::AsItIs => 1,
        Way::Nowhere => 0,
        Way::ToAgent(port) => {
            // A socket that is used for IPv4 stays with it.
            let mapped = words(meant.address)[2] == LOOPBACK_MAPPED[2];
            write6(address, if mapped { LOOPBACK_MAPPED } else { LOOPBACK_V6 }, port);
            1
        }
    }
}

#[inline(always)]
fn restore4(address: *mut bpf_sock_addr) {
    let from = peer4(address);
    if let Some(meant) = meant(address, &from) {
        write4(address, words(meant.address)[3], meant.port);
    }
}

#[inline(always)]
fn restore6(address: *mut bpf_sock_addr) {
    let from = peer6(address);
    if let Some(meant) = meant(address, &from) {
        write6(address, words(meant.address), meant.port);
    }
}

/// Where a call goes.
enum Way {
    AsItIs,
    Nowhere,
    /// The agent's port, host byte order.
    ToAgent(u16),
}

/// Where a connect or send goes; the socket remembers whom it meant.
#[inline(always)]
fn divert(address: *mut bpf_sock_addr, meant: &Peer) -> Way {
    if !is_dns(meant) {
        return Way::AsItIs;
    }
    let Some(port) = resolver() else { return Way::AsItIs };
    if port == 0 || REDIRECTED.insert(cookie(address), meant, 0).is_err() {
        return Way::Nowhere;
    }
    Way::ToAgent(port)
}

/// Whom a socket meant that hears from the agent.
#[inline(always)]
fn meant(address: *mut bpf_sock_addr, from: &Peer) -> Option<Peer> {
    let port = resolver()?;
    if port == 0 || from.port != port {
        return None;
    }
    // SAFETY: a map value; what is read of an evicted one is an answer's wrong sender.
    unsafe { REDIRECTED.get(cookie(address)) }.copied()
}

/// The port of the agent for the running process, 0 while it does not answer; `None` for processes
/// whose DNS it has nothing to do with, and for sentenced ones, whom others refuse.
#[inline(always)]
fn resolver() -> Option<u16> {
    let Current::Tagged(subject) = instance::current_without_signal() else { return None };
    resolver_of(&subject)
}

/// Whether a send goes to the agent. On an IPv6 socket that is connected to an IPv4 address each
/// send passes the hook again, with the address that the connect was given by us.
#[inline(always)]
pub fn is_to_agent(subject: &Subject, peer: &Peer) -> bool {
    let loopback = words(peer.address) == LOOPBACK_MAPPED || words(peer.address) == LOOPBACK_V6;
    loopback && peer.port != 0 && resolver_of(subject) == Some(peer.port)
}

#[inline(always)]
fn resolver_of(subject: &Subject) -> Option<u16> {
    if subject.policy.names == 0 {
        return None;
    }
    let state = INSTANCES.get_ptr(subject.tag.slot)?;
    // SAFETY: a map value; volatile because userspace replaces the word.
    Some(unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*state).resolver)) } as u16)
}

#[inline(always)]
fn cookie(address: *mut bpf_sock_addr) -> u64 {
    // SAFETY: the context of the program, as the helper wants.
    unsafe { bpf_get_socket_cookie(address.cast::<c_void>()) }
}

/// An address as the context has it: words in network byte order.
const fn words(address: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are plain bytes.
    unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(address) }
}

#[inline(always)]
fn write4(address: *mut bpf_sock_addr, ip: u32, port: u16) {
    // SAFETY: the context of the program; whole words, as the verifier wants.
    unsafe {
        core::ptr::addr_of_mut!((*address).user_ip4).write_volatile(ip);
        core::ptr::addr_of_mut!((*address).user_port).write_volatile(port.to_be() as u32);
    }
}

#[inline(always)]
fn write6(address: *mut bpf_sock_addr, ip: [u32; 4], port: u16) {
    // SAFETY: as above; each word by itself.
    unsafe {
        core::ptr::addr_of_mut!((*address).user_ip6[0]).write_volatile(ip[0]);
        core::ptr::addr_of_mut!((*address).user_ip6[1]).write_volatile(ip[1]);
        core::ptr::addr_of_mut!((*address).user_ip6[2]).write_volatile(ip[2]);
        core::ptr::addr_of_mut!((*address).user_ip6[3]).write_volatile(ip[3]);
        core::ptr::addr_of_mut!((*address).user_port).write_volatile(port.to_be() as u32);
    }
}
