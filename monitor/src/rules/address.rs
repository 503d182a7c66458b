//! Destinations as people write them: `10.0.0.0/8:5432/tcp`, `[2001:db8::1]:443`, `public:443`,
//! `api.github.com:443`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use monitor_common::network::{canonical, canonical_local, protocol};

use super::hostname::{self, HostName, HostNameError};

/// Private, shared, loopback, link-local, multicast, reserved and metadata addresses; `public` is
/// the rest. Documentation ranges are not among them: nobody answers there but test networks.
const NOT_PUBLIC_V4: [([u8; 4], u8); 12] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    // Azure's metadata service.
    ([168, 63, 129, 16], 32),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    // Multicast, reserved and broadcast.
    ([224, 0, 0, 0], 3),
];

/// Within `2000::/3`: IETF protocols with Teredo, 6to4. The tunnels are left out
/// because they lead to an IPv4 address that nobody has judged.
const NOT_PUBLIC_V6: [([u16; 2], u8); 2] = [([0x2001, 0], 23), ([0x2002, 0], 16)];

/// A prefix of addresses. IPv4 stands as IPv4-mapped IPv6; the families do not cover each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// 0 to 128.
    pub bits: u8,
    /// Bits behind the prefix are 0.
    pub address: u128,
}

impl Prefix {
    /// All of IPv4.
    pub const V4: Self = Self { bits: 96, address: 0xffff << 32 };
    /// Global unicast IPv6.
    const V6_GLOBAL: Self = Self { bits: 3, address: 0x2000 << 112 };

    fn mask(bits: u8) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
    }

    /// Whether all of `other` lies within, in the sense of bits.
    pub fn contains(&self, other: &Self) -> bool {
        self.bits <= other.bits && (self.address ^ other.address) & Self::mask(self.bits) == 0
    }

    fn is_v4(&self) -> bool {
        Self::V4.contains(self)
    }

    fn v4(address: [u8; 4], bits: u8) -> Self {
        Self {
            bits: 96 + bits,
            address: Self::V4.address | u128::from(u32::from_be_bytes(address)),
        }
    }

    fn v6(high: [u16; 2], bits: u8) -> Self {
        Self { bits, address: u128::from(high[0]) << 112 | u128::from(high[1]) << 96 }
    }
}

/// Prefixes at which `public` ends.
pub fn not_public() -> impl Iterator<Item = Prefix> {
    let v4 = NOT_PUBLIC_V4.into_iter().map(|(address, bits)| Prefix::v4(address, bits));
    v4.chain(NOT_PUBLIC_V6.into_iter().map(|(high, bits)| Prefix::v6(high, bits)))
}

/// The addresses of a [`Destination`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Everything that is not private, loopback, link-local, multicast or metadata.
    Public,
    /// One prefix.
    Within(Prefix),
}

impl Place {
    /// Prefixes at which the answer to [`Place::covers`] can change.
    pub fn edges(&self) -> Vec<Prefix> {
        match self {
            Self::Public => not_public().chain([Prefix::V4, Prefix::V6_GLOBAL]).collect(),
            Self::Within(prefix) => vec![*prefix, Prefix::V4],
        }
    }

    /// Whether all addresses of `prefix` belong to it.
    pub fn covers(&self, prefix: &Prefix) -> bool {
        match self {
            Self::Public => {
                (prefix.is_v4() || Prefix::V6_GLOBAL.contains(prefix))
                    && !not_public().any(|special| special.contains(prefix))
            }
            Self::Within(own) => own.is_v4() == prefix.is_v4() && own.contains(prefix),
        }
    }
}

/// Addresses, ports and protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Which addresses.
    pub place: Place,
    /// First and last port.
    pub ports: (u16, u16),
    /// Bits of [`protocol`].
    pub protocols: u8,
}

impl Destination {
    /// Whether all of `other` belongs to it.
    pub fn covers(&self, other: &Self) -> bool {
        let place = match other.place {
            Place::Public => self.place == other.place,
            Place::Within(prefix) => self.place.covers(&prefix),
        };
        let ports = self.ports.0 <= other.ports.0 && other.ports.1 <= self.ports.1;
        place && ports && other.protocols & !self.protocols == 0
    }
}

