//! Alerts: one for a violation, and one for a run of identical ones, so that a million refused
//! opens make a handful of alerts that add up to a million. Everything depends on the events
//! alone, so that a replay gives the same alerts.

use std::{
    collections::{HashMap, VecDeque},
    net::Ipv6Addr,
};

use monitor_common::{
    file::PIPEFS_MAGIC,
    policy::{Decision, access, detector, reason, set, verdict},
    record::{change, did, enforced, flags, process as reach},
};

use super::table::Table;
use crate::{
    detect::{Found, Limits},
    event::{
        Alert, Body, Bytes, Category, Contact, Enforced, Event, Finding, Observed, Process,
        Resolve, Shown, Violation, printable,
    },
    rules::is_public,
};

/// Identical violations within this time of an alert are counted into the next one.
const WINDOW_NS: u64 = 10_000_000_000;
/// Alerts of one instance and kind within a window; the rest is counted together.
const BURST_MAX: u32 = 20;
/// Runs followed at one time; beyond it violations are counted by their kind.
const RUNS_MAX: usize = 512;

/// What makes violations identical.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    instance: u32,
    kind: &'static str,
    verdict: (u8, u8, bool, u8),
    /// Program and subject; `None` stands for all beyond the bounds.
    deed: Option<(Bytes, Bytes)>,
}

struct Run {
    /// The latest violation that no alert has told of.
    pending: Option<Pending>,
    /// Alerts of the group, where the key has no subject.
    alerts: u32,
}

struct Pending {
    event: Event,
    alert: Alert,
}

/// Makes alerts of violations.
#[derive(Default)]
pub(super) struct Alerts {
    runs: HashMap<Key, Run>,
    /// Ends of windows, in order.
    due: VecDeque<(u64, Key)>,
}

impl Alerts {
    /// Takes an event; the alert that it leads to at once, if any.
    pub(super) fn observe(&mut self, event: &Event, table: &Table) -> Option<Event> {
        let violation = event.violation.as_ref()?;
        // The detector tells of it itself.
        if violation.decision.reason == reason::DETECTOR {
            return None;
        }
        let key = key(event, violation);
        if let Some(run) = self.runs.get_mut(&key) {
            run.count(event, table);
            return None;
        }
        let crowded = self.runs.len() >= RUNS_MAX;
        let group = Key { deed: None, ..key.clone() };
        self.open(&group, event.boot_ns);
        let run = self.runs.get_mut(&group)?;
        if run.alerts >= BURST_MAX || crowded {
            run.count(event, table);
            return None;
        }
        run.alerts += 1;
        self.open(&key, event.boot_ns);
        Some(around(event, alert(event, table)))
    }

    /// Alerts whose window has ended at `now_ns`.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<Event> {
        let mut alerts = Vec::new();
        while self.due.front().is_some_and(|(due_ns, _)| *due_ns <= now_ns) {
            let Some((_, key)) = self.due.pop_front() else { break };
            let Some(Run { pending, .. }) = self.runs.remove(&key) else { continue };
            if let Some(pending) = pending {
                alerts.push(pending.into_event(&key, now_ns));
                self.open(&key, now_ns);
            }
        }
        alerts
    }

    /// What has been counted and not told, at the end.
    pub(super) fn finish(&mut self, now_ns: u64) -> Vec<Event> {
        let due = std::mem::take(&mut self.due);
        let runs = &mut self.runs;
        let told = |(_, key)| Some(runs.remove(&key)?.pending?.into_event(&key, now_ns));
        due.into_iter().filter_map(told).collect()
    }

    fn open(&mut self, key: &Key, now_ns: u64) {
        if !self.runs.contains_key(key) {
            self.runs.insert(key.clone(), Run { pending: None, alerts: 0 });
            self.due.push_back((now_ns.saturating_add(WINDOW_NS), key.clone()));
        }
    }
}

impl Run {
    fn count(&mut self, event: &Event, table: &Table) {
        match &mut self.pending {
            Some(Pending { alert, .. }) => {
                alert.count += 1;
                alert.evidence.truncate(1);
                alert.evidence.push(event.seq);
            }
            None => {
                let alert = alert(event, table);
                self.pending = Some(Pending { event: event.clone(), alert });
            }
        }
    }
}

