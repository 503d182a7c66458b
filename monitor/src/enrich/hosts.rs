//! Which host an address belongs to, as far as the answers that an instance got tell.
//!
//! A contact gets the name of a host when the kernel judged it as rules for that host would have it
//! judged: an address that the kernel let through because of its name carries that name, and one
//! that it refused before the answer was in force carries none. So the event alone tells a replay
//! what was decided.

use std::{cmp::Reverse, collections::HashMap};

use monitor_common::{
    network::{canonical, protocol},
    record::Record,
};

use crate::{event::Resolve, judge::Explain, names};

/// Pairs of address and name that are known of an instance. More than rules can allow at a time
/// ([`names::ADDRESSES_MAX`]): those that they allow are the last to go.
const PAIRS_MAX: usize = 4 * names::ADDRESSES_MAX;

/// The hosts of one instance.
#[derive(Default)]
pub(super) struct Hosts {
    by_address: HashMap<[u8; 16], Vec<Host>>,
    pairs: usize,
}

struct Host {
    name: String,
    /// A rule names it.
    is_named: bool,
    /// When the last answer with it was given, and when it ceases to hold, CLOCK_BOOTTIME, ns.
    since_ns: u64,
    until_ns: u64,
}

impl Hosts {
    /// Takes an answer in.
    pub fn learn(&mut self, resolve: &Resolve, is_named: bool, now_ns: u64) {
        let until_ns = names::holds_until(resolve.ttl, now_ns);
        for address in &resolve.addresses {
            let known = self.by_address.entry(canonical(*address)).or_default();
            match known.iter_mut().find(|host| host.name == resolve.name) {
                Some(host) => {
                    let until_ns = host.until_ns.max(until_ns);
                    (host.is_named, host.since_ns, host.until_ns) = (is_named, now_ns, until_ns);
                }
                None => {
                    let name = resolve.name.clone();
                    known.push(Host { name, is_named, since_ns: now_ns, until_ns });
                    self.pairs += 1;
                }
            }
        }
        if self.pairs > PAIRS_MAX {
            self.forget_half();
        }
    }

    /// Forgets the half that no rule names, or that ceases to hold first.
    fn forget_half(&mut self) {
        let rank = |host: &Host| (host.is_named, host.until_ns);
        let mut ranks: Vec<_> = self.by_address.values().flatten().map(rank).collect();
        let middle = ranks.len() / 2;
        let (_, least, _) = ranks.select_nth_unstable(middle);
        let least = *least;
        self.by_address.retain(|_, hosts| {
            hosts.retain(|host| rank(host) > least);
            !hosts.is_empty()
        });
        self.pairs = self.by_address.values().map(Vec::len).sum();
    }

    /// The host that a contact of the kernel's is about.
    pub fn of(&self, record: &Record, policy: &dyn Explain) -> Option<String> {
        let peer = &record.peer;
        let known = self.by_address.get(&canonical(peer.address))?;
        let classes = |host: &Host| {
            policy.classify_host(&host.name, peer.address, peer.port, protocol::of(peer))
        };
        let agreed = known.iter().filter(|host| classes(host) & !record.classes == 0);
        // The one that let it through, and of several the latest. Records wait for a moment, and
        // others may have been asked for since.
        let rank = |host: &&Host| {
            let is_later = host.since_ns > record.time_ns;
            (classes(host) == 0, is_later, Reverse(host.since_ns))
        };
        agreed.min_by_key(rank).map(|host| host.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::{network::mapped_v4, policy::class, record::Peer, record::kind};

    use super::*;
    use crate::{decode::blank, event::Rule, rules::Subject};
    use monitor_common::policy::Decision;

    /// Rules that allow hosts of `example` at port 443.
    struct Example;

    impl Explain for Example {
        fn limits(&self) -> Option<std::sync::Arc<crate::detect::Limits>> {
            None
        }

        fn is_runtime(&self, _: &[u8]) -> bool {
            false
        }

        fn blame(&self, _: Subject<'_>, _: Decision) -> Option<Rule> {
            None
        }

        fn classify_host(&self, name: &str, _: [u8; 16], port: u16, _: u8) -> u32 {
            if name.ends_with(".example") && port == 443 { class::CONNECT } else { 0 }
        }
    }

    fn answer(name: &str, address: u32) -> Resolve {
        let (name, addresses) = (name.to_owned(), vec![mapped_v4(address)]);
        Resolve { name, addresses, ttl: Some(60), ..Resolve::default() }
    }

    fn contact(address: u32, port: u16, classes: u32) -> Record {
        let peer = Peer { address: mapped_v4(address), port, protocol: 6, ..Peer::default() };
        Record { peer, classes, time_ns: 3, ..blank(kind::CONNECT) }
    }

    fn host(hosts: &Hosts, port: u16, classes: u32) -> Option<String> {
        hosts.of(&contact(1, port, classes), &Example)
    }

    #[test]
    fn a_contact_carries_the_name_by_which_it_was_let_through() {
        let mut hosts = Hosts::default();
        hosts.learn(&answer("a.example", 1), true, 1);
        hosts.learn(&answer("other.test", 1), false, 2);
        hosts.learn(&answer("later.test", 1), false, 4);
        assert_eq!(host(&hosts, 443, class::CONNECT).as_deref(), Some("a.example"));
        assert_eq!(host(&hosts, 80, 0).as_deref(), Some("other.test"), "the latest before it");
        assert_eq!(hosts.of(&contact(2, 443, class::CONNECT), &Example), None);
    }

    #[test]
    fn a_contact_that_came_before_the_answer_carries_no_name_that_would_allow_it() {
        let mut hosts = Hosts::default();
        hosts.learn(&answer("a.example", 1), true, 0);
        assert_eq!(host(&hosts, 443, 0), None);
        hosts.learn(&answer("other.test", 1), false, 0);
        assert_eq!(host(&hosts, 443, 0).as_deref(), Some("other.test"));
    }

    #[test]
    fn names_that_rules_allow_are_the_last_to_be_forgotten() {
        let mut hosts = Hosts::default();
        hosts.learn(&answer("a.example", 1), true, 0);
        for address in 2..=PAIRS_MAX as u32 + 10 {
            hosts.learn(&answer("other.test", address), false, u64::from(address));
        }
        assert!(hosts.pairs <= PAIRS_MAX);
        assert!(host(&hosts, 443, class::CONNECT).is_some());
        assert!(hosts.of(&contact(PAIRS_MAX as u32 + 10, 443, 0), &Example).is_some());
    }
}
