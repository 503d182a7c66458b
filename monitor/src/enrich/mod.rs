//! What a record cannot hold: its place in the stream, the wall clock, the program and chain of
//! its process, the name of the rule that decided, and the alert that people read.
//!
//! ```text
//! rings -> Merge (order by time) -> decode -> Enricher -> events and alerts, numbered -> sinks
//! counters -> Enricher::losses -> loss events
//! recorded events, judged again -> Enricher::replay -> events and alerts
//! ```

mod alert;
mod body;
pub mod clock;
mod hosts;
pub mod loss;
pub mod merge;
mod outside;
mod table;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use monitor_common::{
    policy::{class, mode, verdict},
    record::{Record, enforced, flags, kind},
};

use crate::{
    decode::Decoded,
    detect::Detectors,
    event::{
        Body, Bytes, Category, Enforced, Event, Grant, Known, Observed, Person, PolicyText,
        Process, Resolve, Veil, Violation,
    },
    judge::{self, Explain},
    names::Answered,
    rules::{Naming, Standing},
};

pub(crate) use alert::{contact_text, finding_violation, subject};
pub use clock::Clock;
pub use loss::{Counters, Delivered, Ledger};
pub use merge::{Merge, Source};
pub use outside::Outside;
pub use table::Table;

/// Makes events of records, in the order in which they are given.
pub struct Enricher {
    next_seq: u64,
    clock: Clock,
    servers: HashMap<u32, Arc<str>>,
    policies: HashMap<u32, Arc<dyn Explain>>,
    table: Table,
    hosts: HashMap<u32, hosts::Hosts>,
    /// By instance and mount namespace.
    outside: HashMap<(u32, u32), Outside>,
    alerts: alert::Alerts,
    detectors: Detectors,
    ledger: Ledger,
    veil: Veil,
}

impl Enricher {
    /// `next_seq` is where the stream goes on: [`crate::sink::recording::SegmentWriter::next_seq`].
    pub fn new(next_seq: u64, clock: Clock) -> Self {
        Self {
            next_seq,
            clock,
            servers: HashMap::new(),
            policies: HashMap::new(),
            table: Table::default(),
            hosts: HashMap::new(),
            outside: HashMap::new(),
            alerts: alert::Alerts::default(),
            detectors: Detectors::default(),
            ledger: Ledger::default(),
            veil: Veil::default(),
        }
    }

    /// Goes on with processes that are known from before.
    pub fn with_processes(self, known: &[Known]) -> Self {
        Self { table: Table::of_known(known), ..self }
    }

    /// The number that the next event of our own takes.
    pub fn go_on_at(&mut self, seq: u64) {
        self.next_seq = seq;
    }

    /// Gives an instance the name that people know its server by.
    pub fn name(&mut self, instance: u32, server: &str) {
        self.servers.insert(instance, server.into());
    }

    /// Forgets an instance of which nothing will be heard any more.
    pub fn forget(&mut self, instance: u32) {
        self.servers.remove(&instance);
        self.hosts.remove(&instance);
        self.outside.retain(|(own, _), _| *own != instance);
        self.detectors.forget(instance);
    }

    /// Lets files of an instance in a mount namespace be known by their names on the host, too.
    pub fn outside(&mut self, instance: u32, mnt_ns: u32, outside: Outside) {
        self.outside.insert((instance, mnt_ns), outside);
    }

    /// Lets verdicts of policy number `policy` be explained. Numbers are never used again, and
    /// records of a retired policy may come late, so the caller keeps it for a while.
    pub fn explain(&mut self, policy: u32, compiled: Arc<dyn Explain>) {
        if let Some(limits) = compiled.limits() {
            self.detectors.learn(policy, limits);
        }
        self.policies.insert(policy, compiled);
    }

    /// What of arguments is kept; all of it unless this is called.
    pub fn veil(&mut self, veil: Veil) {
        self.veil = veil;
    }

    /// Forgets a policy.
    pub fn retire(&mut self, policy: u32) {
        self.policies.remove(&policy);
        self.detectors.retire(policy);
    }

    /// Follows the wall clock; about once a second is enough.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The event of a record, and the alerts that it leads to.
    pub fn record(&mut self, decoded: &Decoded<'_>, out: &mut Vec<Event>) {
        let record = &decoded.record;
        self.tick(record.time_ns, out);
        let mut body = body::of(decoded, &self.veil);
        if let Body::Connect(contact) | Body::Send(contact) = &mut body {
            contact.name = self.host(record);
        }
        if let Some(outside) = self.outside.get(&(record.instance, record.mnt_ns))
            && record.flags & UNPLACED == 0
            && let Some(file) = body.file_mut()
            && let Some(path) = outside.find(file.path.as_bytes(), file.inode.dev)
        {
            file.host_path = path.as_slice().into();
        }
        let event = Event {
            seq: self.take_seq(),
            time_ns: self.clock.wall_ns(record.time_ns),
            boot_ns: record.time_ns,
            server: self.server(record.instance),
            instance: record.instance,
            violation: self.violation(record, &body).map(Box::new),
            observed: Some(Observed {
                process: process(record),
                policy: record.policy,
                flags: record.flags & FLAGS,
            }),
            body,
        };
        let rules = self.policies.get(&record.policy).cloned();
        // The kernel has classified the path of an open already.
        let classes = (record.kind == kind::OPEN).then_some(record.classes);
        self.follow(event, rules.as_deref(), classes, out);
    }

