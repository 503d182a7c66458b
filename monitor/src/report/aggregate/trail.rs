//! From the secrets that one instance reached to the contacts that could have carried them away.
//!
//! Contents are not recorded, so that a contact behind a secret is a possibility and no proof:
//! what the report can say is which process contacted whom, and how it stands to the one that
//! read. Of the same contact by the same process only the first behind each secret is kept.

use std::collections::HashSet;

use super::{Budget, SECRETS, Seen, processes::Processes, set_names};
use crate::{
    event::Bytes,
    report::model::{Capped, Effect, Reach, Relation, Scope, Step, Trail},
};

const TOUCHED_MAX: usize = 300;
const SENT_MAX: usize = 300;
const COPIES_MAX: usize = 100;
const BEFORE_MAX: usize = 50;

/// See the module.
#[derive(Default)]
pub(super) struct Tracker {
    touched: Capped<Mark>,
    sent: Capped<Mark>,
    copies: Capped<Mark>,
    before: Capped<Mark>,
    /// What has been kept since the latest secret.
    since: HashSet<(u32, u32, Bytes)>,
    /// When the first secret was reached.
    first_ns: Option<u64>,
    reach: Reach,
}

struct Mark {
    step: Step,
    node: Option<u32>,
}

impl Tracker {
    /// A file opened to read, or another process reached into.
    pub(super) fn read(&mut self, seen: &Seen<'_>, what: &'static str, subject: &Bytes, sets: u32, budget: &mut Budget) {
        let sets = seen.sets(sets);
        if sets & SECRETS == 0 {
            return;
        }
        if seen.effect != Effect::Refused {
            if self.first_ns.is_none() {
                self.first_ns = Some(seen.event.boot_ns);
                self.reach = Reach::Process;
            }
            self.since.clear();
        }
        let again = self.touched.items.iter_mut().rev().take(32).find(|mark| {
            mark.node == seen.node
                && mark.step.subject == *subject
                && mark.step.effect == seen.effect
        });
        match again {
            Some(mark) => mark.step.count += 1,
            None => {
                let mark = mark(seen, what, subject, sets, None);
                keep(&mut self.touched, mark, TOUCHED_MAX, budget);
            }
        }
    }

    /// A contact.
    pub(super) fn sent(&mut self, seen: &Seen<'_>, what: &'static str, subject: &Bytes, sets: u32, scope: Scope, budget: &mut Budget) {
        if seen.effect == Effect::Refused && self.first_ns.is_none() {
            return;
        }
        let is_after = self.first_ns.is_some_and(|first| seen.event.boot_ns >= first);
        if is_after && seen.effect != Effect::Refused {
            let reach = if scope.is_elsewhere() { Reach::Network } else { Reach::Machine };
            self.reach = self.reach.max(reach);
        }
        let kind = if seen.effect == Effect::Refused { 3 } else { 0 };
        if !self.is_first(seen, kind, subject) {
            let list = if is_after { &mut self.sent } else { &mut self.before };
            let known = list.items.iter_mut().rev().find(|mark| mark.step.subject == *subject && mark.node == seen.node);
            if let Some(mark) = known {
                mark.step.count += 1;
            }
            return;
        }
        let mark = mark(seen, what, subject, seen.sets(sets), Some(scope));
        match is_after {
            true => keep(&mut self.sent, mark, SENT_MAX, budget),
            false if what == "send" => {}
            false => keep(&mut self.before, mark, BEFORE_MAX, budget),
        }
    }

    /// A file written, which may be a copy.
    pub(super) fn written(&mut self, seen: &Seen<'_>, subject: &Bytes, sets: u32, budget: &mut Budget) {
        if self.first_ns.is_none() || seen.effect == Effect::Refused {
            return;
        }
        if self.is_first(seen, 1, subject) {
            let mark = mark(seen, "write", subject, seen.sets(sets), None);
            keep(&mut self.copies, mark, COPIES_MAX, budget);
        }
    }

    fn is_first(&mut self, seen: &Seen<'_>, kind: u32, subject: &Bytes) -> bool {
        let key = (kind, seen.node.unwrap_or(u32::MAX), subject.clone());
        // Beyond the lists' own bounds nothing is told apart any more.
        self.since.len() < 4 * SENT_MAX && self.since.insert(key)
    }

    /// How far it got so far.
    pub(super) fn finish(self, processes: &Processes) -> Trail {
        let touched: Vec<(u64, Option<u32>)> = self
            .touched
            .items
            .iter()
            .filter(|mark| mark.step.effect != Effect::Refused)
            .map(|mark| (mark.step.boot_ns, mark.node))
            .collect();
        let relate = |mut mark: Mark| {
            let before = touched.iter().filter(|(boot_ns, _)| *boot_ns <= mark.step.boot_ns);
            mark.step.relation = before
                .map(|(_, node)| processes.relation(*node, mark.node))
                .max();
            mark.step
        };
        let Self { sent, copies, before, reach, .. } = self;
        let sent = Capped { items: sent.items.into_iter().map(relate).collect(), more: sent.more };
        let mut copies =
            Capped { items: copies.items.into_iter().map(relate).collect::<Vec<_>>(), more: copies.more };
        copies.items.retain(|step| step.relation >= Some(Relation::Descendant));
        Trail {
            reach,
            touched: plain(self.touched),
            sent,
            copies,
            // Only where there is something that they could have carried.
            open_before: if reach == Reach::Nothing { Capped::default() } else { plain(before) },
        }
    }
}

fn plain(marks: Capped<Mark>) -> Capped<Step> {
    Capped { items: marks.items.into_iter().map(|mark| mark.step).collect(), more: marks.more }
}

fn keep(list: &mut Capped<Mark>, mark: Mark, most: usize, budget: &mut Budget) {
    match list.items.len() < most && budget.take(mark.step.subject.as_bytes().len()) {
        true => list.items.push(mark),
        false => list.more += 1,
    }
}

/// An event as a step.
pub(super) fn step(seen: &Seen<'_>, what: &'static str, subject: &Bytes, sets: u32, scope: Option<Scope>) -> Step {
    Step {
        time: seen.time,
        boot_ns: seen.event.boot_ns,
        what,
        subject: subject.clone(),
        sets: set_names(sets),
        effect: seen.effect,
        actor: seen.actor(),
        scope,
        relation: None,
        count: 1,
        seq: seen.event.seq,
        line: seen.line,
    }
}

fn mark(seen: &Seen<'_>, what: &'static str, subject: &Bytes, sets: u32, scope: Option<Scope>) -> Mark {
    Mark { step: step(seen, what, subject, sets, scope), node: seen.node }
}
