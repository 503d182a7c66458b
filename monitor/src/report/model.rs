//! What a report says, as data. Its JSON form is `mcp-monitor report --format json`; fields are
//! only added within one [`FORMAT`].

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::event::{Bytes, Rule, format_time};

/// Version of the JSON form.
pub const FORMAT: u32 = 1;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub report: u32,
    /// Version of the agent that wrote the report.
    pub agent: &'static str,
    /// The worst of the findings.
    pub level: Level,
    /// What matters most, worst first.
    pub findings: Vec<Finding>,
    /// From the first event to the last; `None` of empty recordings.
    pub span: Option<Span>,
    /// Event lines that were read.
    pub events: u64,
    /// The same by type.
    pub types: BTreeMap<&'static str, u64>,
    /// The files that were read, in order: [`Location::file`] counts from 0.
    pub files: Vec<Bytes>,
    /// Whether the recordings are as they were written.
    pub verification: Verification,
    /// Where and by what they were made.
    pub origins: Vec<OriginText>,
    /// What to do now.
    pub impact: Impact,
    /// Instance by instance.
    pub instances: Capped<Instance>,
    /// What was lost, and what no recording of this kind can show.
    pub unseen: Vec<Unseen>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to see.
    #[default]
    Quiet,
    /// Worth knowing.
    Notice,
    /// Somebody has to look.
    Serious,
    /// Somebody has to act.
    Critical,
}

/// One sentence that matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The sentence, hostile characters escaped.
    pub text: String,
    /// Where in the report more is said: an id of the HTML form.
    pub section: String,
}

/// A list with an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capped<T> {
    /// What is told.
    pub items: Vec<T>,
    /// How many more there are.
    pub more: u64,
}

impl<T> Default for Capped<T> {
    fn default() -> Self {
        Self { items: Vec::new(), more: 0 }
    }
}

impl<T> Capped<T> {
    /// Adds an item, or counts it where the list is full.
    pub fn push(&mut self, item: T, most: usize) {
        if self.items.len() < most {
            self.items.push(item);
        } else {
            self.more += 1;
        }
    }

    /// With those that are only counted.
    pub fn len(&self) -> u64 {
        self.items.len() as u64 + self.more
    }

    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sorts, then keeps the first `most`.
    pub fn sorted(mut self, most: usize, order: impl FnMut(&T, &T) -> std::cmp::Ordering) -> Self {
        self.items.sort_by(order);
        self.more += self.items.len().saturating_sub(most) as u64;
        self.items.truncate(most);
        self
    }
}

/// Wall clock, ns since 1970; RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_time(self.0))
    }
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first event's time.
    pub from: Moment,
    /// The last event's time.
    pub to: Moment,
}

impl Span {
    /// Widens it by one event.
    pub fn include(span: &mut Option<Self>, at: Moment) {
        let known = span.get_or_insert(Self { from: at, to: at });
        known.from = known.from.min(at);
        known.to = known.to.max(at);
    }
}

/// Whether what was recorded took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It was refused.
    Refused,
    /// The process was killed for it; it may have happened by then.
    Perhaps,
    /// It happened.
    #[default]
    Happened,
}

/// What verification of the recordings found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// No fault was found.
    pub intact: bool,
    /// Each recording and what was found in it.
    pub recordings: Vec<Verified>,
}

/// One recording: a file, or the segments of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The file, or the directory and the stream's name.
    pub name: Bytes,
    /// Its segments up to the first fault.
    pub segments: u64,
    /// Its good lines up to the first fault.
    pub lines: u64,
    /// Chain of its last good line.
    pub chain: Option<String>,
    /// The last signed checkpoint.
    pub checkpoint: Option<Signed>,
    /// The first fault, with file, line and offset.
    pub fault: Option<String>,
    /// What this does not prove.
    pub unknown: Vec<String>,
}

/// A signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// When it was made.
    pub time: Moment,
    /// The public key, in hexadecimal.
    pub key: String,
    /// Events from this number on are behind it.
    pub next_seq: u64,
}

