//! Addresses in the kernel: the most specific prefix of a policy's table gives the port rules
//! that decide. Userspace fills each prefix with the rules of all prefixes around it, so that one
//! longest-prefix look-up is enough and `deny` wins however broad it is.

use crate::{policy::class, record::Peer, wire};

/// Port rules that one prefix can hold.
pub const PORT_RULES_MAX: usize = 16;

/// Transport protocols of a [`PortRule`].
pub mod protocol {
    use crate::record::Peer;

    /// TCP, MPTCP.
    pub const TCP: u8 = 1;
    /// UDP, UDP-Lite.
    pub const UDP: u8 = 2;
    /// Anything else: raw, ICMP, SCTP.
    pub const OTHER: u8 = 4;
    /// All of them.
    pub const ANY: u8 = 7;

    // include/linux/net.h, include/uapi/linux/in.h.
    const SOCK_STREAM: u16 = 1;
    const SOCK_DGRAM: u16 = 2;
    const SOCK_RAW: u16 = 3;
    const IPPROTO_TCP: u16 = 6;
    const IPPROTO_UDP: u16 = 17;
    const IPPROTO_UDPLITE: u16 = 136;
    const IPPROTO_MPTCP: u16 = 262;

    /// Bit that rules know a socket's transport by: by its protocol, or where that was left at 0 by
    /// its type. A raw socket writes its own header, so that its port says nothing.
    #[inline(always)]
    pub fn of(peer: &Peer) -> u8 {
        match peer.protocol {
            _ if peer.socket_type == SOCK_RAW => OTHER,
            IPPROTO_TCP | IPPROTO_MPTCP => TCP,
            IPPROTO_UDP | IPPROTO_UDPLITE => UDP,
            0 if peer.socket_type == SOCK_STREAM => TCP,
            0 if peer.socket_type == SOCK_DGRAM => UDP,
            _ => OTHER,
        }
    }
}

/// Key of the address table behind the prefix length: bits of `table`, then bits of `address`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressKey {
    /// [`crate::policy::Policy::network`], so that policies do not see each other.
    pub table: u32,
    /// IPv6 address, IPv4 as `::ffff:a.b.c.d`, made canonical by [`canonical`].
    pub address: [u8; 16],
}

/// Bits of [`AddressKey`] before the address.
pub const TABLE_BITS: u32 = 32;

/// What a range of ports means.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// First port, host byte order.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
    /// Bits of [`protocol`].
    pub protocols: u8,
    /// Unused, 0.
    pub reserved: [u8; 3],
    /// Bits of [`class`] that a matching address falls in.
    pub classes: u32,
}

/// Port rules of one prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRules {
    /// The rules, unused ones with `protocols` 0.
    pub rules: [PortRule; PORT_RULES_MAX],
}

wire!(AddressKey = 20, PortRule = 12, AddressRules = 192);

/// Port of DNS.
pub const DNS_PORT: u16 = 53;

/// Whether rules take a contact for a question to a resolver.
#[inline(always)]
pub fn is_dns(peer: &Peer) -> bool {
    peer.port == DNS_PORT && protocol::of(peer) & (protocol::TCP | protocol::UDP) != 0
}

/// One form for each destination: NAT64 (`64:ff9b::/96`) and IPv4-compatible addresses become
/// IPv4-mapped, and the unspecified address of each family becomes its loopback, as the kernel
/// itself routes it.
#[inline(always)]
pub fn canonical(address: [u8; 16]) -> [u8; 16] {
    let high = u64::from_be_bytes([
        address[0], address[1], address[2], address[3], address[4], address[5], address[6],
        address[7],
    ]);
    let middle = u32::from_be_bytes([address[8], address[9], address[10], address[11]]);
    let low = u32::from_be_bytes([address[12], address[13], address[14], address[15]]);
    let nat64 = high == 0x0064_ff9b_0000_0000 && middle == 0;
    let mapped = high == 0 && middle == 0xffff;
    if nat64 || mapped {
        return mapped_v4(if low == 0 { 0x7f00_0001 } else { low });
    }
    if high == 0 && middle == 0 {
        return match low {
            0 | 1 => loopback_v6(),
            _ => mapped_v4(low),
        };
    }
    address
}

/// [`canonical`] for an address to listen on, where the unspecified address is not loopback but
/// every interface, and so stays as it is.
#[inline(always)]
pub fn canonical_local(address: [u8; 16]) -> [u8; 16] {
    let unspecified_v4 = mapped_v4(0);
    if address == [0; 16] || address == unspecified_v4 { address } else { canonical(address) }
}

/// `::ffff:a.b.c.d` of an IPv4 address in host byte order.
#[inline(always)]
pub const fn mapped_v4(address: u32) -> [u8; 16] {
    let b = address.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]]
}

const fn loopback_v6() -> [u8; 16] {
    let mut address = [0; 16];
    address[15] = 1;
    address
}

/// Classes of a port and protocol under the rules of its prefix.
#[inline(always)]
pub fn classify(rules: &AddressRules, port: u16, protocol: u8) -> u32 {
    let mut classes = 0;
    let mut i = 0;
    while i < PORT_RULES_MAX {
        let rule = &rules.rules[i];
        if rule.protocols & protocol != 0 && rule.first <= port && port <= rule.last {
            classes |= rule.classes;
        }
        i += 1;
    }
    classes & (class::CONNECT | class::LISTEN | class::DENY | class::SETS)
}
