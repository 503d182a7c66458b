//! From the secrets that one instance reached to the contacts that could have carried them away.
//!
//! Contents are not recorded, so that a contact behind a secret is a possibility and no proof:
//! what the report can say is which process contacted whom, and how it stands to the one that
//! read. Of the same contact by the same process only the first behind each secret is kept.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
};

use monitor_common::policy::{class, set};

use super::{Budget, PERSISTENCE, SECRETS, Seen, contacts::Call, processes::Processes, set_names};
use crate::{
    event::Bytes,
    report::model::{Capped, Effect, Reach, Relation, Scope, Step, Trail},
};

const TOUCHED_MAX: usize = 300;
const SENT_MAX: usize = 300;
const COPIES_MAX: usize = 100;
const PLACED_MAX: usize = 100;
const BEFORE_MAX: usize = 50;

/// See the module.
#[derive(Default)]
pub(super) struct Tracker {
    /// Secrets, and what may hold some: the one must not crowd out the other.
    grave: Capped<Mark>,
    sensitive: Capped<Mark>,
    sent: Capped<Mark>,
    copies: Capped<Mark>,
    placed: Capped<Mark>,
    before: Capped<Mark>,
    /// What has been kept since the latest secret, by kind, process and hash of the subject.
    since: HashSet<(u32, u32, u64)>,
    hasher: RandomState,
    /// When the first secret was reached.
    first: Option<Order>,
    /// One of them was a secret: what is written then may be a copy. Behind files that honest
    /// servers read, too, nobody would see the copies for the server's own work.
    is_grave: bool,
    /// The latest contacts with this machine and with others: whatever the lists have room for,
    /// they say how far a secret could have got.
    last_machine: Option<Order>,
    last_elsewhere: Option<Order>,
}

/// Place of an event in time: CLOCK_BOOTTIME, then `seq`.
type Order = (u64, u64);

struct Mark {
    step: Step,
    node: Option<u32>,
}

impl Tracker {
    /// A file opened to read, another process reached into, or an address that hands out secrets.
    pub(super) fn touched(
        &mut self,
        seen: &Seen<'_>,
        what: &'static str,
        subject: &Bytes,
        sets: u32,
        budget: &mut Budget,
    ) {
        // Other sets, such as that of programs, have nothing to say about reading.
        let sets = seen.sets(sets) & SECRETS;
        if sets == 0 {
            return;
        }
        let is_grave = sets != class::of_set(set::SENSITIVE);
        if seen.effect != Effect::Refused {
            self.first.get_or_insert(order(seen));
            self.is_grave |= is_grave;
            self.since.clear();
        }
        let list = if is_grave { &mut self.grave } else { &mut self.sensitive };
        let again = list.items.iter_mut().rev().take(32).find(|mark| {
            mark.node == seen.node
                && mark.step.subject == *subject
                && mark.step.effect == seen.effect
        });
        match again {
            Some(mark) => mark.step.count += 1,
            None => keep(list, mark(seen, what, subject, sets, None), TOUCHED_MAX, budget),
        }
    }

    /// A contact.
    pub(super) fn sent(&mut self, seen: &Seen<'_>, call: &Call, budget: &mut Budget) {
        let is_after = self.first.is_some_and(|first| order(seen) > first);
        if seen.effect == Effect::Refused && !is_after {
            return;
        }
        if seen.effect != Effect::Refused {
            let elsewhere = call.scope.is_elsewhere();
            let last = if elsewhere { &mut self.last_elsewhere } else { &mut self.last_machine };
            *last = (*last).max(Some(order(seen)));
        }
        let kind = u32::from(seen.effect == Effect::Refused);
        let is_first = self.is_first(seen, kind, &call.subject);
        let list = if is_after { &mut self.sent } else { &mut self.before };
        if !is_first {
            let known = list.items.iter_mut().rev().find(|mark| {
                mark.step.subject == call.subject
                    && mark.node == seen.node
                    && mark.step.effect == seen.effect
            });
            if let Some(mark) = known {
                mark.step.count += 1;
            }
            return;
        }
        let mark = mark(seen, call.what, &call.subject, seen.sets(call.sets), Some(call.scope));
        match is_after {
            true => keep(list, mark, SENT_MAX, budget),
            // Without a connection nothing stays open.
            false if call.what == "send" => {}
            false => keep(list, mark, BEFORE_MAX, budget),
        }
    }

