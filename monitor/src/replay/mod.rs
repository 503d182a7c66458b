//! Recorded events through the same enrichment and rules as live ones, on any machine.
//!
//! ```text
//! Reader -> blocks -> workers: Event::parse -> (in order) Replay -> alerts, differences
//! header, policy events -> Policies: rules compiled as they were, and other ones instead
//! ```
//!
//! Under the recorded rules every event is judged again ([`crate::judge`]) and goes through
//! [`Enricher::replay`]: the alerts that come out are the recorded ones, to the byte. Live alerts
//! are told when their time has come, be it by an event or by the agent's clock; in a recording the
//! clock stands still between lines, and each recorded alert tells where it stood. Nothing else of
//! recorded alerts is used.
//!
//! Under other rules the verdicts of both are compared ([`Differences`]).

mod blocks;
mod difference;
mod findings;
mod policies;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use monitor_common::{
    policy::{Decision, detector, mode, reason, stronger, verdict},
    record::enforced,
};
use thiserror::Error;

use crate::{
    enrich::{Clock, END, Enricher},
    event::{Body, Category, Enforced, Event, Violation},
    judge::{self, Explain},
    segment::{HeaderLine, ReadError, Recording},
};

pub use blocks::{Parsed, Source};
pub use difference::{Change, Difference, Differences};
use findings::Findings;
use policies::{Pair, Policies};
pub use policies::{PolicyError, last_policy};

/// Alerts that are held for comparison with recorded ones.
const UNMATCHED_MAX: usize = 4096;

/// What is replayed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Other rules to compare with.
    pub rules: Option<PathBuf>,
    /// Only the events of this server.
    pub server: Option<String>,
    /// Only events from this time on, ns since 1970.
    pub from_ns: Option<u64>,
    /// Only events before this time, ns since 1970.
    pub to_ns: Option<u64>,
}

/// Why a replay ends early.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The recording cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Rules cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// What was seen on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs of the agent.
    pub runs: u64,
    /// Events of watched processes that were replayed.
    pub events: u64,
    /// Of these, violations.
    pub violations: u64,
    /// Alerts that came out.
    pub alerts: u64,
    /// Alerts that the recording holds and that came out in the same way.
    pub same_alerts: u64,
    /// Alerts of the recording that did not come out, and the other way round.
    pub other_alerts: u64,
    /// Events whose recorded verdict is another one than that of the recorded rules.
    pub other_verdicts: u64,
    /// Where the first of these is.
    pub first_other: Option<String>,
    /// Events that were taken as recorded, because the recording does not hold all of their rules.
    pub unjudged: u64,
    /// Events that the recording lacks by its own account.
    pub lost: u64,
    /// Events of policies that record only some types, so that others may be missing.
    pub partial: bool,
    /// Runs without an end: they go on, the machine or the agent was stopped, or the end was cut
    /// off.
    pub open_ends: u64,
}

/// One replay, of one recording after the other.
pub struct Replay {
    options: Options,
    policies: Policies,
    enricher: Enricher,
    /// Boot and begin of the run that is being replayed.
    run: Option<(String, u64)>,
    /// Its end has not been read.
    open: bool,
    last_ns: u64,
    /// Alerts that came out, and recorded ones, that have not yet met.
    replayed: VecDeque<Event>,
    recorded: VecDeque<Event>,
    out: Vec<Event>,
    /// What was seen.
    pub counts: Counts,
    /// What other rules say.
    pub differences: Differences,
    findings: Findings,
}

impl Replay {
    /// Nothing is read yet.
    pub fn new(options: Options) -> Self {
        Self {
            policies: Policies::new(options.rules.clone()),
            options,
            enricher: fresh(),
            run: None,
            open: false,
            last_ns: 0,
            replayed: VecDeque::new(),
            recorded: VecDeque::new(),
            out: Vec::new(),
            counts: Counts::default(),
            differences: Differences::default(),
            findings: Findings::default(),
        }
    }

    /// Replays one recording; `on_alert` gets every alert, `on_block` how many bytes were done.
    ///
    /// # Errors
    /// When the recording cannot be read or its rules cannot be used, with the place.
    pub fn recording(
        &mut self,
        recording: &Recording,
        on_alert: &mut dyn FnMut(&Event),
        on_block: &mut dyn FnMut(u64),
    ) -> Result<(), ReplayError> {
        self.source(Source::of(recording), on_alert, on_block)
    }