impl Pending {
    fn into_event(self, key: &Key, now_ns: u64) -> Event {
        let Self { event, mut alert } = self;
        let why = &alert.why;
        match (&key.deed, alert.count) {
            (_, 1) => {}
            (Some(_), count) => alert.why = format!("{why} ({count} times)"),
            (None, count) => alert.why = format!("{why}, and {} more of this kind", count - 1),
        }
        let later = now_ns.saturating_sub(event.boot_ns);
        let mut event = around(&event, alert);
        event.boot_ns = now_ns.max(event.boot_ns);
        event.time_ns = event.time_ns.saturating_add(later);
        event
    }
}

fn key(event: &Event, violation: &Violation) -> Key {
    let decision = violation.decision;
    let exe = event.observed.as_ref().map(|observed| observed.process.image.exe.clone());
    Key {
        instance: event.instance,
        kind: event.kind(),
        verdict: (
            violation.category as u8,
            decision.verdict,
            violation.observed_only,
            decision.reason,
        ),
        deed: Some((exe.unwrap_or_default(), deed_subject(event, violation))),
    }
}

/// What makes deeds of a program the same. Environments and arguments of many processes are one: a
/// single `ps` opens them all.
fn deed_subject(event: &Event, violation: &Violation) -> Bytes {
    match violation.category {
        Category::EnvSecret => Bytes::default(),
        _ => subject(&event.body),
    }
}

fn around(event: &Event, alert: Alert) -> Event {
    Event { body: Body::Alert(Box::new(alert)), ..event.clone() }
}

fn alert(event: &Event, table: &Table) -> Alert {
    let ancestry = event.observed.as_ref().map(|observed| table.chain(&observed.process));
    Alert {
        event: event.kind().to_owned(),
        subject: subject(&event.body),
        why: why(event),
        count: 1,
        ancestry: ancestry.unwrap_or_default(),
        evidence: vec![event.seq],
        finding: None,
    }
}

/// The alert about a finding, which the event has led to.
pub(super) fn of_finding(event: &Event, found: Found, limits: &Limits, table: &Table) -> Event {
    let violation = finding_violation(&found, limits);
    let place = match &violation.rule {
        Some(rule) if rule.line != 0 => format!(" ({}:{})", printable(&rule.file), rule.line),
        _ => String::new(),
    };
    let observed = event.observed.as_ref();
    let who = observed
        .map(|Observed { process, .. }| format!("{} ({})", Shown(name(process)), process.tgid));
    let why = format!(
        "{} {}: limit {}{place}; {}",
        who.as_deref().unwrap_or("the server"),
        found.deed,
        limits.text(found.table),
        outcome(&violation),
    );
    let Found { window_ns, limit, run, subject, mut evidence, .. } = found;
    evidence.dedup();
    let alert = Alert {
        event: event.kind().to_owned(),
        subject,
        why,
        count: run.count,
        ancestry: observed.map(|observed| table.chain(&observed.process)).unwrap_or_default(),
        evidence,
        finding: Some(Box::new(Finding {
            limit,
            window_ms: window_ns / 1_000_000,
            first_ns: run.first.boot_ns,
            last_ns: run.last.boot_ns,
            samples: run.samples,
        })),
    };
    Event {
        violation: Some(Box::new(violation)),
        body: Body::Alert(Box::new(alert)),
        ..event.clone()
    }
}

/// The verdict on a finding: the kernel's, where that has counted by itself.
pub(crate) fn finding_violation(found: &Found, limits: &Limits) -> Violation {
    let verdict = limits.verdicts[found.detector];
    let by_agent = limits.enforce && verdict >= verdict::KILL;
    let (set, access) = (found.detector as u8, access_of(found.detector));
    let own = || Violation {
        decision: Decision { verdict, reason: reason::DETECTOR, set, access },
        observed_only: !limits.enforce,
        category: Category::of_detector(found.detector),
        rule: None,
        enforced: if by_agent { Enforced::Agent } else { Enforced::None },
        answered: enforced::NONE,
    };
    let violation = found.answered.clone().unwrap_or_else(own);
    Violation { rule: Some(limits.rule(found.table)), ..violation }
}

/// The access that a detector is about.
fn access_of(detector: usize) -> u8 {
    match detector {
        detector::MASS_WRITE => access::WRITE,
        detector::EXEC_BURST => access::EXEC,
        detector::CONNECT_BURST | detector::EXFILTRATION | detector::DNS_BURST => access::CONNECT,
        _ => access::READ,
    }
}

