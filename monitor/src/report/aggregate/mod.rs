//! Events in, one after the other; a [`Report`] out. One pass and bounded memory, whatever comes:
//! every table has a budget of its own, so that a flood of one kind hides nothing of another.

mod alerts;
mod budget;
mod contacts;
mod files;
mod instance;
mod processes;
mod timeline;
mod trail;

use std::collections::{BTreeMap, HashMap, HashSet};

use monitor_common::{
    policy::{class, reason, set},
    record::{enforced, flags},
};

use self::{
    alerts::Recent,
    budget::Budget,
    instance::{Gathered, Limits},
};
use super::{
    impact,
    model::{
        Actor, Capped, Effect, FORMAT, Location, Moment, OriginText, Policy, Report, Span, Unseen,
        Verification,
    },
    words,
};
use crate::{
    event::{Body, Bytes, Event, Observed, PolicyText},
    segment::{Header, ReadError},
};

/// Instances that are told one by one.
const INSTANCES_MAX: usize = 256;
/// Further instances that are told apart in order to be counted.
const BEYOND_MAX: usize = 1 << 20;
/// Losses, repairs and other notes of the agent, each by its words.
const NOTES_MAX: usize = 200;

/// Collects what the report says.
#[derive(Default)]
pub struct Aggregator {
    files: Vec<Bytes>,
    place: Location,
    span: Option<Span>,
    types: BTreeMap<&'static str, u64>,
    origins: Vec<OriginText>,
    origin: usize,
    policies: HashMap<(usize, u32), Vec<(PolicyText, Policy)>>,
    instances: Vec<Gathered>,
    index: HashMap<InstanceKey, usize>,
    beyond: HashSet<InstanceKey>,
    limits: Limits,
    recent: Recent,
    unseen: Tally,
}

/// An instance number is used again after a restart of the agent, for another boot.
#[derive(Clone, PartialEq, Eq, Hash)]
struct InstanceKey {
    origin: usize,
    instance: u32,
}

/// What is missing, counted while events pass.
#[derive(Default)]
pub(super) struct Tally {
    /// By what is said about it.
    pub notes: BTreeMap<String, u64>,
    /// Notes that found no room.
    pub more: u64,
    /// Events by flag bit.
    pub flags: [u64; 32],
    /// Lines that could not be read, and the first of them.
    pub unreadable: u64,
    pub first_unreadable: Option<String>,
}

impl Tally {
    fn note(&mut self, text: String, count: u64) {
        if self.notes.len() < NOTES_MAX || self.notes.contains_key(&text) {
            *self.notes.entry(text).or_default() += count;
        } else {
            self.more += count;
        }
    }
}

/// What all tables need to know about an event.
#[derive(Clone)]
pub(super) struct Seen<'a> {
    pub event: &'a Event,
    pub observed: &'a Observed,
    pub time: Moment,
    pub effect: Effect,
    /// The process in the table, where it has room.
    pub node: Option<u32>,
    pub line: Location,
}

impl Seen<'_> {
    /// Who did it, by name.
    pub fn actor(&self) -> Actor {
        let process = &self.observed.process;
        Actor { tgid: process.tgid, start_ns: process.start_ns, exe: process.image.exe.clone() }
    }

    /// The sets that an object with these bits falls in, and the one that decided.
    pub fn sets(&self, bits: u32) -> u32 {
        let decided = self.event.violation.as_ref().filter(|v| v.decision.reason == reason::SET);
        bits | decided.map_or(0, |v| class::of_set(usize::from(v.decision.set)))
    }
}

impl Aggregator {
    /// Begins the next file.
    pub fn file(&mut self, name: &[u8]) {
        self.place = Location { file: self.files.len(), line: 0 };
        self.files.push(Bytes::from(name));
    }

    /// Takes the header of a segment.
    pub fn header(&mut self, header: &Header) {
        let text = OriginText {
            host: header.host.clone(),
            boot_id: header.boot_id.clone(),
            kernel: header.kernel.clone(),
            agent: header.agent.clone(),
            backend: header.backend.clone(),
            hooks: header.hooks.len() as u64,
        };
        self.origin = match self.origins.iter().position(|known| *known == text) {
            Some(known) => known,
            None if self.origins.len() < INSTANCES_MAX => {
                self.origins.push(text);
                self.origins.len() - 1
            }
            None => {
                self.unseen.note("segments of further hosts or boots".to_owned(), 1);
                return;
            }
        };
        for policy in &header.policies {
            self.policy(policy);
        }
    }