    /// The same from any source.
    ///
    /// # Errors
    /// As [`Replay::recording`].
    pub fn source(
        &mut self,
        source: Source,
        on_alert: &mut dyn FnMut(&Event),
        on_block: &mut dyn FnMut(u64),
    ) -> Result<(), ReplayError> {
        let done = source.each(&mut |lines, bytes| {
            for (place, line) in lines {
                match line {
                    Parsed::Header(header) => self.header(&header, &place, on_alert)?,
                    Parsed::Event(event) => self.event(*event, &place)?,
                    Parsed::Other => {}
                }
                self.hand_on(on_alert);
            }
            on_block(bytes);
            Ok(())
        });
        self.stop(on_alert);
        done
    }

    fn header(
        &mut self,
        header: &HeaderLine,
        place: &blocks::Place,
        on_alert: &mut dyn FnMut(&Event),
    ) -> Result<(), ReplayError> {
        let HeaderLine { header, first_seq, .. } = header;
        let run = (header.boot_id.clone(), header.began_ns);
        if self.run.as_ref() != Some(&run) {
            self.stop(on_alert);
            self.enricher = fresh().with_processes(&header.processes);
            self.enricher.go_on_at(*first_seq);
            self.policies.clear();
            self.findings.clear();
            self.counts.runs += 1;
            self.open = true;
            self.run = Some(run);
        }
        for policy in &header.policies {
            self.policies.add(policy, place)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event, place: &blocks::Place) -> Result<(), ReplayError> {
        self.last_ns = self.last_ns.max(event.boot_ns);
        match &event.body {
            Body::Alert(_) => self.recorded_alert(event),
            Body::Policy { action, policy } => {
                match action.as_str() {
                    "install" => self.policies.add(policy, place)?,
                    _ => self.policies.retire(policy.policy),
                }
                self.enricher.go_on_at(event.seq.saturating_add(1));
            }
            Body::Agent { action, .. } if action == END => {
                self.enricher.go_on_at(event.seq.saturating_add(1));
                self.enricher.finish(event.boot_ns, &mut self.out);
                self.open = false;
            }
            Body::Loss(loss) => {
                self.counts.lost = self.counts.lost.saturating_add(loss.count);
                let last = loss.range.map_or(event.seq, |(_, last)| last);
                self.enricher.go_on_at(last.saturating_add(1));
            }
            Body::Resolve(_) => self.observed(event, place)?,
            _ if event.observed.is_none() => {
                self.enricher.go_on_at(event.seq.saturating_add(1));
            }
            _ => self.observed(event, place)?,
        }
        Ok(())
    }

    /// An event of a watched process.
    fn observed(&mut self, mut event: Event, place: &blocks::Place) -> Result<(), ReplayError> {
        let wanted = self.options.wants(&event);
        let pair = self.policies.get(event.policy())?;
        match &pair {
            Some(pair) if wanted => {
                self.counts.events += 1;
                self.counts.partial |= pair.partial;
                let decision = judge::judge(&event, &pair.recorded);
                if let Some(other) = &pair.other {
                    self.differences.compare(&event, decision, &pair.recorded, other);
                    self.findings.observe(&mut event, &pair.recorded, other);
                }
                let decision = by_kernel_count(&event, decision, &pair.recorded);
                self.counts.judge(&mut event, decision, pair, place);
            }
            Some(_) => event.violation = None,
            // Without the rules what was recorded is all there is.
            None if wanted => {
                self.counts.events += 1;
                self.counts.unjudged += 1;
            }
            None => event.violation = None,
        }
        self.counts.violations += u64::from(event.violation.is_some());
        let rules = pair.as_ref().filter(|_| wanted).map(|pair| pair.recorded.as_ref());
        self.enricher.replay(event, rules.map(|rules| rules as &dyn Explain), &mut self.out);
        Ok(())
    }

    /// A recorded alert tells where the agent's clock stood, and is compared with what comes out.
    fn recorded_alert(&mut self, alert: Event) {
        self.enricher.tick(alert.boot_ns, &mut self.out);
        self.enricher.go_on_at(alert.seq.saturating_add(1));
        if self.options.is_whole() && self.options.wants(&alert) {
            self.recorded.push_back(alert);
        }
    }

    /// The run that was being replayed has no more lines: what was counted is told, and what has
    /// found no counterpart has none.
    fn stop(&mut self, on_alert: &mut dyn FnMut(&Event)) {
        if std::mem::take(&mut self.open) {
            self.enricher.finish(self.last_ns, &mut self.out);
            self.counts.open_ends += 1;
        }
        self.run = None;
        self.last_ns = 0;
        self.hand_on(on_alert);
        self.counts.other_alerts += (self.replayed.len() + self.recorded.len()) as u64;
        self.replayed.clear();
        self.recorded.clear();
        if self.options.rules.is_some() {
            self.differences.settle(&std::mem::take(&mut self.findings.found));
        }
    }

    /// Gives away what came out.
    fn hand_on(&mut self, on_alert: &mut dyn FnMut(&Event)) {
        for event in self.out.drain(..).filter(Event::is_alert) {
            self.counts.alerts += 1;
            on_alert(&event);
            if self.options.is_whole() {
                self.replayed.push_back(event);
            }
        }
        while let (Some(replayed), Some(recorded)) = (self.replayed.front(), self.recorded.front())
        {
            match replayed == recorded {
                true => self.counts.same_alerts += 1,
                false => self.counts.other_alerts += 1,
            }
            self.replayed.pop_front();
            self.recorded.pop_front();
        }
        for queue in [&mut self.replayed, &mut self.recorded] {
            while queue.len() > UNMATCHED_MAX {
                queue.pop_front();
                self.counts.other_alerts += 1;
            }
        }
    }
}

fn fresh() -> Enricher {
    Enricher::new(0, Clock::between(0, 0))
}

impl Options {
    /// Whether all of the time is replayed, so that alerts can be the recorded ones.
    pub fn is_whole(&self) -> bool {
        self.from_ns.is_none() && self.to_ns.is_none()
    }

