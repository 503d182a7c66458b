//! What other rules would have said: each event judged under both, as in enforce mode, and what
//! comes out differently counted by server and rule.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fmt,
};

use monitor_common::{
    policy::{Decision, verdict},
    record::flags,
};
use serde::Serialize;

use super::{Rules, findings::Tally};
use crate::{
    enrich::subject,
    event::{Body, Bytes, Category, Event, Rule, format_time},
    judge,
};

/// Differences that are told apart; those beyond are counted by server and kind.
const DIFFERENCES_MAX: usize = 10_000;

/// What becomes of an event under other rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Nothing was wrong with it: it would break.
    Breaks,
    /// It was reported: it would have been denied.
    Denied,
    /// It was denied: it would have been let through.
    LetThrough,
    /// Nothing was wrong with it: it would be reported.
    Reported,
    /// It was reported: nothing would be said.
    Silent,
}

impl Change {
    fn between(was: u8, becomes: u8) -> Option<Self> {
        let denies = |verdict| verdict >= verdict::DENY;
        match (was, becomes) {
            (verdict::ALLOW, becomes) if denies(becomes) => Some(Self::Breaks),
            (was, becomes) if !denies(was) && denies(becomes) => Some(Self::Denied),
            (was, becomes) if denies(was) && !denies(becomes) => Some(Self::LetThrough),
            (verdict::ALLOW, verdict::ALERT) => Some(Self::Reported),
            (verdict::ALERT, verdict::ALLOW) => Some(Self::Silent),
            _ => None,
        }
    }

    /// In words, about the events.
    pub fn words(self) -> &'static str {
        match self {
            Self::Breaks => "would break",
            Self::Denied => "would be denied",
            Self::LetThrough => "would be let through",
            Self::Reported => "would be reported",
            Self::Silent => "would be silent",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// Events of one server that one rule makes come out differently.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The server.
    pub server: String,
    /// What changes.
    pub change: Change,
    /// Verdict of the recorded rules.
    pub was: &'static str,
    /// Verdict of the other rules.
    pub becomes: &'static str,
    /// What it is about.
    pub category: &'static str,
    /// The rule behind the change: of the stronger verdict. Missing for what is beyond the bounds.
    pub rule: Option<Rule>,
    /// Events.
    pub count: u64,
    /// `seq` and time of the first, and what it was about.
    pub first_seq: u64,
    /// When.
    pub first_time: String,
    /// What it was about.
    pub first_subject: Bytes,
    /// The program that did it.
    pub first_exe: Bytes,
}

/// See the module.
#[derive(Default)]
pub struct Differences {
    found: HashMap<Key, Difference>,
    /// Events that were judged under both.
    pub compared: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    server: String,
    change: Change,
    verdicts: (u8, u8),
    category: &'static str,
    rule: Option<(String, u32, String)>,
}

impl Differences {
    /// Judges an event under other rules, and compares with what the recorded ones say.
    pub(super) fn compare(
        &mut self,
        event: &Event,
        was: Decision,
        recorded: &Rules,
        other: &Rules,
    ) {
        let (was, becomes) = if is_unjudged_exec(event) {
            let was = judge::judge_exec(event, recorded);
            if was.verdict > verdict::ALLOW {
                // The event of its check, which stands before this one, is compared.
                return;
            }
            (was, judge::judge_exec(event, other))
        } else {
            (was, judge::judge(event, other))
        };
        self.compared += 1;
        if let Some(change) = Change::between(was.verdict, becomes.verdict) {
            self.add(event, change, (was, becomes), recorded, other);
        }
    }

    fn add(
        &mut self,
        event: &Event,
        change: Change,
        (was, becomes): (Decision, Decision),
        recorded: &Rules,
        other: &Rules,
    ) {
        let stronger =
            if was.verdict > becomes.verdict { (was, recorded) } else { (becomes, other) };
        let category = Category::of(&event.body, stronger.0).name();
        let mut rule = judge::blame(&event.body, stronger.0, stronger.1.as_ref());
        if self.found.len() >= DIFFERENCES_MAX {
            rule = None;
        }
        let key = Key {
            server: event.server.to_string(),
            change,
            verdicts: (was.verdict, becomes.verdict),
            category,
            rule: rule.as_ref().map(|rule| (rule.file.clone(), rule.line, rule.text.clone())),
        };
        let name = |decision: Decision| verdict::NAMES[usize::from(decision.verdict)];
        match self.found.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().count += 1,
            Entry::Vacant(vacant) => {
                let process = event.observed.as_ref().map(|observed| &observed.process);
                vacant.insert(Difference {
                    server: event.server.to_string(),
                    change,
                    was: name(was),
                    becomes: name(becomes),
                    category,
                    rule,
                    count: 1,
                    first_seq: event.seq,
                    first_time: format_time(event.time_ns),
                    first_subject: subject(&event.body),
                    first_exe: process.map(|process| process.image.exe.clone()).unwrap_or_default(),
                });
            }
        }
    }

    /// Takes the findings of a run: what only one side finds, and what gets another verdict.
    pub(super) fn settle(&mut self, found: &BTreeMap<(String, &'static str), [Tally; 2]>) {
        for ((server, category), [recorded, other]) in found {
            let Some(change) = Change::between(recorded.verdict, other.verdict) else { continue };
            // What a detector finds has been done before: nothing breaks that worked.
            let change = if change == Change::Breaks { Change::Denied } else { change };
            let stronger = if recorded.verdict > other.verdict { recorded } else { other };
            let Some(first) = &stronger.first else { continue };
            let key = Key {
                server: server.clone(),
                change,
                verdicts: (recorded.verdict, other.verdict),
                category,
                rule: stronger.rule.as_ref().map(|it| (it.file.clone(), it.line, it.text.clone())),
            };
            let known = self.found.entry(key).or_insert_with(|| Difference {
                server: server.clone(),
                change,
                was: verdict::NAMES[usize::from(recorded.verdict)],
                becomes: verdict::NAMES[usize::from(other.verdict)],
                category,
                rule: stronger.rule.clone(),
                count: 0,
                first_seq: first.seq,
                first_time: format_time(first.time_ns),
                first_subject: first.subject.clone(),
                first_exe: first.exe.clone(),
            });
            known.count += stronger.count;
        }
    }

    /// Whether everything comes out the same.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// By server and change, most events first.
    pub fn sorted(&self) -> Vec<&Difference> {
        let mut all: Vec<&Difference> = self.found.values().collect();
        all.sort_by_key(|it| (&it.server, it.change, u64::MAX - it.count, it.first_seq));
        all
    }
}

/// An exec that the lsm backend has judged before it took effect, in an event of its own when there
/// was something to say.
fn is_unjudged_exec(event: &Event) -> bool {
    let seen = event.observed.as_ref().map_or(0, |observed| observed.flags);
    matches!(event.body, Body::Exec(_)) && seen & (flags::CHECK | flags::AFTER) == 0
}