/// What a header says about where a recording was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OriginText {
    /// Host name.
    pub host: String,
    /// Boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the agent that recorded.
    pub agent: String,
    /// `lsm` or `tracepoint`.
    pub backend: String,
    /// Number of attached hooks.
    pub hooks: u64,
}

/// A process that did something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// Thread group.
    pub tgid: u32,
    /// Start, CLOCK_BOOTTIME, ns: with `tgid` the identity.
    pub start_ns: u64,
    /// What it ran then.
    pub exe: Bytes,
}

/// One event of those that are told one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When.
    pub time: Moment,
    /// CLOCK_BOOTTIME, ns.
    pub boot_ns: u64,
    /// `read`, `write`, `connect`, `send`, `unix`, …
    pub what: &'static str,
    /// Path or address.
    pub subject: Bytes,
    /// The sets it falls in.
    pub sets: Vec<&'static str>,
    /// Whether it took effect.
    pub effect: Effect,
    /// Who.
    pub actor: Actor,
    /// Of a contact: where it leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Of what came after a secret: how the process stands to the one that reached it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<Relation>,
    /// Of a secret: how far it could have got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// How often until the next step of another kind.
    pub count: u64,
    /// Number of the event in its stream.
    pub seq: u64,
    /// Where its line stands.
    pub line: Location,
}

/// A line of the recordings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Position in [`Report::files`].
    pub file: usize,
    /// Line, from 1.
    pub line: u64,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// A socket of another process of this machine.
    Machine,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 169.254.0.0/16, `fe80::/10`, and what the set `metadata` names.
    LinkLocal,
    /// Private networks.
    Private,
    /// Everything else.
    Public,
}

impl Scope {
    /// Whether it is another machine.
    pub fn is_elsewhere(self) -> bool {
        self >= Self::LinkLocal
    }
}

/// How a process stands to another, closest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// Somewhere in the same tree.
    SameTree,
    /// Above it: reads what it prints.
    Ancestor,
    /// Beneath it: has what it was given.
    Descendant,
    /// The same.
    SameProcess,
}

/// From secrets that were touched to what could have carried them away.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trail {
    /// How far what was read could have got.
    pub reach: Reach,
    /// Members of the sets that were reached, refused ones too.
    pub touched: Capped<Step>,
    /// Contacts afterwards.
    pub sent: Capped<Step>,
    /// Files written afterwards by the same process or beneath it: they may hold copies.
    pub copies: Capped<Step>,
    /// Places from where something runs later, when they were first changed.
    pub placed: Capped<Step>,
    /// Connections from before, which may have been open still.
    pub open_before: Capped<Step>,
}

/// How far something could have got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// No secret was reached.
    #[default]
    Nothing,
    /// Reached, and no contact seen afterwards.
    Process,
    /// To other processes of the machine.
    Machine,
    /// To other machines.
    Network,
}

/// One instance of a server.
#[derive(Clone, Debug, Serialize)]
pub struct Instance {
    /// Number.
    pub instance: u32,
    /// Server name.
    pub server: String,
    /// Position in [`Report::origins`].
    pub origin: usize,
    /// `observe`, `enforce`, or empty where no policy is recorded.
    pub mode: String,
    /// From its first event to its last.
    pub span: Span,
    /// Events of it.
    pub events: u64,
    /// The worst about it.
    pub level: Level,
    /// What happened, in sentences.
    pub summary: Vec<String>,
    /// Rules that were in force.
    pub policies: Vec<Policy>,
    /// Its alerts, worst first.
    pub alerts: Capped<AlertText>,
    /// Violations that the alerts tell of, by category.
    pub violations: BTreeMap<&'static str, u64>,
    /// From secrets to contacts.
    pub trail: Trail,
    /// Events over time.
    pub timeline: Timeline,
    /// Its processes, parents before children.
    pub processes: Capped<ProcessText>,
    /// Files it changed.
    pub changed: Capped<ChangedFile>,
    /// Files it read, by directory.
    pub read: Capped<ReadDirectory>,
    /// Programs it ran.
    pub executed: Capped<Executed>,
    /// Addresses and sockets it contacted or offered.
    pub contacts: Capped<Contacted>,
    /// What does not fit above: reaches into processes, mounts, namespaces, …
    pub others: Capped<Step>,
}

/// Rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Number in the stream.
    pub policy: u32,
    /// `observe` or `enforce`.
    pub mode: String,
    /// The files it was made of.
    pub sources: Vec<String>,
    /// What of the events it records, where not all.
    pub records: Option<String>,
}

/// An alert, with others like it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlertText {
    /// How bad it is.
    pub level: Level,
    /// When the first was.
    pub time: Moment,
    /// When the last was.
    pub last: Moment,
    /// Category.
    pub category: &'static str,
    /// `allow` … `kill-tree`: what was, or in observe mode would have been, carried out.
    pub verdict: &'static str,
    /// Observe mode: nothing was carried out.
    pub observed_only: bool,
    /// Whether it took effect.
    pub effect: Effect,
    /// Type of the events.
    pub event: String,
    /// What it is about.
    pub subject: Bytes,
    /// Why, in one sentence.
    pub why: String,
    /// Violations.
    pub count: u64,
    /// The rule that decided.
    pub rule: Option<RuleText>,
    /// Who did it.
    pub actor: Actor,
    /// From the server's root to the process: executable and arguments.
    pub ancestry: Vec<Ancestor>,
    /// The events behind it.
    pub evidence: Vec<Evidence>,
}

/// A line of a rule file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleText {
    /// Rule file.
    pub file: String,
    /// Line; 0 is what holds when the file is silent.
    pub line: u32,
    /// The list.
    pub list: String,
    /// Its text.
    pub text: String,
}

impl From<&Rule> for RuleText {
    fn from(rule: &Rule) -> Self {
        let Rule { file, line, list, text } = rule.clone();
        Self { file, line, list, text }
    }
}

/// A process of an ancestry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// Thread group.
    pub tgid: u32,
    /// Executable.
    pub exe: Bytes,
    /// First arguments.
    pub argv: Vec<Bytes>,
}

/// An event behind an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Number in its stream.
    pub seq: u64,
    /// Where its line stands; `None` where it was too far from the alert to be found in one pass.
    pub line: Option<Location>,
    /// The line as it was recorded; missing where it is too long.
    pub text: Option<String>,
}

/// Events over time, in equal steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Start of the first step.
    pub from: Moment,
    /// Length of a step, ns.
    pub step_ns: u64,
    /// Counts of each lane, by [`LANES`].
    pub lanes: [Vec<u32>; LANES.len()],
}

/// What a [`Timeline`] counts.
pub const LANES: [&str; 5] = ["processes", "reads", "writes", "contacts", "violations"];

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessText {
    /// Thread group.
    pub tgid: u32,
    /// Start, CLOCK_BOOTTIME, ns.
    pub start_ns: u64,
    /// Position of its parent in the list.
    pub parent: Option<usize>,
    /// What it last ran.
    pub exe: Bytes,
    /// With which arguments.
    pub argv: Vec<Bytes>,
    /// Real user id.
    pub uid: u32,
    /// First and last event.
    pub span: Span,
    /// As from wait(2); `None` while it runs, or where its end was not seen.
    pub status: Option<u32>,
    /// Programs it ran, one after the other.
    pub execs: u64,
    /// Files opened to read.
    pub reads: u64,
    /// Files changed.
    pub writes: u64,
    /// Contacts.
    pub contacts: u64,
    /// Violations.
    pub violations: u64,
}

/// A file that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedFile {
    /// Its path.
    pub path: Bytes,
    /// What became of it.
    pub fate: Fate,
    /// Everything that was done to it.
    pub done: Vec<&'static str>,
    /// Its other name, of a rename, link or symbolic link.
    pub other: Option<Bytes>,
    /// The sets it falls in.
    pub sets: Vec<&'static str>,
    /// Changes.
    pub count: u64,
    /// Of these, refused.
    pub refused: u64,
    /// First and last change.
    pub span: Span,
    /// Who changed it first.
    pub actor: Actor,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It was there before and its content may be different.
    Changed,
    /// It was there before and is gone.
    Deleted,
    /// It is new.
    Created,
    /// Mode, owner, attributes or times only.
    Attributes,
    /// Made and removed again.
    Temporary,
    /// Every attempt was refused.
    Untouched,
}