    /// A question for a host that the agent has answered, and the alerts that it leads to.
    pub fn resolve(&mut self, instance: u32, answered: Answered, out: &mut Vec<Event>) {
        let Answered { resolve, naming, mode, boot_ns } = answered;
        self.tick(boot_ns, out);
        let violation = self.naming_violation(&resolve, &naming, mode);
        if violation.as_ref().is_none_or(|violation| violation.enforced == Enforced::None) {
            let hosts = self.hosts.entry(instance).or_default();
            hosts.learn(&resolve, naming.standing == Standing::Named, boot_ns);
        }
        let rules = self.policies.get(&resolve.policy).cloned();
        let (seq, time_ns) = (self.take_seq(), self.clock.wall_ns(boot_ns));
        let event = Event {
            server: self.server(instance),
            instance,
            violation: violation.map(Box::new),
            ..Event::of_monitor(seq, boot_ns, time_ns, Body::Resolve(Box::new(resolve)))
        };
        self.follow(event, rules.as_deref(), None, out);
    }

    fn naming_violation(&self, resolve: &Resolve, naming: &Naming, mode: u8) -> Option<Violation> {
        let decision = naming.decision;
        if decision.verdict == verdict::ALLOW {
            return None;
        }
        let observed_only = mode == mode::OBSERVE;
        let refused = !observed_only && decision.verdict >= verdict::DENY;
        let body = Body::Resolve(Box::new(resolve.clone()));
        let policy = self.policies.get(&resolve.policy);
        Some(Violation {
            decision,
            observed_only,
            category: Category::of(&body, decision),
            rule: policy.and_then(|policy| judge::blame(&body, decision, policy.as_ref())),
            enforced: if refused { Enforced::Agent } else { Enforced::None },
            answered: enforced::NONE,
        })
    }

    /// A recorded event with its verdict under its own rules, if the recording holds them, and the
    /// alerts that it leads to. It keeps its number, and what comes next is numbered from there.
    pub fn replay(&mut self, event: Event, rules: Option<&dyn Explain>, out: &mut Vec<Event>) {
        self.tick(event.boot_ns, out);
        self.go_on_at(event.seq.saturating_add(1));
        let policy = event.policy();
        if let Some(rules) = rules
            && !self.detectors.knows(policy)
            && let Some(limits) = rules.limits()
        {
            self.detectors.learn(policy, limits);
        }
        self.follow(event, rules, None, out);
    }

    /// What follows from an event, live and in replay: everything that looks at events to make
    /// others of them has its place here and rests on the stream alone. `classes`: of the path,
    /// where they are known.
    fn follow(
        &mut self,
        mut event: Event,
        rules: Option<&dyn Explain>,
        classes: Option<u32>,
        out: &mut Vec<Event>,
    ) {
        if let Some(observed) = &mut event.observed {
            self.table.recognise(&mut observed.process);
        }
        self.table.apply(&event);
        let mut alerts: Vec<Event> = self.alerts.observe(&event, &self.table).into_iter().collect();
        if let Some(rules) = rules {
            alerts.extend(self.detect(&event, rules, classes));
        }
        out.push(event);
        out.extend(alerts.into_iter().map(|alert| self.number(alert)));
    }

    fn detect(&mut self, event: &Event, rules: &dyn Explain, classes: Option<u32>) -> Vec<Event> {
        let is_runtime = |path: &Bytes| match classes {
            Some(classes) => classes & class::RUNTIME != 0,
            None => judge::is_runtime(event, path, rules),
        };
        let found = self.detectors.observe(event, &is_runtime);
        let Some(limits) = self.detectors.limits_of(event) else { return Vec::new() };
        let alert = |found| alert::of_finding(event, found, limits, &self.table);
        found.into_iter().map(alert).collect()
    }