/// A host, ports and protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDestination {
    /// Which names.
    pub name: HostName,
    /// First and last port.
    pub ports: (u16, u16),
    /// Bits of [`protocol`].
    pub protocols: u8,
}

impl NamedDestination {
    /// Whether a port is meant. Resolvers ask the kernel which of a host's addresses it would
    /// reach, by UDP sockets that they connect to port 0 and never write to.
    pub fn covers(&self, port: u16, protocol: u8) -> bool {
        let (first, last) = self.ports;
        let listed = self.protocols & protocol != 0 && (first..=last).contains(&port);
        listed || (port == PROBE.0 && protocol & PROBE.1 != 0)
    }
}

/// Port and protocol of what [`NamedDestination::covers`] besides its own.
pub const PROBE: (u16, u8) = (0, protocol::UDP);

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Addresses.
    Addresses(Destination),
    /// A host.
    Host(NamedDestination),
}

/// What a destination is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An allow of connects: TCP and UDP, unless it says which.
    Connect,
    /// An allow of listening, where `0.0.0.0` means every interface and not loopback.
    Listen,
    /// A refusal or a set: every protocol, unless it says which.
    Refuse,
}

/// Why a text is not a destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the address is empty")]
    Empty,
    #[error("a host name says where to connect to, not where to listen")]
    HostListen,
    #[error("a host cannot be refused by its name: whoever knows its address need not ask")]
    HostRefuse,
    #[error(transparent)]
    HostName(#[from] HostNameError),
    #[error("{0:?} is not an address, a network or `public`")]
    NotAnAddress(String),
    #[error("an IPv6 address with a port stands in brackets")]
    Brackets,
    #[error("{0:?} is not a port or a range of ports")]
    Ports(String),
    #[error("the range {0}-{1} runs backwards")]
    BackwardPorts(u16, u16),
    #[error("{0:?} is not a protocol")]
    Protocol(String),
    #[error("{0:?} is not a prefix length of this address")]
    PrefixLength(String),
    #[error("the network has address bits beyond its prefix")]
    HostBits(String),
    #[error("`public` says where to connect to, not where to listen")]
    PublicListen,
}

impl AddressError {
    /// What to write instead.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::HostListen => "write an address of this machine".to_owned(),
            Self::HostRefuse => {
                "write its addresses, or leave it out of network.connect".to_owned()
            }
            Self::HostName(error) => return error.help(),
            Self::NotAnAddress(text) if text == "*" || text == "any" => {
                "every address is 0.0.0.0/0 and [::/0], the internet is public".to_owned()
            }
            Self::NotAnAddress(text) if text == "localhost" => {
                "write 127.0.0.1 and [::1]".to_owned()
            }
            Self::Brackets => "write [2001:db8::1]:443".to_owned(),
            Self::Ports(_) => "write :443 or :8000-8999".to_owned(),
            Self::Protocol(_) => "write /tcp or /udp".to_owned(),
            Self::HostBits(network) => format!("write {network}"),
            _ => return None,
        })
    }
}

/// The variable that an entry is, when it is one.
pub fn variable(text: &str) -> Option<&str> {
    text.strip_prefix("${")?.strip_suffix('}').filter(|name| !name.contains('}'))
}

/// Parses an entry.
pub fn parse(text: &str, purpose: Purpose) -> Result<Target, AddressError> {
    let (text, protocols) = split_protocol(text, purpose)?;
    let (host, ports) = split_ports(text)?;
    let is_host = hostname::looks_like(host) && host.parse::<IpAddr>().is_err();
    let name = match purpose {
        Purpose::Connect if is_host => Some(HostName::parse(host)?),
        Purpose::Listen if is_host => return Err(AddressError::HostListen),
        Purpose::Refuse if is_host => return Err(AddressError::HostRefuse),
        _ => None,
    };
    let ports = || ports.map_or(Ok((0, u16::MAX)), parse_ports);
    if let Some(name) = name {
        return Ok(Target::Host(NamedDestination { name, ports: ports()?, protocols }));
    }
    let place = match host {
        "public" if purpose == Purpose::Listen => return Err(AddressError::PublicListen),
        "public" => Place::Public,
        _ => Place::Within(prefix(host, purpose)?),
    };
    Ok(Target::Addresses(Destination { place, ports: ports()?, protocols }))
}