/// Files that were read in one directory or beneath it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadDirectory {
    /// The directory.
    pub directory: Bytes,
    /// Part of the system or of a runtime: `/usr`, `/etc`, `/proc`, `node_modules`, …
    pub is_system: bool,
    /// Different files.
    pub files: u64,
    /// Opens.
    pub opens: u64,
    /// Some of them.
    pub names: Capped<Bytes>,
}

/// A program that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Executed {
    /// Its path.
    pub path: Bytes,
    /// How often.
    pub count: u64,
    /// Of these, refused.
    pub refused: u64,
    /// It has no name in any file system.
    pub fileless: bool,
    /// Arguments of the first time.
    pub argv: Vec<Bytes>,
    /// First time.
    pub first: Moment,
}

/// An address or socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contacted {
    /// `connect`, `send`, `unix`, `listen` or `bind`.
    pub what: &'static str,
    /// The address or path.
    pub subject: Bytes,
    /// Host name, where one is known.
    pub name: Option<String>,
    /// Where it leads.
    pub scope: Scope,
    /// The sets it falls in.
    pub sets: Vec<&'static str>,
    /// How often.
    pub count: u64,
    /// Of these, refused.
    pub refused: u64,
    /// First and last time.
    pub span: Span,
    /// Who was first.
    pub actor: Actor,
}

/// What to do now.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Impact {
    /// How far what was read could have got, the worst of all instances.
    pub reach: Reach,
    /// Secrets that were reached.
    pub secrets: Capped<Secret>,
    /// What to make invalid and issue anew.
    pub rotate: Vec<Rotation>,
    /// Files to restore or to look at.
    pub restore: Capped<Affected>,
    /// Places from where something runs later.
    pub persistence: Capped<Affected>,
    /// Things that several instances touched.
    pub shared: Capped<Shared>,
}

/// A secret that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Its path, or the address that hands it out.
    pub subject: Bytes,
    /// The sets it falls in.
    pub sets: Vec<&'static str>,
    /// Instance that reached it.
    pub instance: u32,
    /// Whether it was.
    pub effect: Effect,
    /// How far it could have got from there.
    pub reach: Reach,
    /// The first contact afterwards.
    pub then: Option<Bytes>,
    /// When it was reached first.
    pub time: Moment,
}

/// A kind of credential to make invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rotation {
    /// What it is.
    pub what: String,
    /// What to do.
    pub how: String,
    /// Because these were read.
    pub because: Vec<Bytes>,
    /// How many more.
    pub more: u64,
    /// How far it could have got.
    pub reach: Reach,
}

/// A file that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// Its path.
    pub path: Bytes,
    /// Instance that changed it.
    pub instance: u32,
    /// What became of it.
    pub fate: Fate,
    /// Its other name.
    pub other: Option<Bytes>,
    /// The sets it falls in.
    pub sets: Vec<&'static str>,
    /// What to do.
    pub advice: &'static str,
    /// Last change.
    pub time: Moment,
}

/// Something that several instances touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// The path or address.
    pub subject: Bytes,
    /// Host, for the same path on another host is another file.
    pub host: String,
    /// Who, and how: instance, server, `read`, `changed` or `contacted`.
    pub by: Vec<SharedBy>,
}

/// An instance that touched something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharedBy {
    /// Instance.
    pub instance: u32,
    /// Its server.
    pub server: String,
    /// `read`, `changed`, `contacted`.
    pub how: &'static str,
}

/// What is not in the report, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// How much that matters here.
    pub level: Level,
    /// What is missing.
    pub what: String,
    /// How much; `None` where it cannot be counted.
    pub count: Option<u64>,
}