    /// Alerts about runs of identical violations whose time has come at `now_ns`
    /// (CLOCK_BOOTTIME). Also called by [`Enricher::record`]; the pipeline calls it when idle.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<Event>) {
        for alert in self.alerts.due(now_ns) {
            out.push(self.number(alert));
        }
    }

    /// The end of the stream: an event that says so, and alerts about what has been counted and not
    /// told.
    pub fn end(&mut self, out: &mut Vec<Event>) {
        let message = "the recording of this run ends here".to_owned();
        let event = self.own(Body::Agent { action: END.to_owned(), message });
        let now_ns = event.boot_ns;
        out.push(event);
        self.finish(now_ns, out);
    }

    /// Alerts about what has been counted and not told, for the end of the stream.
    pub fn finish(&mut self, now_ns: u64, out: &mut Vec<Event>) {
        for alert in self.alerts.finish(now_ns) {
            out.push(self.number(alert));
        }
    }

    /// Events that were lost so far.
    pub fn lost(&self) -> u64 {
        self.ledger.total()
    }

    /// Loss events for what was lost since the last call.
    pub fn losses(&mut self, counters: &Counters, delivered: Delivered, out: &mut Vec<Event>) {
        for loss in self.ledger.update(counters, delivered) {
            out.push(self.own(Body::Loss(loss)));
        }
    }

    /// [`Enricher::losses`] after the hooks are detached and the rings drained: produced =
    /// delivered + lost, and what does not add up is a loss too.
    pub fn close_losses(
        &mut self,
        counters: &Counters,
        delivered: Delivered,
        out: &mut Vec<Event>,
    ) {
        for loss in self.ledger.close(counters, delivered) {
            out.push(self.own(Body::Loss(loss)));
        }
    }

    /// An event about the agent itself: `action` is one word, `message` says it to people.
    pub fn agent(&mut self, instance: u32, action: &str, message: &str) -> Event {
        let body = Body::Agent { action: action.to_owned(), message: message.to_owned() };
        let mut event = self.own(body);
        event.instance = instance;
        event.server = self.server(instance);
        event
    }

    /// An event about rights for a while: `action` and `by` as in [`Body::Grant`].
    pub fn grant(&mut self, action: &str, by: Option<Person>, grant: Grant) -> Event {
        let (instance, server) = (grant.instance.unwrap_or(0), grant.server.as_str().into());
        let body = Body::Grant { action: action.to_owned(), by, grant: Box::new(grant) };
        Event { instance, server, ..self.own(body) }
    }

    /// An event about a policy: `action` is `install` or `retire`. The policies of the start
    /// stand in the header instead.
    pub fn policy(&mut self, action: &str, policy: PolicyText) -> Event {
        let instance = policy.instance;
        let policy = Box::new(policy);
        let mut event = self.own(Body::Policy { action: action.to_owned(), policy });
        event.instance = instance;
        event.server = self.server(instance);
        event
    }

    fn own(&mut self, body: Body) -> Event {
        let boot_ns = clock::boot_ns();
        Event::of_monitor(self.take_seq(), boot_ns, self.clock.wall_ns(boot_ns), body)
    }

    fn number(&mut self, mut event: Event) -> Event {
        event.seq = self.take_seq();
        event
    }

    fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// The host that a contact is about, where answers told of one.
    fn host(&self, record: &Record) -> Option<String> {
        let policy = self.policies.get(&record.policy)?;
        self.hosts.get(&record.instance)?.of(record, policy.as_ref())
    }

    fn server(&self, instance: u32) -> Arc<str> {
        self.servers.get(&instance).cloned().unwrap_or_default()
    }

    fn violation(&self, record: &Record, body: &Body) -> Option<Violation> {
        let decision = record.decision;
        if decision.verdict == verdict::ALLOW {
            return None;
        }
        let observed_only = record.mode == mode::OBSERVE;
        let judged_by_agent = record.enforced == enforced::AGENT;
        let answered = match record.enforced {
            enforced::AGENT => enforced::NONE,
            answered => answered.min(enforced::DENIED_AND_KILLED),
        };
        let by_agent = !observed_only && (decision.verdict >= verdict::KILL || judged_by_agent);
        let policy = self.policies.get(&record.policy);
        Some(Violation {
            decision,
            observed_only,
            category: Category::of(body, decision),
            rule: policy.and_then(|policy| judge::blame(body, decision, policy.as_ref())),
            enforced: match answered {
                enforced::NONE if by_agent => Enforced::Agent,
                enforced::NONE => Enforced::None,
                _ => Enforced::Kernel,
            },
            answered,
        })
    }
}

/// The process of a record, as far as the record tells.
fn process(record: &Record) -> Process {
    Process {
        tgid: record.tgid,
        tid: record.tid,
        start_ns: record.start_ns,
        ppid: record.ppid,
        uid: record.uid,
        cgroup: record.cgroup,
        comm: record.comm,
        image: Arc::default(),
    }
}

/// `action` of the `agent` event that ends a run's stream.
pub const END: &str = "end";

/// Flags of records whose path is not one of the process's mount namespace, or was not looked up.
const UNPLACED: u32 = flags::ARGUMENT | flags::TRUNCATED | flags::DETACHED | flags::FOREIGN;

/// Flags that have a name.
const FLAGS: u32 = (flags::REPLACED << 1) - 1;
