//! Addresses as entries of `[network]`.

use std::net::{IpAddr, SocketAddr};

use super::{
    super::address::{Place, Prefix},
    List,
    places::Places,
};
use monitor_common::network::protocol;

/// Ports that Linux hands out to who asks for none: another one at every start.
const HANDED_OUT: std::ops::RangeInclusive<u16> = 32768..=60999;

/// Who was contacted, or where was listened.
pub struct Peer<'a> {
    /// Address and port.
    pub address: SocketAddr,
    /// One bit of [`protocol`].
    pub protocol: u8,
    /// The host, where a question for it led to the address.
    pub host: Option<&'a str>,
}

impl Peer<'_> {
    /// The narrowest entry that will still hold tomorrow.
    pub fn entry(&self, list: List, places: &Places) -> String {
        let (ip, port) = (self.address.ip().to_canonical(), self.address.port());
        let end = match self.protocol {
            protocol::TCP => "/tcp",
            protocol::UDP => "/udp",
            _ => "",
        };
        let exact = format!("{}:{port}{end}", host_text(ip));
        if list == List::Connect {
            let named = |(_, entry): &&(String, String)| {
                *entry == exact
                    || self.host.is_some_and(|host| *entry == format!("{host}:{port}{end}"))
            };
            if let Some((variable, _)) = places.addresses.iter().find(named) {
                return variable.clone();
            }
            if let Some(host) = self.host {
                return format!("{host}:{port}{end}");
            }
            if is_public(ip) {
                return format!("public:{port}{end}");
            }
        }
        if port == 0 {
            return host_text(ip);
        }
        if HANDED_OUT.contains(&port) {
            let (first, last) = (HANDED_OUT.start(), HANDED_OUT.end());
            return format!("{}:{first}-{last}{end}", host_text(ip));
        }
        exact
    }
}

fn host_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn is_public(ip: IpAddr) -> bool {
    let bits = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    Place::Public.covers(&Prefix { bits: 128, address: bits })
}