/// The path, address or process that an event is about.
pub(crate) fn subject(body: &Body) -> Bytes {
    match body {
        Body::Exec(exec) => exec.file.path.clone(),
        Body::Open { file, .. } if file.fs_magic == PIPEFS_MAGIC => "pipe".into(),
        Body::Open { file, .. }
        | Body::Change { file, .. }
        | Body::Mount { file, .. }
        | Body::Unix { file } => file.path.clone(),
        Body::Listen(Contact { file: Some(file), .. }) => file.path.clone(),
        Body::Connect(contact)
        | Body::Send(contact)
        | Body::Bind(contact)
        | Body::Listen(contact)
        | Body::Socket(contact) => Bytes::from(contact_text(contact).as_str()),
        Body::Process { file, .. } if !file.path.is_empty() => file.path.clone(),
        Body::Process { target, .. } => Bytes::from(format!("process {}", target.tgid).as_str()),
        Body::Resolve(resolve) => Bytes::from(resolve.name.as_str()),
        Body::IoUring => "io_uring".into(),
        Body::Bpf { command } => Bytes::from(format!("bpf command {command}").as_str()),
        Body::Namespace => "user namespace".into(),
        _ => Bytes::default(),
    }
}

/// `1.2.3.4:443/tcp`, or family and protocol where there is no address.
pub(crate) fn contact_text(contact: &Contact) -> String {
    let peer = contact.peer;
    let word = |name: Option<&'static str>, number: u16| {
        name.map_or_else(|| number.to_string(), str::to_owned)
    };
    let protocol = word(crate::event::protocol_name(peer.protocol), peer.protocol);
    match contact.socket_address() {
        Some(address) => format!("{address}/{protocol}"),
        None => {
            format!("{} socket", word(crate::event::family_name(peer.family), peer.family))
        }
    }
}

/// Why there is an alert, in one sentence without hostile characters.
fn why(event: &Event) -> String {
    let Some(violation) = &event.violation else { return String::new() };
    if let Body::Resolve(resolve) = &event.body {
        return why_resolve(resolve, violation);
    }
    let Some(observed) = &event.observed else { return String::new() };
    let process = &observed.process;
    format!(
        "{} ({}) {} {}: {}; {}",
        Shown(name(process)),
        process.tgid,
        deed(&event.body),
        object(&event.body),
        ground(violation),
        match &event.body {
            // Left open for the server by whoever started it.
            Body::Process { .. } if observed.flags & flags::CHECK != 0 => "closed before it began",
            _ => outcome(violation),
        },
    )
}

/// The same of a question for a host, which is known to come from the tree and not from whom.
fn why_resolve(resolve: &Resolve, violation: &Violation) -> String {
    let (name, rule) = (printable(&resolve.name), stated(violation));
    let ground = match violation.decision.reason {
        reason::REBINDING => {
            let addresses = resolve.addresses.iter().filter(|address| !is_public(**address));
            let first = addresses.map(|address| Ipv6Addr::from(*address).to_canonical()).next();
            let first = first.map_or_else(String::new, |address| format!(" {address}"));
            format!("it leads to the private address{first}, which no rule allows{rule}")
        }
        _ => format!("no rule names this host{rule}"),
    };
    let refused = violation.enforced == Enforced::Agent;
    let outcome = match violation.decision.verdict >= verdict::DENY {
        true if refused => "refused",
        true if violation.observed_only => "reported, enforce mode would refuse it",
        _ => "reported",
    };
    format!("the server asks for {name}: {ground}; {outcome}")
}

/// The program's own name: a process chooses its task name, and at exec it has the new one.
fn name(process: &Process) -> &[u8] {
    let exe = process.image.exe.as_bytes();
    match memchr::memrchr(b'/', exe) {
        Some(slash) => &exe[slash + 1..],
        None => process.comm.split(|&byte| byte == 0).next().unwrap_or(&[]),
    }
}

fn object(body: &Body) -> String {
    let path = match subject(body) {
        empty if empty.is_empty() => "a path beyond the bounds".to_owned(),
        path => path.shown().to_string(),
    };
    let path = match body.file() {
        Some(file) if !file.host_path.is_empty() => {
            format!("{path} (on the host {})", file.host_path.shown())
        }
        _ => path,
    };
    match body {
        Body::Change { second, .. } if !second.is_empty() => {
            format!("{path} to {}", second.shown())
        }
        Body::Mount { origin, .. } => format!("{} on {path}", origin.shown()),
        Body::Connect(Contact { name: Some(name), .. })
        | Body::Send(Contact { name: Some(name), .. }) => format!("{path} ({})", printable(name)),
        _ => path,
    }
}

