//! One instance: hands each event to the tables that it concerns.

use std::{collections::HashMap, sync::Arc};

use monitor_common::{
    policy::{class, set},
    record::{did, flags, process as reach},
};

use super::{
    Budget, Seen,
    alerts::{Alerts, Recent},
    contacts::{Call, Contacts, scope},
    files::{Files, WRITES},
    only_judged,
    processes::{Processes, arguments},
    timeline::{Counter, Lane},
    trail::{Tracker, names, step},
};
use crate::{
    enrich::subject,
    event::{Alert, Body, Bytes, Contact, Event, Exec, File, PolicyText},
    report::model::{Capped, Effect, Executed, Instance, Level, Moment, Policy, Scope, Span, Step},
};

/// Programs, and events of no other kind, that are told.
const EXECUTED_MAX: usize = 300;
const OTHERS_MAX: usize = 200;

/// Room of all instances together, by table.
pub(super) struct Limits {
    processes: Budget,
    files: Budget,
    /// Files of the sets have room of their own.
    marked: Budget,
    contacts: Budget,
    alerts: Budget,
    executed: Budget,
    trail: Budget,
    others: Budget,
}

impl Default for Limits {
    fn default() -> Self {
        const MB: usize = 1 << 20;
        Self {
            processes: Budget::new(16 * MB),
            files: Budget::new(24 * MB),
            marked: Budget::new(8 * MB),
            contacts: Budget::new(8 * MB),
            alerts: Budget::new(24 * MB),
            executed: Budget::new(4 * MB),
            trail: Budget::new(8 * MB),
            others: Budget::new(2 * MB),
        }
    }
}

/// What is known of an instance.
pub(super) struct Gathered {
    pub origin: usize,
    pub instance: u32,
    server: Arc<str>,
    span: Span,
    events: u64,
    processes: Processes,
    files: Files,
    contacts: Contacts,
    alerts: Alerts,
    executed: HashMap<Bytes, Executed>,
    executed_beyond: u64,
    trail: Tracker,
    others: Capped<Step>,
    timeline: Counter,
}

impl Gathered {
    pub(super) fn new(origin: usize, event: &Event) -> Self {
        let time = Moment(event.time_ns);
        Self {
            origin,
            instance: event.instance,
            server: event.server.clone(),
            span: Span { from: time, to: time },
            events: 0,
            processes: Processes::default(),
            files: Files::default(),
            contacts: Contacts::default(),
            alerts: Alerts::default(),
            executed: HashMap::new(),
            executed_beyond: 0,
            trail: Tracker::default(),
            others: Capped::default(),
            timeline: Counter::new(time),
        }
    }

    /// Takes an alert.
    pub(super) fn alert(
        &mut self,
        event: &Event,
        alert: &Alert,
        recent: &Recent,
        limits: &mut Limits,
    ) {
        self.alerts.add(event, alert, recent, &mut limits.alerts);
    }

    /// Takes an event of the kernel.
    pub(super) fn event(&mut self, mut seen: Seen<'_>, limits: &mut Limits) {
        self.events += 1;
        self.span.from = self.span.from.min(seen.time);
        self.span.to = self.span.to.max(seen.time);
        if self.server.is_empty() {
            self.server = seen.event.server.clone();
        }
        seen.node = self.processes.acting(&seen, &mut limits.processes);
        if seen.event.violation.is_some() {
            self.count(&seen, Lane::Violations);
        }
        match &seen.event.body {
            Body::Exec(exec) => self.exec(&seen, exec, limits),
            Body::Fork { child } => {
                self.processes.fork(&seen, child, &mut limits.processes);
                self.count(&seen, Lane::Processes);
            }
            Body::Exit { status } => self.processes.exit(seen.node, *status),
            Body::Open { access, file } => self.open(&seen, *access, file, limits),
            Body::Change { op, file, second } => {
                let room = room(limits, seen.sets(file.sets), true);
                self.files.change(&seen, *op, file, second, room);
                self.trail.written(&seen, &file.path, file.sets, &mut limits.trail);
                self.count(&seen, Lane::Writes);
            }
            Body::Connect(contact) => self.contact(&seen, "connect", contact, limits),
            Body::Send(contact) => self.contact(&seen, "send", contact, limits),
            Body::Bind(contact) => self.contact(&seen, "bind", contact, limits),
            Body::Listen(contact) => self.contact(&seen, "listen", contact, limits),
            Body::Unix { file } => self.unix(&seen, file, limits),
            Body::Process { .. }
            | Body::Mount { .. }
            | Body::Bpf { .. }
            | Body::IoUring
            | Body::Namespace
            | Body::Socket(_) => self.other(&seen, limits),
            Body::Resolve(_)
            | Body::Policy { .. }
            | Body::Grant { .. }
            | Body::Agent { .. }
            | Body::Loss(_)
            | Body::Alert(_) => {}
        }
    }

    fn count(&mut self, seen: &Seen<'_>, lane: Lane) {
        self.timeline.add(lane, seen.time);
        self.processes.count(seen.node, lane);
    }

    fn exec(&mut self, seen: &Seen<'_>, exec: &Exec, limits: &mut Limits) {
        let is_refused = seen.effect == Effect::Refused;
        if only_judged(seen.observed) && !is_refused {
            return;
        }
        if !is_refused {
            self.processes.exec(seen.node, exec, &mut limits.processes);
        }
        let path = &exec.file.path;
        if !self.executed.contains_key(path) {
            let argv = arguments(&exec.argv);
            let bytes = argv.iter().map(|argument| argument.as_bytes().len() + 16).sum::<usize>();
            if !limits.executed.take(bytes + 2 * path.as_bytes().len()) {
                self.executed_beyond += 1;
                return;
            }
            let executed = Executed {
                path: path.clone(),
                count: 0,
                refused: 0,
                fileless: seen.observed.flags & flags::FILELESS != 0,
                argv,
                first: seen.time,
            };
            self.executed.insert(path.clone(), executed);
        }
        if let Some(executed) = self.executed.get_mut(path) {
            executed.count += 1;
            executed.refused += u64::from(is_refused);
        }
    }

