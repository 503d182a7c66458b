//! Destinations to the address table: for each prefix the port rules of all rules around it, so
//! that the kernel's one longest-prefix look-up sees them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use monitor_common::network::{AddressRules, PORT_RULES_MAX, PortRule};

use super::super::{address::Prefix, load::AddressRule, source::Origin};

/// More port ranges meet at one prefix than it can hold.
#[derive(Debug)]
pub struct TooManyPorts {
    /// The last rule that counts there.
    pub origin: Arc<Origin>,
    prefix: Prefix,
    count: usize,
}

impl fmt::Display for TooManyPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Prefix { bits, address } = self.prefix;
        let v6 = Ipv6Addr::from(address);
        write!(f, "{} port ranges meet in ", self.count)?;
        match v6.to_ipv4_mapped() {
            Some(v4) if bits >= 96 => write!(f, "{}/{}", Ipv4Addr::from(v4.octets()), bits - 96)?,
            _ => write!(f, "[{v6}/{bits}]")?,
        }
        write!(f, ", more than {PORT_RULES_MAX}")
    }
}

/// What an address stands under by itself: all rules around it, and those given.
pub fn single(
    rules: &[AddressRule],
    more: &[AddressRule],
    address: u128,
) -> Result<AddressRules, TooManyPorts> {
    let edge = Prefix { bits: 128, address };
    let around = rules.iter().filter(|rule| rule.destination.place.covers(&edge));
    port_rules(&edge, &around.chain(more).collect::<Vec<_>>())
}

/// Builds the table. Prefixes that say the same as the one around them are left out.
pub fn table(rules: &[AddressRule]) -> Result<Vec<(u8, [u8; 16], AddressRules)>, TooManyPorts> {
    let edges: BTreeSet<Prefix> =
        rules.iter().flat_map(|rule| rule.destination.place.edges()).collect();
    let mut table: Vec<(u8, [u8; 16], AddressRules)> = Vec::new();
    let nothing = AddressRules { rules: [PortRule::default(); PORT_RULES_MAX] };
    // In the order of Prefix the shorter ones come first: what is around is already there.
    for edge in edges {
        let covering: Vec<&AddressRule> =
            rules.iter().filter(|rule| rule.destination.place.covers(&edge)).collect();
        let ports = port_rules(&edge, &covering)?;
        if ports != *look_up(&table, edge.address).unwrap_or(&nothing) {
            table.push((edge.bits, edge.address.to_be_bytes(), ports));
        }
    }
    Ok(table)
}

/// What the longest prefix around an address says.
pub fn look_up(table: &[(u8, [u8; 16], AddressRules)], address: u128) -> Option<&AddressRules> {
    let whole = Prefix { bits: 128, address };
    table
        .iter()
        .filter(|(bits, prefix, _)| {
            Prefix { bits: *bits, address: u128::from_be_bytes(*prefix) }.contains(&whole)
        })
        .max_by_key(|(bits, ..)| *bits)
        .map(|(_, _, rules)| rules)
}

fn port_rules(edge: &Prefix, covering: &[&AddressRule]) -> Result<AddressRules, TooManyPorts> {
    let mut ranges: BTreeMap<(u32, u8), Vec<(u16, u16)>> = BTreeMap::new();
    let mut same: BTreeMap<(u8, (u16, u16)), u32> = BTreeMap::new();
    for rule in covering {
        let destination = &rule.destination;
        *same.entry((destination.protocols, destination.ports)).or_default() |= rule.class;
    }
    for ((protocols, ports), classes) in same {
        ranges.entry((classes, protocols)).or_default().push(ports);
    }
    let mut all = Vec::new();
    for ((classes, protocols), ranges) in ranges {
        for (first, last) in joined(ranges) {
            all.push(PortRule { first, last, protocols, reserved: [0; 3], classes });
        }
    }
    let mut rules = AddressRules { rules: [PortRule::default(); PORT_RULES_MAX] };
    match (rules.rules.get_mut(..all.len()), covering.last()) {
        (Some(free), _) => free.copy_from_slice(&all),
        (None, Some(last)) => {
            let (origin, count) = (last.origin.clone(), all.len());
            return Err(TooManyPorts { origin, prefix: *edge, count });
        }
        (None, None) => {}
    }
    Ok(rules)
}

/// Joins ranges that overlap or touch.
fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut all: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match all.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => {
                before.1 = before.1.max(last);
            }
            _ => all.push((first, last)),
        }
    }
    all
}
