//! The alerts of one instance, and the lines behind them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use monitor_common::policy::verdict;

use super::{Budget, effect};
use crate::{
    event::{Alert, Bytes, Category, Event, Violation},
    report::model::{
        Actor, AlertText, Ancestor, Capped, Effect, Evidence, Level, Location, Moment, RuleText,
    },
};

/// Alerts of one category that are told, of one instance.
const ALERTS_MAX: usize = 100;
/// Lines of violations that are remembered until their alert comes, and bytes of each.
const RECENT_MAX: usize = 2048;
const LINE_BYTES_MAX: usize = 4096;

/// The latest violations: their alerts stand behind them.
#[derive(Default)]
pub(super) struct Recent(VecDeque<(u64, Location, Option<Box<str>>)>);

impl Recent {
    pub(super) fn push(&mut self, seq: u64, place: Location, line: &[u8]) {
        if self.0.len() >= RECENT_MAX {
            self.0.pop_front();
        }
        let text =
            (line.len() <= LINE_BYTES_MAX).then(|| std::str::from_utf8(line).ok().map(Box::from));
        self.0.push_back((seq, place, text.flatten()));
    }

    fn evidence(&self, seq: u64) -> Evidence {
        let found = self.0.iter().rev().find(|(known, ..)| *known == seq);
        Evidence {
            seq,
            line: found.map(|(_, place, _)| *place),
            text: found.and_then(|(.., text)| text.as_deref().map(str::to_owned)),
        }
    }
}

/// What makes alerts alike.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    category: Category,
    verdict: (u8, bool, Effect),
    exe: Bytes,
    event: String,
    subject: Bytes,
}

/// See the module.
#[derive(Default)]
pub(super) struct Alerts {
    items: Vec<AlertText>,
    index: HashMap<Key, usize>,
    told: HashMap<Category, usize>,
    violations: BTreeMap<&'static str, u64>,
    more: u64,
}

impl Alerts {
    pub(super) fn add(
        &mut self,
        event: &Event,
        alert: &Alert,
        recent: &Recent,
        budget: &mut Budget,
    ) {
        let Some(violation) = &event.violation else { return };
        // Of questions to the agent the process is not known.
        let process = event.observed.as_ref().map(|observed| &observed.process);
        let actor = Actor {
            tgid: process.map_or(0, |process| process.tgid),
            start_ns: process.map_or(0, |process| process.start_ns),
            exe: process.map(|process| process.image.exe.clone()).unwrap_or_default(),
        };
        // What a detector has counted is one violation.
        let count = if alert.finding.is_some() { 1 } else { alert.count };
        *self.violations.entry(violation.category.name()).or_default() += count;
        let key = Key {
            category: violation.category,
            verdict: (violation.decision.verdict, violation.observed_only, effect(event)),
            exe: actor.exe.clone(),
            event: alert.event.clone(),
            subject: alert.subject.clone(),
        };
        let mut evidence = alert.evidence.iter().map(|seq| recent.evidence(*seq));
        if let Some(&at) = self.index.get(&key) {
            let known = &mut self.items[at];
            known.count += count;
            known.last = known.last.max(Moment(event.time_ns));
            known.evidence.truncate(1);
            known.evidence.extend(evidence.next_back());
            return;
        }
        let told = self.told.entry(violation.category).or_default();
        if *told >= ALERTS_MAX || !budget.take(size(alert) + 2 * actor.exe.as_bytes().len()) {
            self.more += 1;
            return;
        }
        *told += 1;
        self.index.insert(key, self.items.len());
        let evidence = evidence.collect();
        self.items.push(AlertText { count, ..text(event, alert, violation, actor, evidence) });
    }

    pub(super) fn finish(self) -> (Capped<AlertText>, BTreeMap<&'static str, u64>) {
        let alerts = Capped { items: self.items, more: self.more };
        let order = |a: &AlertText, b: &AlertText| (b.level, a.time).cmp(&(a.level, b.time));
        (alerts.sorted(usize::MAX, order), self.violations)
    }
}

fn size(alert: &Alert) -> usize {
    let chain = alert.ancestry.iter().map(|ancestor| {
        let argv = ancestor.argv.iter().map(|argument| argument.as_bytes().len() + 16);
        ancestor.exe.as_bytes().len() + argv.sum::<usize>() + 64
    });
    // Twice the subject: it is a key, too. Evidence: the first line and the last, or more.
    let lines = alert.evidence.len().max(2) * LINE_BYTES_MAX;
    2 * alert.subject.as_bytes().len() + alert.why.len() + chain.sum::<usize>() + lines
}

fn text(
    event: &Event,
    alert: &Alert,
    violation: &Violation,
    actor: Actor,
    evidence: Vec<Evidence>,
) -> AlertText {
    let effect = effect(event);
    let ancestor = |ancestor: &crate::event::Ancestor| Ancestor {
        tgid: ancestor.tgid,
        exe: ancestor.exe.clone(),
        argv: ancestor.argv.clone(),
    };
    AlertText {
        level: level(violation, effect),
        time: Moment(event.time_ns),
        last: Moment(event.time_ns),
        category: violation.category.name(),
        verdict: verdict::NAMES[usize::from(violation.decision.verdict)],
        observed_only: violation.observed_only,
        effect,
        event: alert.event.clone(),
        subject: alert.subject.clone(),
        why: alert.why.clone(),
        count: alert.count,
        rule: violation.rule.as_ref().map(RuleText::from),
        actor,
        ancestry: alert.ancestry.iter().map(ancestor).collect(),
        evidence,
    }
}

/// What was refused is a finding about the server and no damage; what took effect is both.
fn level(violation: &Violation, effect: Effect) -> Level {
    let grave = match violation.category {
        Category::Secret
        | Category::EnvSecret
        | Category::Persistence
        | Category::McpConfig
        | Category::Escape
        | Category::Process
        | Category::Metadata
        | Category::Rebinding
        | Category::MassWrite
        | Category::Exfiltration => true,
        Category::FileRead
        | Category::FileWrite
        | Category::Exec
        | Category::Connect
        | Category::Listen
        | Category::Unix
        | Category::Sensitive
        | Category::Resolve
        | Category::MassRead
        | Category::ExecBurst
        | Category::ConnectBurst
        | Category::DnsBurst => false,
    };
    match (grave, effect) {
        (true, Effect::Happened | Effect::Perhaps) => Level::Critical,
        (true, Effect::Refused) => Level::Serious,
        (false, _) if violation.decision.verdict >= verdict::DENY => Level::Serious,
        (false, _) => Level::Notice,
    }
}