    fn wants(&self, event: &Event) -> bool {
        self.server.as_ref().is_none_or(|server| **server == *event.server)
            && self.from_ns.is_none_or(|from_ns| event.time_ns >= from_ns)
            && self.to_ns.is_none_or(|to_ns| event.time_ns < to_ns)
    }
}

impl Counts {
    /// Puts the verdict of the recorded rules into an event.
    fn judge(&mut self, event: &mut Event, decision: Decision, pair: &Pair, place: &blocks::Place) {
        let recorded = event.violation.take();
        let was = recorded.as_ref().map_or(Decision::default(), |violation| violation.decision);
        let is_violation = decision.verdict > verdict::ALLOW;
        if is_violation != recorded.is_some() || (is_violation && was != decision) {
            self.other_verdicts += 1;
            self.first_other.get_or_insert_with(|| {
                let names = [was, decision].map(|it| verdict::NAMES[usize::from(it.verdict)]);
                format!("{place}: recorded {}, by the recorded rules {}", names[0], names[1])
            });
        }
        if is_violation {
            event.violation = Some(Box::new(violation(&event.body, decision, pair, recorded)));
        }
    }
}

/// With the verdict of a count that the kernel programs keep themselves: one event does not tell
/// it, so it stays as recorded where the rules ask for it.
fn by_kernel_count(event: &Event, decision: Decision, rules: &Rules) -> Decision {
    let recorded = event.violation.as_ref().map(|violation| violation.decision);
    let counted = recorded.filter(|recorded| {
        recorded.reason == reason::DETECTOR
            && rules.limits.kernel_counts_reads()
            && recorded.verdict == rules.limits.verdicts[detector::MASS_READ]
    });
    counted.map_or(decision, |counted| stronger(decision, counted))
}

/// What was done about it is no matter of rules: that stays as recorded.
fn violation(
    body: &Body,
    decision: Decision,
    pair: &Pair,
    recorded: Option<Box<Violation>>,
) -> Violation {
    let done = recorded.map(|violation| (violation.enforced, violation.answered));
    let (enforced, answered) = done.unwrap_or((Enforced::None, enforced::NONE));
    Violation {
        decision,
        observed_only: pair.recorded.policy.mode == mode::OBSERVE,
        category: Category::of(body, decision),
        rule: judge::blame(body, decision, pair.recorded.as_ref()),
        enforced,
        answered,
    }
}

/// Shared by everything that is judged under it.
type Rules = Arc<crate::rules::Compiled>;