    fn open(&mut self, seen: &Seen<'_>, access: u32, file: &File, limits: &mut Limits) {
        let (writes, reads) = (access & WRITES != 0, access & did::READ != 0);
        let is_directory = seen.observed.flags & flags::DIRECTORY != 0;
        let sets = seen.sets(file.sets);
        if reads && !is_directory {
            self.trail.touched(seen, "read", &file.path, file.sets, &mut limits.trail);
        }
        // Devices and pipes are no files that could be read or restored in this sense.
        if sets == 0 && !is_regular(file.mode) {
            return;
        }
        if writes {
            self.files.write(seen, file, access, room(limits, sets, true));
            self.trail.written(seen, &file.path, file.sets, &mut limits.trail);
            self.count(seen, Lane::Writes);
        } else if reads && !is_directory {
            self.files.read(seen, file, room(limits, sets, false));
            self.count(seen, Lane::Reads);
        }
    }

    fn contact(
        &mut self,
        seen: &Seen<'_>,
        what: &'static str,
        contact: &Contact,
        limits: &mut Limits,
    ) {
        let call = Call {
            what,
            subject: subject(&seen.event.body),
            name: contact.name.clone(),
            scope: scope(contact),
            sets: contact.sets,
        };
        self.called(seen, &call, limits);
    }

    fn unix(&mut self, seen: &Seen<'_>, file: &File, limits: &mut Limits) {
        let subject = file.path.clone();
        let call =
            Call { what: "unix", subject, name: None, scope: Scope::Machine, sets: file.sets };
        self.called(seen, &call, limits);
    }

    fn called(&mut self, seen: &Seen<'_>, call: &Call, limits: &mut Limits) {
        self.contacts.add(seen, call, &mut limits.contacts);
        self.count(seen, Lane::Contacts);
        if matches!(call.what, "bind" | "listen") {
            return;
        }
        if seen.sets(call.sets) & class::of_set(set::METADATA) != 0 {
            self.trail.touched(seen, call.what, &call.subject, call.sets, &mut limits.trail);
        }
        self.trail.sent(seen, call, &mut limits.trail);
    }

    /// Signals within the tree are everybody's business.
    fn other(&mut self, seen: &Seen<'_>, limits: &mut Limits) {
        let subject = subject(&seen.event.body);
        if let Body::Process { op, target, file, .. } = &seen.event.body {
            let is_own = target.instance == seen.event.instance;
            if seen.event.violation.is_none() && (is_own || *op == reach::SIGNAL) {
                return;
            }
            let sets = match *op {
                reach::MEMORY | reach::PTRACE if !is_own => {
                    file.sets | class::of_set(set::PROCESSES)
                }
                // A file that somebody else has opened is read without an open of one's own.
                reach::DESCRIPTOR => file.sets,
                _ => 0,
            };
            self.trail.touched(seen, "process", &subject, sets, &mut limits.trail);
        }
        let step = step(seen, seen.event.kind(), &subject, seen.sets(0), None);
        match limits.others.take(names(&step)) {
            true => self.others.push(step, OTHERS_MAX),
            false => self.others.more += 1,
        }
    }

    /// All of it, but for the words.
    pub(super) fn finish(self, policies: Vec<Policy>) -> Instance {
        let trail = self.trail.finish(&self.processes);
        let (changed, read) = self.files.finish();
        let (alerts, violations) = self.alerts.finish();
        let executed =
            Capped { items: self.executed.into_values().collect(), more: self.executed_beyond };
        let mode = policies.last().map(|policy| policy.mode.clone()).unwrap_or_default();
        Instance {
            instance: self.instance,
            server: self.server.to_string(),
            origin: self.origin,
            mode,
            span: self.span,
            events: self.events,
            level: Level::Quiet,
            summary: Vec::new(),
            policies,
            alerts,
            violations,
            trail,
            timeline: self.timeline.finish(),
            processes: self.processes.finish(),
            changed,
            read,
            executed: executed
                .sorted(EXECUTED_MAX, |a, b| (b.count, &a.path).cmp(&(a.count, &b.path))),
            contacts: self.contacts.finish(),
            others: self.others,
        }
    }
}

/// Files of the sets must not be crowded out by others. Programs are members of a set only in
/// order to stay as they are: reading them is ordinary.
fn room(limits: &mut Limits, sets: u32, writes: bool) -> &mut Budget {
    let ordinary = if writes { 0 } else { class::of_set(set::PERSISTENCE) };
    if sets & !ordinary != 0 { &mut limits.marked } else { &mut limits.files }
}

/// Whether a mode is of a file or directory; 0 is not known.
fn is_regular(mode: u32) -> bool {
    mode == 0 || matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK)
}

/// A policy as the report names it.
pub(super) fn policy(text: &PolicyText) -> Policy {
    let sources = text.sources.iter().map(|source| format!("{} {}", source.kind, source.path));
    let server = text.sources.iter().find(|source| source.kind == "server");
    Policy {
        policy: text.policy,
        mode: text.mode.clone(),
        sources: sources.collect(),
        records: server.and_then(|source| records(&source.text)),
    }
}

/// `record.events` of a rule file, where it is not `all`.
fn records(rules: &str) -> Option<String> {
    let document: toml::Table = rules.parse().ok()?;
    let events = document.get("record")?.get("events")?;
    (events.as_str() != Some("all")).then(|| events.to_string())
}
