//! `/etc/hosts` (hosts(5)): names that servers look up without asking anybody.

use std::{collections::BTreeMap, net::IpAddr};

use monitor_common::network::mapped_v4;

/// Addresses by name, names in lower case.
pub fn parse(text: &str) -> BTreeMap<String, Vec<[u8; 16]>> {
    let mut hosts: BTreeMap<String, Vec<[u8; 16]>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            hosts.entry(name).or_default().push(bytes(address));
        }
    }
    hosts
}

/// An address as records have it.
pub fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped_v4(address.to_bits()),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_line_has_its_address() {
        let hosts = parse(
            "127.0.0.1 localhost # the machine\n1.2.3.4\tA.example. b.example\n::1 localhost\n\
             nonsense x.example\n# 9.9.9.9 c.example\n",
        );
        assert_eq!(hosts["localhost"].len(), 2);
        assert_eq!(hosts["a.example"], [mapped_v4(0x0102_0304)]);
        assert_eq!(hosts["b.example"], hosts["a.example"]);
        assert_eq!(hosts.len(), 3);
    }
}
