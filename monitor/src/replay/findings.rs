//! Findings of detectors under the recorded rules and under others, both as in enforce mode: what
//! they deny has not happened. A finding rests on many events, so they are not compared one by one:
//! of each detector of a server, what both find.

use std::{collections::BTreeMap, sync::Arc};

use monitor_common::{
    policy::{Decision, verdict},
    record::enforced,
};

use super::Rules;
use crate::{
    detect::{Detectors, Limits},
    enrich::finding_violation,
    event::{Bytes, Category, Enforced, Event, Rule, Violation},
    judge,
};

/// Findings of one detector.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub count: u64,
    pub verdict: u8,
    pub rule: Option<Rule>,
    pub first: Option<First>,
}

/// The first of them.
#[derive(Clone, Debug)]
pub(super) struct First {
    pub seq: u64,
    pub time_ns: u64,
    pub subject: Bytes,
    pub exe: Bytes,
}

/// See the module.
#[derive(Default)]
pub(super) struct Findings {
    /// Of the recorded rules, of the other ones.
    detectors: [Detectors; 2],
    /// By server and category: of the recorded rules, of the other ones.
    pub found: BTreeMap<(String, &'static str), [Tally; 2]>,
}

impl Findings {
    /// Another run: its instances are others.
    pub fn clear(&mut self) {
        self.detectors = Default::default();
    }

    /// Lets the detectors of both rules see an event, with the verdict of theirs on it.
    pub fn observe(&mut self, event: &mut Event, recorded: &Rules, other: &Rules) {
        let violation = event.violation.take();
        self.observe_under(0, event, recorded);
        self.observe_under(1, event, other);
        event.violation = violation;
    }

    fn observe_under(&mut self, side: usize, event: &mut Event, rules: &Rules) {
        let policy = event.policy();
        let detectors = &mut self.detectors[side];
        if !detectors.knows(policy) {
            // All is counted here: no kernel program does it.
            let limits = Limits { enforce: false, ..Limits::clone(&rules.limits) };
            detectors.learn(policy, Arc::new(limits));
        }
        event.violation = would_be(event, judge::judge(event, rules));
        let found = detectors.observe(event, &|path| judge::is_runtime(event, path, &**rules));
        for found in found {
            let violation = finding_violation(&found, &rules.limits);
            self.add(side, event, &violation, found.subject.clone());
        }
    }

    fn add(&mut self, side: usize, event: &Event, violation: &Violation, subject: Bytes) {
        let key = (event.server.to_string(), violation.category.name());
        let tally = &mut self.found.entry(key).or_default()[side];
        tally.count += 1;
        tally.verdict = tally.verdict.max(violation.decision.verdict);
        tally.rule = tally.rule.take().or_else(|| violation.rule.clone());
        let exe = || event.observed.as_ref().map(|it| it.process.image.exe.clone());
        tally.first.get_or_insert_with(|| First {
            seq: event.seq,
            time_ns: event.time_ns,
            subject,
            exe: exe().unwrap_or_default(),
        });
    }
}

fn would_be(event: &Event, decision: Decision) -> Option<Box<Violation>> {
    let refused = decision.verdict >= verdict::DENY;
    (decision.verdict > verdict::ALLOW).then(|| {
        Box::new(Violation {
            decision,
            observed_only: false,
            category: Category::of(&event.body, decision),
            rule: None,
            enforced: if refused { Enforced::Kernel } else { Enforced::None },
            answered: if refused { enforced::DENIED } else { enforced::NONE },
        })
    })
}
