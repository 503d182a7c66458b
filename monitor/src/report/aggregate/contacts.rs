//! Addresses and sockets that one instance contacted or offered.

use std::{collections::HashMap, net::IpAddr};

use super::{Budget, Seen, set_names};
use crate::{
    event::{Bytes, Contact},
    report::model::{Actor, Capped, Contacted, Effect, Scope, Span},
};

/// Contacts that are told.
const CONTACTS_MAX: usize = 1000;

/// See the module.
#[derive(Default)]
pub(super) struct Contacts {
    entries: HashMap<(&'static str, Bytes), Entry>,
    beyond: u64,
}

struct Entry {
    name: Option<String>,
    scope: Scope,
    sets: u32,
    count: u64,
    refused: u64,
    span: Span,
    actor: Actor,
}

/// One contact.
pub(super) struct Call {
    pub what: &'static str,
    pub subject: Bytes,
    pub name: Option<String>,
    pub scope: Scope,
    pub sets: u32,
}

impl Contacts {
    pub(super) fn add(&mut self, seen: &Seen<'_>, call: &Call, budget: &mut Budget) {
        let key = (call.what, call.subject.clone());
        if !self.entries.contains_key(&key) {
            let name = call.name.as_ref().map_or(0, String::len);
            let exe = seen.observed.process.image.exe.as_bytes().len();
            if !budget.take(call.subject.as_bytes().len() + name + exe) {
                self.beyond += 1;
                return;
            }
            let entry = Entry {
                name: call.name.clone(),
                scope: call.scope,
                sets: 0,
                count: 0,
                refused: 0,
                span: Span { from: seen.time, to: seen.time },
                actor: seen.actor(),
            };
            self.entries.insert(key.clone(), entry);
        }
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.count += 1;
        entry.refused += u64::from(seen.effect == Effect::Refused);
        entry.sets |= seen.sets(call.sets);
        entry.span.to = entry.span.to.max(seen.time);
    }

    pub(super) fn finish(self) -> Capped<Contacted> {
        let told = |((what, subject), entry): ((&'static str, Bytes), Entry)| {
            let Entry { name, scope, sets, count, refused, span, actor } = entry;
            let sets = set_names(sets);
            Contacted { what, subject, name, scope, sets, count, refused, span, actor }
        };
        let items: Vec<_> = self.entries.into_iter().map(told).collect();
        Capped { items, more: self.beyond }.sorted(CONTACTS_MAX, |a, b| {
            let order = |contact: &Contacted| {
                (
                    contact.what == "bind" || contact.what == "listen",
                    std::cmp::Reverse(contact.scope),
                )
            };
            (order(a), a.span.from, &a.subject).cmp(&(order(b), b.span.from, &b.subject))
        })
    }
}

/// Where an address leads.
pub(super) fn scope(contact: &Contact) -> Scope {
    match contact.socket_address().map(|address| address.ip().to_canonical()) {
        None => Scope::Machine,
        Some(IpAddr::V4(address)) if address.is_loopback() || address.is_unspecified() => {
            Scope::Loopback
        }
        Some(IpAddr::V4(address)) if address.is_link_local() => Scope::LinkLocal,
        Some(IpAddr::V4(address)) if address.is_private() || is_shared(address.octets()) => {
            Scope::Private
        }
        Some(IpAddr::V6(address)) if address.is_loopback() || address.is_unspecified() => {
            Scope::Loopback
        }
        Some(IpAddr::V6(address)) if address.is_unicast_link_local() => Scope::LinkLocal,
        Some(IpAddr::V6(address)) if address.is_unique_local() => Scope::Private,
        Some(_) => Scope::Public,
    }
}

/// 100.64.0.0/10: behind a provider's address translation, and overlay networks.
fn is_shared(octets: [u8; 4]) -> bool {
    octets[0] == 100 && octets[1] & 0xc0 == 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use monitor_common::{network::mapped_v4, record::Peer};

    fn of(text: &str) -> Scope {
        let (address, family) = match text.parse().unwrap() {
            IpAddr::V4(address) => (mapped_v4(address.to_bits()), libc::AF_INET),
            IpAddr::V6(address) => (address.octets(), libc::AF_INET6),
        };
        let peer = Peer { address, family: family as u16, port: 1, ..Peer::default() };
        scope(&Contact { peer, sets: 0, name: None, file: None })
    }

    #[test]
    fn addresses_lead_where_their_network_says() {
        for (address, scope) in [
            ("127.3.2.1", Scope::Loopback),
            ("0.0.0.0", Scope::Loopback),
            ("::1", Scope::Loopback),
            ("::ffff:127.0.0.1", Scope::Loopback),
            ("169.254.169.254", Scope::LinkLocal),
            ("fe80::1", Scope::LinkLocal),
            ("10.1.2.3", Scope::Private),
            ("100.100.1.1", Scope::Private),
            ("fd00::1", Scope::Private),
            ("100.128.0.1", Scope::Public),
            ("1.1.1.1", Scope::Public),
            ("2001:db8::1", Scope::Public),
        ] {
            assert_eq!(of(address), scope, "{address}");
        }
    }
}
