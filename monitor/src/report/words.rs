//! The report's sentences: what happened, what it means, and what cannot be known.

use monitor_common::{policy::set, record::flags};

use super::{
    aggregate::Tally,
    model::{
        AlertText, Effect, Fate, Finding, Instance, Level, Reach, Relation, Report, Scope, Unseen,
    },
};
use crate::event::printable;

const SENSITIVE: &str = set::NAMES[set::SENSITIVE];

/// `1 file`, `2 files`.
pub(super) fn count(number: u64, word: &str) -> String {
    let plural = match word.strip_suffix('y') {
        _ if number == 1 => word.to_owned(),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if word.ends_with("ss") => format!("{word}es"),
        _ => format!("{word}s"),
    };
    format!("{} {plural}", grouped(number))
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place != 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.84 s`, `3 min 20 s`, `2 h 5 min`.
pub(super) fn duration(ns: u64) -> String {
    let (ms, s) = (ns / 1_000_000, ns / 1_000_000_000);
    match s {
        0 if ms == 0 => format!("{} µs", ns / 1000),
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{:02} s", s, ms % 1000 / 10),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..172_800 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} days {} h", s / 86_400, s / 3600 % 24),
    }
}

/// Puts an instance's level and sentences in.
pub(super) fn describe(instance: &mut Instance) {
    let findings = of_instance(instance);
    instance.level = findings.iter().map(|finding| finding.level).max().unwrap_or_default();
    instance.summary = story(instance);
}

/// What happened, whether or not it was bad.
fn story(instance: &Instance) -> Vec<String> {
    let ran = duration(instance.span.to.0.saturating_sub(instance.span.from.0));
    let mode = match instance.mode.as_str() {
        "observe" => "in observe mode: what broke the rules was recorded and not stopped",
        "enforce" => {
            "in enforce mode: what broke the rules was refused or killed where the backend can"
        }
        _ => "under rules that the recording does not name",
    };
    let contacts = instance.contacts.items.iter();
    let elsewhere = contacts.filter(|contact| contact.scope.is_elsewhere()).count() as u64;
    let files: u64 = instance.read.items.iter().map(|directory| directory.files).sum();
    let kept = instance.changed.items.iter();
    let changed = kept.filter(|file| !matches!(file.fate, Fate::Untouched | Fate::Temporary));
    vec![
        format!(
            "{} ran for {ran} with {}, {mode}.",
            printable(&instance.server),
            count(instance.processes.len(), "process"),
        ),
        format!(
            "It read {}, changed {}, ran {} and contacted {}, {} of them beyond this machine.",
            count(files + instance.read.more, "file"),
            count(changed.count() as u64 + instance.changed.more, "file"),
            count(instance.executed.len(), "program"),
            count(instance.contacts.len(), "address"),
            grouped(elsewhere),
        ),
    ]
}

/// What matters, worst first.
pub(super) fn findings(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    for recording in &report.verification.recordings {
        if let Some(fault) = &recording.fault {
            let text = format!("The recording is not as it was written: {}.", printable(fault));
            findings.push(Finding { level: Level::Critical, text, section: "verification".into() });
        }
    }
    let several = report.instances.items.len() > 1;
    for (number, instance) in report.instances.items.iter().enumerate() {
        for mut finding in of_instance(instance) {
            finding.section = format!("{}-{number}", finding.section);
            if several {
                finding.text = format!("{}: {}", printable(&instance.server), finding.text);
            }
            findings.push(finding);
        }
    }
    let missing = report.unseen.iter().filter(|unseen| unseen.level >= Level::Serious);
    for unseen in missing {
        let text = match unseen.count {
            Some(number) => format!("{} ({}).", unseen.what, grouped(number)),
            None => format!("{}.", unseen.what),
        };
        findings.push(Finding { level: Level::Serious, text, section: "unseen".into() });
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    if findings.iter().all(|finding| finding.level <= Level::Notice) {
        let text = "Nothing in these recordings broke the rules badly.".to_owned();
        findings.insert(0, Finding { level: Level::Quiet, text, section: "instances".into() });
    }
    findings
}

fn of_instance(instance: &Instance) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |level, section: &str, text: String| {
        findings.push(Finding { level, text, section: section.to_owned() });
    };
    secrets(instance, &mut find);
    let persistent = instance.changed.items.iter().filter(|file| {
        file.fate != Fate::Untouched
            && file.sets.iter().any(|set| ["persistence", "mcp_config"].contains(set))
    });
    let paths: Vec<String> = persistent.map(|file| file.path.shown().to_string()).collect();
    if !paths.is_empty() {
        let text = format!(
            "It changed {} from where something runs later or configures other servers: {}.",
            count(paths.len() as u64, "place"),
            some(&paths)
        );
        find(Level::Critical, "changed", text);
    }
    let grave: Vec<&AlertText> = instance
        .alerts
        .items
        .iter()
        .filter(|alert| {
            alert.effect != Effect::Refused
                && ["escape", "process", "metadata"].contains(&alert.category)
        })
        .collect();
    if !grave.is_empty() {
        let subjects = unique(grave.iter().map(|alert| alert.subject.shown().to_string()));
        let text = format!("It reached out of its own tree: {}.", some(&subjects));
        find(Level::Critical, "alerts", text);
    }
    let refused: u64 = instance
        .alerts
        .items
        .iter()
        .filter(|alert| alert.effect == Effect::Refused)
        .map(|alert| alert.count)
        .sum();
    if refused != 0 {
        let text = format!("{} refused before anything came of it.", was(refused, "attempt"));
        find(Level::Serious, "alerts", text);
    }
    let violations: u64 = instance.violations.values().sum();
    if violations != 0 {
        let kinds: Vec<String> =
            instance.violations.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
        let text = format!(
            "{} of the rules in all: {}.",
            count(violations, "violation"),
            kinds.join(", ")
        );
        find(Level::Notice, "alerts", text);
    }
    findings
}

fn secrets(instance: &Instance, find: &mut impl FnMut(Level, &str, String)) {
    let reached = instance.trail.touched.items.iter().filter(|step| step.effect != Effect::Refused);
    let (plain, grave): (Vec<_>, Vec<_>) =
        reached.partition(|step| step.sets.iter().all(|set| *set == SENSITIVE));
    let worst = if grave.is_empty() { &plain } else { &grave };
    if worst.is_empty() {
        return;
    }
    let names = unique(worst.iter().map(|step| step.subject.shown().to_string()));
    let number = names.len() as u64;
    let what = match (grave.is_empty(), number) {
        (false, _) => count(number, "secret"),
        (true, 1) => "a file that may hold secrets".to_owned(),
        (true, _) => format!("{number} files that may hold secrets"),
    };
    let killed = match worst.iter().all(|step| step.effect == Effect::Perhaps) {
        true => " (and was killed for it, perhaps after it had read)",
        false => "",
    };
    let reach = worst.iter().filter_map(|step| step.reach).max().unwrap_or_default();
    let then = match reach {
        Reach::Network => format!(
            "and contacted other machines afterwards{}: it could have left",
            destinations(instance, true)
        ),
        Reach::Machine => format!(
            "and contacted other processes of this machine afterwards{}, nothing beyond it",
            destinations(instance, false)
        ),
        _ => "and no contact was seen afterwards".to_owned(),
    };
    let level = match (grave.is_empty(), reach) {
        (false, Reach::Network | Reach::Machine) => Level::Critical,
        (false, _) => Level::Serious,
        (true, Reach::Network) => Level::Serious,
        (true, _) => Level::Notice,
    };
    find(level, "trail", format!("It reached {what}{killed} ({}), {then}.", some(&names)));
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut list = Vec::new();
    for name in names {
        if !list.contains(&name) {
            list.push(name);
        }
    }
    list
}

fn destinations(instance: &Instance, elsewhere: bool) -> String {
    let sent = instance.trail.sent.items.iter().filter(|step| {
        step.effect != Effect::Refused && step.scope.is_some_and(Scope::is_elsewhere) == elsewhere
    });
    match unique(sent.map(|step| step.subject.shown().to_string())) {
        names if names.is_empty() => String::new(),
        names => format!(" ({})", some(&names)),
    }
}

/// The first names, and how many more.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn was(number: u64, word: &str) -> String {
    format!("{} {}", count(number, word), if number == 1 { "was" } else { "were" })
}

/// What is missing, and what no recording of this kind can show.
pub(super) fn unseen(report: &Report, tally: &Tally) -> Vec<Unseen> {
    let mut list = Vec::new();
    let mut say = |level, what: String, count| list.push(Unseen { level, what, count });
    if tally.unreadable != 0 {
        let first = tally.first_unreadable.as_deref().unwrap_or_default();
        let what = format!("lines that could not be read, the first: {first}");
        say(Level::Serious, what, Some(tally.unreadable));
    }
    for (note, number) in &tally.notes {
        let level = if note.starts_with("lost: ") { Level::Serious } else { Level::Notice };
        say(level, printable(note).into_owned(), Some(*number));
    }
    if tally.more != 0 {
        say(Level::Serious, "further losses and notes of the agent".into(), Some(tally.more));
    }
    for (bit, text) in FLAGS {
        let number = tally.flags[bit.trailing_zeros() as usize];
        if number != 0 {
            say(Level::Notice, (*text).to_owned(), Some(number));
        }
    }
    let limited = report.instances.items.iter().flat_map(|instance| &instance.policies);
    for policy in limited.filter_map(|policy| policy.records.as_ref()) {
        let what = format!(
            "the rules record only {}: what is not here may have happened",
            printable(policy)
        );
        say(Level::Serious, what, None);
    }
    if report.instances.more != 0 {
        let what = "further instances, which are only counted here".to_owned();
        say(Level::Serious, what, Some(report.instances.more));
    }
    if report.origins.iter().any(|origin| origin.backend == "tracepoint") {
        say(Level::Notice, TRACEPOINT.to_owned(), None);
    }
    for text in ALWAYS {
        say(Level::Quiet, text.to_owned(), None);
    }
    list
}

/// What the flags of events mean for their reader.
const FLAGS: &[(u32, &str)] = &[
    (flags::TRUNCATED, "paths beyond the bounds, which have no name here"),
    (flags::ARGV_TRUNCATED, "argument lists beyond the bounds, cut off"),
    (
        flags::ARGUMENT,
        "names taken from arguments of calls, which the process may have changed meanwhile",
    ),
    (flags::UNREADABLE, "arguments or directories that could not be read"),
    (flags::DETACHED, "paths that end outside the mount tree"),
    (
        flags::FOREIGN,
        "files reached through mounts outside the process's own namespace, known by inode alone",
    ),
];

const TRACEPOINT: &str = "the tracepoint backend sees files and programs after the call: what was \
    killed may have happened first, and received descriptors, files opened into io_uring's own \
    table and sends that name no address are not seen";

/// What no recording shows.
const ALWAYS: [&str; 3] = [
    "what was read from a file or sent over a connection, and how much: contents are not recorded",
    "what the server told its client over its own standard output, which is its way to speak",
    "when a connection or a file was closed: one from before may have been used later",
];

impl Instance {
    /// Whether it read what every program reads.
    pub fn reads_system(&self) -> bool {
        self.read.items.iter().any(|directory| directory.is_system)
    }
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Notice => "notice",
            Self::Serious => "serious",
            Self::Critical => "critical",
        }
    }
}

impl Effect {
    /// Whether nothing came of it.
    pub fn is_refused(self) -> bool {
        self == Self::Refused
    }

    /// What came of it, of a process that acted.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Perhaps => "killed, perhaps too late",
            Self::Happened => "happened",
        }
    }
}

impl Scope {
    /// Where it leads.
    pub fn word(self) -> &'static str {
        match self {
            Self::Machine => "local socket",
            Self::Loopback => "this machine",
            Self::LinkLocal => "link-local",
            Self::Private => "private network",
            Self::Public => "internet",
        }
    }
}

impl Reach {
    /// Whether it could have got to other machines.
    pub fn is_network(self) -> bool {
        self == Self::Network
    }

    /// How far something could have got.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nothing => "not reached",
            Self::Process => "no contact seen afterwards",
            Self::Machine => "could have reached this machine's other processes",
            Self::Network => "could have left this machine",
        }
    }
}

impl Relation {
    /// Who it is, seen from what reached the secret.
    pub fn word(self) -> &'static str {
        match self {
            Self::SameTree => "elsewhere in the tree",
            Self::Ancestor => "above the reader",
            Self::Descendant => "started by the reader",
            Self::SameProcess => "the reader itself",
        }
    }
}

impl Fate {
    /// How much it matters, as a class of CSS.
    pub fn class(self) -> &'static str {
        match self {
            Self::Changed | Self::Deleted => "serious",
            Self::Created | Self::Attributes => "notice",
            Self::Temporary | Self::Untouched => "plain",
        }
    }

    /// What became of it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Created => "new",
            Self::Attributes => "attributes",
            Self::Temporary => "made and removed",
            Self::Untouched => "refused",
        }
    }
}