fn split_protocol(text: &str, purpose: Purpose) -> Result<(&str, u8), AddressError> {
    let unsaid =
        if purpose == Purpose::Refuse { protocol::ANY } else { protocol::TCP | protocol::UDP };
    let Some((before, last)) = text.rsplit_once('/') else { return Ok((text, unsaid)) };
    match last {
        "tcp" => Ok((before, protocol::TCP)),
        "udp" => Ok((before, protocol::UDP)),
        _ if last.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            Err(AddressError::Protocol(last.to_owned()))
        }
        _ => Ok((text, unsaid)),
    }
}

fn split_ports(text: &str) -> Result<(&str, Option<&str>), AddressError> {
    if text.is_empty() {
        return Err(AddressError::Empty);
    }
    if text.starts_with('[') {
        let end = text.rfind(']').ok_or(AddressError::Brackets)?;
        return match text[end..].split_once(':') {
            Some((between, ports)) => Ok((&text[..end + between.len()], Some(ports))),
            None => Ok((text, None)),
        };
    }
    match text.matches(':').count() {
        0 => Ok((text, None)),
        1 => Ok(text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports)))),
        // `2001:db8::1:443` could be read in two ways only when it ends in what may be a port,
        // and it is then always an address too: it is taken as one.
        _ => Ok((text, None)),
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16), AddressError> {
    let port = |word: &str| {
        let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| word.parse().ok())
            .flatten()
            .ok_or_else(|| AddressError::Ports(text.to_owned()))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(AddressError::BackwardPorts(first, last));
    }
    Ok((first, last))
}

fn prefix(host: &str, purpose: Purpose) -> Result<Prefix, AddressError> {
    let bare = host.replace(['[', ']'], "");
    let (address, length) = match bare.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (bare.as_str(), None),
    };
    let parsed: IpAddr = address.parse().map_err(|_| not_an_address(host))?;
    let (width, offset) = if parsed.is_ipv4() { (32, 96) } else { (128, 0) };
    let bits = match length {
        None => width,
        Some(length) => length
            .parse()
            .ok()
            .filter(|bits| *bits <= width)
            .ok_or_else(|| AddressError::PrefixLength(length.to_owned()))?,
    };
    let number = match parsed {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) | Prefix::V4.address,
        IpAddr::V6(v6) => u128::from(v6),
    };
    let prefix = Prefix { bits: bits + offset, address: number & Prefix::mask(bits + offset) };
    if prefix.address != number {
        return Err(AddressError::HostBits(network_text(prefix, parsed.is_ipv4(), bits)));
    }
    Ok(canonical_prefix(prefix, purpose))
}

fn network_text(prefix: Prefix, v4: bool, bits: u8) -> String {
    if v4 {
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the IPv4 address")]
        let low = prefix.address as u32;
        format!("{}/{bits}", Ipv4Addr::from(low))
    } else {
        format!("[{}/{bits}]", Ipv6Addr::from(prefix.address))
    }
}

/// The prefix that the kernel's canonical addresses fall in.
fn canonical_prefix(prefix: Prefix, purpose: Purpose) -> Prefix {
    let bytes = prefix.address.to_be_bytes();
    if prefix.bits == 128 {
        let local = purpose == Purpose::Listen;
        let bytes = if local { canonical_local(bytes) } else { canonical(bytes) };
        return Prefix { bits: 128, address: u128::from_be_bytes(bytes) };
    }
    let nat64 = Prefix { bits: 96, address: 0x64_ff9b << 96 };
    if nat64.contains(&prefix) {
        return Prefix {
            bits: prefix.bits,
            address: prefix.address ^ nat64.address ^ Prefix::V4.address,
        };
    }
    prefix
}

fn not_an_address(host: &str) -> AddressError {
    if host.starts_with('[') && !host.contains(']') {
        return AddressError::Brackets;
    }
    AddressError::NotAnAddress(host.to_owned())
}