    /// A file written: a place from where something runs later, or perhaps a copy.
    pub(super) fn written(
        &mut self,
        seen: &Seen<'_>,
        subject: &Bytes,
        sets: u32,
        budget: &mut Budget,
    ) {
        let sets = seen.sets(sets);
        if sets & PERSISTENCE != 0 {
            let known =
                |mark: &Mark| mark.step.subject == *subject && mark.step.effect == seen.effect;
            if !self.placed.items.iter().any(known) {
                keep(
                    &mut self.placed,
                    mark(seen, "write", subject, sets, None),
                    PLACED_MAX,
                    budget,
                );
            }
        } else if self.is_grave && seen.effect != Effect::Refused && self.is_first(seen, 2, subject)
        {
            keep(&mut self.copies, mark(seen, "write", subject, sets, None), COPIES_MAX, budget);
        }
    }

    /// Whether this is new since the latest secret. Beyond the lists' own bounds nothing is told
    /// apart any more: everything counts as new.
    fn is_first(&mut self, seen: &Seen<'_>, kind: u32, subject: &Bytes) -> bool {
        let key = (kind, seen.node.unwrap_or(u32::MAX), self.hasher.hash_one(subject));
        !self.since.contains(&key) && (self.since.len() >= 4 * SENT_MAX || self.since.insert(key))
    }

    /// The trail: who stood how to whom, and how far each secret could have got.
    pub(super) fn finish(self, processes: &Processes) -> Trail {
        let (last_machine, last_elsewhere) = (self.last_machine, self.last_elsewhere);
        let mut touched = self.grave.items;
        touched.extend(self.sensitive.items);
        touched.sort_by_key(|mark| (mark.step.boot_ns, mark.step.seq));
        for Mark { step, .. } in touched.iter_mut() {
            let own = Some((step.boot_ns, step.seq));
            step.reach = Some(match step.effect {
                Effect::Refused => Reach::Nothing,
                _ if last_elsewhere > own => Reach::Network,
                _ if last_machine > own => Reach::Machine,
                _ => Reach::Process,
            });
        }
        let reach = touched.iter().filter_map(|mark| mark.step.reach).max().unwrap_or_default();
        let sources: Vec<(u64, Option<u32>)> = touched
            .iter()
            .filter(|mark| mark.step.effect != Effect::Refused)
            .map(|mark| (mark.step.boot_ns, mark.node))
            .collect();
        let relate = |mark: &mut Mark| {
            let before = sources.iter().filter(|(boot_ns, _)| *boot_ns <= mark.step.boot_ns);
            mark.step.relation = before.map(|(_, node)| processes.relation(*node, mark.node)).max();
        };
        let (mut sent, mut copies) = (self.sent, self.copies);
        sent.items.iter_mut().for_each(relate);
        copies.items.iter_mut().for_each(relate);
        copies.items.retain(|mark| mark.step.relation >= Some(Relation::Descendant));
        let more = self.grave.more + self.sensitive.more;
        Trail {
            reach,
            touched: plain(Capped { items: touched, more }),
            sent: plain(sent),
            copies: plain(copies),
            placed: plain(self.placed),
            // Only where there is something that they could have carried.
            open_before: if reach == Reach::Nothing {
                Capped::default()
            } else {
                plain(self.before)
            },
        }
    }
}

fn order(seen: &Seen<'_>) -> Order {
    (seen.event.boot_ns, seen.event.seq)
}

fn plain(marks: Capped<Mark>) -> Capped<Step> {
    Capped { items: marks.items.into_iter().map(|mark| mark.step).collect(), more: marks.more }
}

fn keep(list: &mut Capped<Mark>, mark: Mark, most: usize, budget: &mut Budget) {
    match list.items.len() < most && budget.take(names(&mark.step)) {
        true => list.items.push(mark),
        false => list.more += 1,
    }
}

/// Bytes of the names in a step.
pub(super) fn names(step: &Step) -> usize {
    step.subject.as_bytes().len() + step.actor.exe.as_bytes().len()
}

/// An event as a step.
pub(super) fn step(
    seen: &Seen<'_>,
    what: &'static str,
    subject: &Bytes,
    sets: u32,
    scope: Option<Scope>,
) -> Step {
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
        reach: None,
        count: 1,
        seq: seen.event.seq,
        line: seen.line,
    }
}

fn mark(
    seen: &Seen<'_>,
    what: &'static str,
    subject: &Bytes,
    sets: u32,
    scope: Option<Scope>,
) -> Mark {
    Mark { step: step(seen, what, subject, sets, scope), node: seen.node }
}