fn deed(body: &Body) -> &'static str {
    const WRITES: u32 = did::WRITE | did::CREATE | did::TRUNCATE | did::APPEND | did::TEMPORARY;
    match body {
        Body::Exec(_) => "executes",
        Body::Open { access, .. } => match (access & did::READ != 0, access & WRITES != 0) {
            (true, true) => "opens to read and write",
            (false, true) => "opens to write",
            (true, false) => "opens to read",
            (false, false) => "opens",
        },
        Body::Change { op, .. } => match *op {
            change::CREATE => "creates",
            change::UNLINK => "deletes",
            change::RENAME => "renames",
            change::LINK => "links",
            change::SYMLINK => "makes the symbolic link",
            change::MKDIR => "makes the directory",
            change::RMDIR => "removes the directory",
            change::MKNOD => "makes the special file",
            change::TRUNCATE => "truncates",
            change::CHMOD => "changes the mode of",
            change::CHOWN => "changes the owner of",
            change::XATTR => "changes the attributes of",
            _ => "changes the times of",
        },
        Body::Mount { .. } => "mounts",
        Body::Connect(_) | Body::Unix { .. } => "connects to",
        Body::Send(_) => "sends to",
        Body::Bind(_) => "binds to",
        Body::Listen(_) => "listens on",
        Body::Process { op, .. } => match *op {
            reach::PTRACE => "reaches into",
            reach::SIGNAL => "signals",
            reach::DESCRIPTOR => "receives a descriptor of",
            _ => "opens the memory or environment",
        },
        Body::Socket(_) => "creates a",
        Body::IoUring | Body::Namespace => "creates a",
        _ => "uses",
    }
}

/// The rule behind a verdict, where a file says it.
fn stated(violation: &Violation) -> String {
    // Line 0: what the schema says when the file does not.
    let stated = violation.rule.as_ref().filter(|rule| rule.line != 0);
    let rule = stated.map(|rule| {
        format!(" ({}:{} {})", printable(&rule.file), rule.line, printable(&rule.text))
    });
    rule.unwrap_or_default()
}

fn ground(violation: &Violation) -> String {
    let decision = violation.decision;
    let rule = stated(violation);
    match decision.reason {
        reason::SET => format!("it is in the set {}{rule}", set::NAMES[usize::from(decision.set)]),
        reason::DENY => format!("a deny rule names it{rule}"),
        reason::BOUND => "it exceeds a bound, so nothing could be matched".to_owned(),
        reason::ARGUMENTS => format!("no rule names these arguments of the program{rule}"),
        reason::DOOMED => "the server has been sentenced already".to_owned(),
        _ => format!("no rule allows this {}{rule}", access_word(decision.access)),
    }
}

fn access_word(access: u8) -> &'static str {
    let bit = access.trailing_zeros() as usize;
    access::NAMES.get(bit).copied().unwrap_or("access")
}

fn outcome(violation: &Violation) -> &'static str {
    let asked = violation.decision.verdict;
    match (violation.observed_only, violation.answered, asked) {
        (true, _, verdict::ALERT) | (false, _, verdict::ALERT) => "reported",
        (true, _, verdict::DENY) => "reported, enforce mode would deny it",
        (true, _, verdict::KILL) => "reported, enforce mode would kill the process",
        (true, ..) => "reported, enforce mode would kill the server",
        (_, enforced::NONE, verdict::KILL_TREE) => "the server is killed",
        (_, enforced::NONE, verdict::KILL) => "the process is killed",
        (_, enforced::NONE, _) if violation.enforced == Enforced::Agent => "the server is killed",
        (_, enforced::NONE, _) => "seen too late to be denied",
        (_, enforced::DENIED, verdict::KILL_TREE) => "denied, the server is killed",
        (_, enforced::DENIED, verdict::KILL) => "denied, the process is killed",
        (_, enforced::DENIED, _) => "denied",
        (_, _, verdict::KILL_TREE) => "process killed, the server is killed",
        (_, enforced::KILLED, _) => "process killed",
        _ => "denied, process killed",
    }
}
