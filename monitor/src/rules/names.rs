//! What rules say about host names, and what an address may be used for when it belongs to some.

use monitor_common::{
    network::{AddressRules, DNS_PORT, canonical, protocol},
    policy::{Decision, access, class, decide, mode, reason, verdict},
};

use super::{
    Compiled,
    address::{Destination, NamedDestination, PROBE, Place, Prefix},
    load::{AddressRule, NameRule},
};

/// How a host stands in rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A rule names it.
    Named,
    /// A rule names it without the domain behind it, which a search list adds.
    Extended,
    /// No rule names it.
    Unnamed,
}

/// What rules say about a question for a host and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// How the host stands in them.
    pub standing: Standing,
    /// The verdict on the question, or on where it led.
    pub decision: Decision,
}

impl Compiled {
    /// Whether the agent answers the server's DNS, as it does where rules name hosts.
    pub fn answers_dns(&self) -> bool {
        self.policy.names != 0
    }

    /// Bits of [`class`] that an address falls in because it belongs to the host `name`.
    pub fn classify_host(&self, name: &str, address: [u8; 16], port: u16, protocol: u8) -> u32 {
        if !is_public(address) {
            return 0;
        }
        let covers = |rule: &&NameRule| rule.destination.covers(port, protocol);
        self.names(name).filter(covers).fold(0, |classes, rule| classes | rule.class)
    }

    /// Judges a question for `name` that led to `addresses`. A question for what no rule names is
    /// judged as a connect to a host of the internet, but never killed for.
    pub fn judge_name(&self, name: &str, addresses: &[[u8; 16]]) -> Naming {
        let standing = self.standing(name);
        let refused = || addresses.iter().any(|address| !self.may_be_named(name, *address));
        let decision = match standing {
            Standing::Named if refused() => Decision {
                verdict: verdict::DENY,
                reason: reason::REBINDING,
                set: 0,
                access: access::CONNECT,
            },
            Standing::Named | Standing::Extended => {
                Decision { access: access::CONNECT, ..Decision::default() }
            }
            Standing::Unnamed => self.unnamed(),
        };
        Naming { standing, decision }
    }

    /// Whether questions for what no rule names are answered with a refusal.
    pub fn refuses_unnamed(&self) -> bool {
        self.policy.mode == mode::ENFORCE && self.unnamed().verdict >= verdict::DENY
    }

    /// Who may connect to the whole internet may ask for everybody in it.
    fn unnamed(&self) -> Decision {
        let is_open = self.rules.addresses.iter().any(is_internet);
        let classes = if is_open { class::CONNECT } else { 0 };
        let decision = decide(&self.policy, classes, access::CONNECT);
        Decision { verdict: decision.verdict.min(verdict::DENY), ..decision }
    }

    fn standing(&self, name: &str) -> Standing {
        let extends = |rule: &NameRule| rule.destination.name.is_extended_by(name);
        match self.names(name).next() {
            Some(_) => Standing::Named,
            None if self.rules.names.iter().any(extends) => Standing::Extended,
            None => Standing::Unnamed,
        }
    }

    /// Whether an answer may give `name` this address: a public one, or one that rules for
    /// addresses allow at a port of the name.
    fn may_be_named(&self, name: &str, address: [u8; 16]) -> bool {
        is_public(address)
            || self.names(name).any(|rule| {
                let NamedDestination { ports, protocols, .. } = rule.destination;
                [protocol::TCP, protocol::UDP].into_iter().any(|protocol| {
                    let classes = self.classify_address(address, ports.0, protocol);
                    protocols & protocol != 0 && classes & class::CONNECT != 0
                })
            })
    }

    /// What the address table says about a public address that belongs to the hosts `names`;
    /// `None`: what it says about the prefix around it.
    ///
    /// # Errors
    /// When more port ranges meet there than the table can hold, says so.
    pub fn address_rules(
        &self,
        address: [u8; 16],
        names: &[&str],
    ) -> Result<Option<AddressRules>, String> {
        let number = u128::from_be_bytes(canonical(address));
        let own: Vec<AddressRule> = match is_public(address) {
            true => names.iter().flat_map(|name| self.names(name)).flat_map(at(number)).collect(),
            false => Vec::new(),
        };
        if own.is_empty() {
            let same = |(bits, prefix, _): &&(u8, [u8; 16], AddressRules)| {
                *bits == 128 && u128::from_be_bytes(*prefix) == number
            };
            return Ok(self.addresses.iter().find(same).map(|(.., rules)| *rules));
        }
        let rules = super::compile::network::single(&self.rules.addresses, &own, number);
        rules.map(Some).map_err(|error| error.to_string())
    }

    pub(super) fn names<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a NameRule> {
        self.rules.names.iter().filter(move |rule| rule.destination.name.matches(name))
    }
}

/// Whether a rule lets connect to every public address. That DNS itself may go anywhere says nothing
/// about whom to ask for.
fn is_internet(rule: &AddressRule) -> bool {
    let Destination { place, ports, .. } = rule.destination;
    let all_v6 = Prefix { bits: 0, address: 0 };
    let everywhere = match place {
        Place::Public => true,
        Place::Within(prefix) => prefix == Prefix::V4 || prefix == all_v6,
    };
    everywhere && rule.class & class::CONNECT != 0 && ports != (DNS_PORT, DNS_PORT)
}

/// Whether an address is neither private nor loopback, link-local, metadata and the like.
pub fn is_public(address: [u8; 16]) -> bool {
    let address = u128::from_be_bytes(canonical(address));
    Place::Public.covers(&Prefix { bits: 128, address })
}

/// The rules of one address that a rule for its name makes.
fn at(address: u128) -> impl Fn(&NameRule) -> [AddressRule; 2] {
    move |rule| {
        let NameRule { destination, class, origin } = rule;
        let place = Place::Within(Prefix { bits: 128, address });
        let rule = |ports, protocols| AddressRule {
            destination: Destination { place, ports, protocols },
            class: *class,
            origin: origin.clone(),
        };
        let (port, protocol) = PROBE;
        [rule(destination.ports, destination.protocols), rule((port, port), protocol)]
    }
}