    /// Takes the event of a line; `text` is the line itself.
    pub fn event(&mut self, event: &Event, line: u64, text: &[u8]) {
        self.place.line = line;
        *self.types.entry(event.kind()).or_default() += 1;
        Span::include(&mut self.span, Moment(event.time_ns));
        match &event.body {
            Body::Loss(loss) => {
                let what = format!("{} ({})", loss.reason, loss.ring);
                self.unseen.note(format!("lost: {what}"), loss.count);
            }
            Body::Agent { action, message } => {
                self.unseen.note(format!("agent, {action}: {message}"), 1);
            }
            Body::Grant { action, grant, .. } => {
                self.unseen.note(format!("{action}: {grant}"), 1);
            }
            Body::Policy { policy, .. } => self.policy(policy),
            Body::Alert(alert) => {
                if let Some(at) = self.instance(event) {
                    let recent = &self.recent;
                    self.instances[at].alert(event, alert, recent, &mut self.limits);
                }
            }
            _ => self.observed(event, text),
        }
    }

    /// Counts a line that cannot be read.
    pub fn unreadable(&mut self, error: &ReadError) {
        self.unseen.unreadable += 1;
        self.unseen.first_unreadable.get_or_insert_with(|| error.to_string());
    }

    /// What came of it.
    pub fn finish(self, verification: Verification) -> Report {
        let Self { files, span, types, origins, policies, instances, beyond, unseen, .. } = self;
        let mut items: Vec<_> = instances
            .into_iter()
            .map(|gathered| {
                let policies = policies.get(&(gathered.origin, gathered.instance));
                let policies = policies.into_iter().flatten().map(|(_, told)| told.clone());
                gathered.finish(policies.collect())
            })
            .collect();
        items.iter_mut().for_each(words::describe);
        items.sort_by_key(|item| std::cmp::Reverse(item.level));
        let instances = Capped { items, more: beyond.len() as u64 };
        let impact = impact::of(&origins, &instances.items);
        let mut report = Report {
            report: FORMAT,
            agent: env!("CARGO_PKG_VERSION"),
            level: Default::default(),
            findings: Vec::new(),
            span,
            events: types.values().sum(),
            types,
            files,
            verification,
            origins,
            impact,
            instances,
            unseen: Vec::<Unseen>::new(),
        };
        report.unseen = words::unseen(&report, &unseen);
        report.findings = words::findings(&report);
        report.level =
            report.findings.iter().map(|finding| finding.level).max().unwrap_or_default();
        report
    }

    fn policy(&mut self, text: &PolicyText) {
        let known = self.policies.entry((self.origin, text.instance)).or_default();
        if known.len() >= 16 || known.iter().any(|(before, _)| before == text) {
            return;
        }
        let told = instance::policy(text);
        known.push((text.clone(), told));
    }

    /// The place of an event's instance; `None` when it is about none, or beyond the bounds.
    fn instance(&mut self, event: &Event) -> Option<usize> {
        if event.instance == 0 && event.observed.is_none() {
            return None;
        }
        let key = InstanceKey { origin: self.origin, instance: event.instance };
        if let Some(&at) = self.index.get(&key) {
            return Some(at);
        }
        if self.instances.len() >= INSTANCES_MAX {
            if self.beyond.len() < BEYOND_MAX {
                self.beyond.insert(key);
            }
            return None;
        }
        let at = self.instances.len();
        self.instances.push(Gathered::new(self.origin, event));
        self.index.insert(key, at);
        Some(at)
    }

    fn observed(&mut self, event: &Event, text: &[u8]) {
        let Some(observed) = &event.observed else { return };
        for bit in 0..self.unseen.flags.len() {
            self.unseen.flags[bit] += u64::from(observed.flags >> bit & 1);
        }
        let Some(at) = self.instance(event) else { return };
        let seen = Seen {
            event,
            observed,
            time: Moment(event.time_ns),
            effect: effect(event),
            node: None,
            line: self.place,
        };
        if event.violation.is_some() {
            self.recent.push(event.seq, self.place, text);
        }
        self.instances[at].event(seen, &mut self.limits);
    }
}

/// Whether what an event tells took effect.
fn effect(event: &Event) -> Effect {
    match &event.violation {
        Some(violation) if violation.is_refused() => Effect::Refused,
        Some(violation) if violation.answered == enforced::KILLED => Effect::Perhaps,
        _ => Effect::Happened,
    }
}

/// An exec that was judged before it takes effect, and has a line of its own if it does.
fn only_judged(observed: &Observed) -> bool {
    observed.flags & flags::CHECK != 0
}

/// Names of the sets among these bits.
pub(super) fn set_names(bits: u32) -> Vec<&'static str> {
    let named = |set: &usize| bits & class::of_set(*set) != 0;
    (0..set::COUNT).filter(named).map(|set| set::NAMES[set]).collect()
}

/// Bits of the sets that hold secrets or lead to them.
const SECRETS: u32 = class::of_set(set::SECRETS)
    | class::of_set(set::SENSITIVE)
    | class::of_set(set::PROCESSES)
    | class::of_set(set::MCP_CONFIG)
    | class::of_set(set::METADATA);
/// Bits of the sets from where something runs later.
const PERSISTENCE: u32 = class::of_set(set::PERSISTENCE) | class::of_set(set::MCP_CONFIG);
