//! Which rule decided.

use monitor_common::{
    network::{canonical, canonical_local, protocol},
    policy::{DENYING, Decision, access, class, reason, set, verdict},
};

use super::{
    Compiled, SourceKind,
    address::{Destination, Place, Prefix},
    load::{AddressRule, NameRule, PathRule},
    source::Origin,
};

/// What was judged.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A file, program or AF_UNIX socket by its resolved path; abstract socket names begin with
    /// `@`.
    Path(&'a [u8]),
    /// A program with its arguments, without argv\[0\].
    Program {
        /// Its resolved path.
        path: &'a [u8],
        /// Each argument.
        arguments: &'a [&'a [u8]],
    },
    /// A destination.
    Address {
        /// IPv6, IPv4 as `::ffff:a.b.c.d`.
        address: [u8; 16],
        /// Host byte order.
        port: u16,
        /// One bit of [`protocol`].
        protocol: u8,
    },
    /// A host by its name.
    Host {
        /// As it is asked for.
        name: &'a str,
        /// Port, host byte order, and one bit of [`protocol`]; `None` for the question itself.
        port: Option<(u16, u8)>,
    },
}

/// One entry of a rule text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The file as people find it.
    pub file: String,
    /// Line, from 1; 0 when the file does not say it and the default holds.
    pub line: u32,
    /// The list that the entry stands in, such as `files.read` or `sets.secrets`.
    pub list: String,
    /// The entry as written.
    pub text: String,
}

impl RuleRef {
    fn of(origin: &Origin) -> Self {
        Self {
            file: origin.source.path.clone(),
            line: origin.source.line(origin.span.start),
            list: origin.list.clone(),
            text: origin.written.clone(),
        }
    }
}

impl Compiled {
    /// The entry that led to `decision` on a subject in `classes`; `None` when no entry did, as
    /// with bounds and launches.
    ///
    /// Of several entries that say the same the one with the longest literal beginning is named.
    /// When a set decided and none of its patterns matches, the inode's label did: then the set
    /// itself is named.
    pub fn blame(&self, subject: Subject<'_>, classes: u32, decision: Decision) -> Option<RuleRef> {
        let set = usize::from(decision.set);
        let bits = match decision.reason {
            reason::DENY => DENYING[decision.access.trailing_zeros() as usize],
            reason::ALLOW_SECRET => class::ALLOW_SECRET,
            reason::SET => class::of_set(set),
            reason::ARGUMENTS => class::ARGUMENTS,
            reason::LISTED => allowing(decision.access) & classes,
            reason::REBINDING => class::CONNECT,
            reason::UNLISTED => return Some(self.unlisted(decision.access)),
            _ => return None,
        };
        let matching = self.matching(subject, decision.access);
        let best = matching.iter().filter(|(class, ..)| class & bits != 0);
        best.max_by_key(|(_, specific, _)| *specific)
            .map(|(.., rule)| rule.clone())
            .or_else(|| (decision.reason == reason::SET).then(|| self.set_itself(set)).flatten())
    }

    /// Every entry that a subject of an access falls in: its class bits, how specific it is, where
    /// it stands.
    pub fn matching(&self, subject: Subject<'_>, access: u8) -> Vec<(u32, usize, RuleRef)> {
        match subject {
            Subject::Path(path) | Subject::Program { path, .. } => {
                let rules = self.rules.paths.iter().filter(|rule| rule.pattern.matches(path));
                let specific = |rule: &PathRule| rule.pattern.prefix.len();
                // Where several are equally long the first in the text is named.
                rules.rev().map(|r| (r.class, specific(r), RuleRef::of(&r.origin))).collect()
            }
            Subject::Address { address, port, protocol } => {
                let rules = self.rules.addresses.iter();
                let local = access == access::LISTEN;
                let to = if local { canonical_local(address) } else { canonical(address) };
                let hit = |rule: &&AddressRule| covers(rule, to, port, protocol);
                rules.rev().filter(hit).map(|r| (r.class, 0, RuleRef::of(&r.origin))).collect()
            }
            Subject::Host { name, port } => self.matching_names(name, port),
        }
    }

    fn matching_names(&self, name: &str, port: Option<(u16, u8)>) -> Vec<(u32, usize, RuleRef)> {
        let meant = |rule: &&NameRule| {
            port.is_none_or(|(port, protocol)| rule.destination.covers(port, protocol))
        };
        // A name says more than a pattern of names.
        let specific = |rule: &NameRule| usize::from(!rule.origin.written.contains('*'));
        let names = self.names(name).filter(meant);
        let names = names.map(|rule| (rule.class, 1 + specific(rule), RuleRef::of(&rule.origin)));
        // Whoever it is, it is taken to have a public address.
        let public = self.rules.addresses.iter().filter(|rule| {
            let Destination { place, ports: (first, last), protocols } = rule.destination;
            port.is_some_and(|(port, protocol)| {
                place == Place::Public
                    && protocols & protocol != 0
                    && (first..=last).contains(&port)
            })
        });
        names.chain(public.map(|rule| (rule.class, 0, RuleRef::of(&rule.origin)))).collect()
    }

    /// Entries of `exec.arguments` that name these arguments of a program.
    pub(super) fn vectors_naming(&self, program: &[u8], arguments: &[&[u8]]) -> Vec<RuleRef> {
        let naming = self.rules.vectors.iter().filter(|rule| rule.matches(program, arguments));
        let mut all: Vec<RuleRef> = naming.map(|rule| RuleRef::of(&rule.origin)).collect();
        all.dedup();
        all
    }

    fn unlisted(&self, access: u8) -> RuleRef {
        let bit = access.trailing_zeros() as usize;
        let name = access::NAMES.get(bit).copied().unwrap_or_default();
        match self.rules.unlisted.get(bit) {
            Some(Some(origin)) => RuleRef::of(origin),
            _ => RuleRef {
                file: self.rules.sources.first().map(|s| s.path.clone()).unwrap_or_default(),
                line: 0,
                list: format!("response.unlisted.{name}"),
                text: verdict::NAMES[usize::from(verdict::ALERT)].to_owned(),
            },
        }
    }

    fn set_itself(&self, set: usize) -> Option<RuleRef> {
        let name = set::NAMES.get(set)?;
        let is_it = |kind: SourceKind, own: &str| kind == SourceKind::Set && own == *name;
        let source = self.rules.sources.iter().find(|source| is_it(source.kind, &source.name))?;
        let at = source.text.find("\nset").map_or(0, |before| before + 1);
        Some(RuleRef {
            file: source.path.clone(),
            line: source.line(at),
            list: format!("sets.{name}"),
            text: (*name).to_owned(),
        })
    }
}

/// The classes that allow an access, as [`monitor_common::policy::decide`] has them.
fn allowing(access: u8) -> u32 {
    match access {
        access::READ => class::READ | class::WRITE,
        access::WRITE => class::WRITE,
        access::EXEC => class::EXEC | class::ARGUMENTS,
        access::CONNECT => class::CONNECT,
        access::LISTEN => class::LISTEN,
        _ => class::UNIX,
    }
}

fn covers(rule: &AddressRule, address: [u8; 16], port: u16, protocol: u8) -> bool {
    let own = &rule.destination;
    let address = Prefix { bits: 128, address: u128::from_be_bytes(address) };
    let ports = own.ports.0..=own.ports.1;
    own.protocols & protocol & protocol::ANY != 0
        && ports.contains(&port)
        && own.place.covers(&address)
}
