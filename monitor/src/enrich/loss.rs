//! What is not in the stream, from the kernel's counters: produced = delivered + lost, always.

use std::collections::BTreeMap;

use monitor_common::record::counter;

use crate::event::Loss;

/// The kernel's counters, by position, see [`counter`].
pub type Counters = [u64; counter::COUNT as usize];

/// Records that came out of the rings, whether they could be decoded or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// From the ring of ordinary events.
    pub events: u64,
    /// From the ring of violations.
    pub violations: u64,
    /// Of both, those of a kind that this version does not know.
    pub unknown: u64,
    /// Of both, those whose bytes are no record.
    pub undecodable: u64,
}

/// Keeps what has been said, so that each loss is said once.
#[derive(Debug, Default)]
pub struct Ledger {
    said: BTreeMap<(&'static str, &'static str), u64>,
}

impl Ledger {
    /// What was lost since the last call.
    pub fn update(&mut self, counters: &Counters, delivered: Delivered) -> Vec<Loss> {
        let counter = |number: u32| counters[number as usize];
        let totals = [
            ("events", "ring full", counter(counter::EVENTS_LOST)),
            ("violations", "ring full", counter(counter::VIOLATIONS_LOST)),
            ("hooks", "no scratch slot free", counter(counter::SCRATCH_EXHAUSTED)),
            ("hooks", "policy missing", counter(counter::POLICY_MISSING)),
            ("hooks", "fork refused, tag table full", counter(counter::FORK_REFUSED)),
            ("hooks", "server killed, tag table full", counter(counter::TAG_FAILED)),
            ("rings", "kind unknown to this version", delivered.unknown),
            ("rings", "not a record", delivered.undecodable),
        ];
        totals
            .into_iter()
            .filter_map(|(ring, reason, total)| self.say(ring, reason, total))
            .collect()
    }

    /// [`Ledger::update`] for the end, when hooks are detached and rings drained: what was neither
    /// delivered nor counted as lost is said too.
    pub fn close(&mut self, counters: &Counters, delivered: Delivered) -> Vec<Loss> {
        let mut losses = self.update(counters, delivered);
        let missing = unaccounted(counters, delivered);
        for (ring, count) in [("events", missing.0), ("violations", missing.1)] {
            losses.extend(self.say(ring, "not accounted for", count));
        }
        losses
    }

    /// All that was said, for the summary.
    pub fn total(&self) -> u64 {
        self.said.values().sum()
    }

    fn say(&mut self, ring: &'static str, reason: &'static str, total: u64) -> Option<Loss> {
        let said = self.said.entry((ring, reason)).or_default();
        let count = total.saturating_sub(*said);
        *said = (*said).max(total);
        let (ring, reason) = (ring.to_owned(), reason.to_owned());
        (count != 0).then_some(Loss { ring, reason, count, range: None })
    }
}

/// Records produced and neither delivered nor counted as lost: of the events ring and of the
/// violations ring. Until the rings are drained this includes what is on its way.
pub fn unaccounted(counters: &Counters, delivered: Delivered) -> (u64, u64) {
    let counter = |number: u32| counters[number as usize];
    let missing = |produced, lost, delivered: u64| {
        counter(produced).saturating_sub(counter(lost)).saturating_sub(delivered)
    };
    (
        missing(counter::EVENTS_PRODUCED, counter::EVENTS_LOST, delivered.events),
        missing(counter::VIOLATIONS_PRODUCED, counter::VIOLATIONS_LOST, delivered.violations),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(set: &[(u32, u64)]) -> Counters {
        let mut counters = Counters::default();
        for &(number, value) in set {
            counters[number as usize] = value;
        }
        counters
    }

    #[test]
    fn each_loss_is_said_once() {
        let mut ledger = Ledger::default();
        let lost = counters(&[(counter::EVENTS_PRODUCED, 10), (counter::EVENTS_LOST, 3)]);
        let delivered = Delivered { events: 7, ..Default::default() };
        let said = ledger.update(&lost, delivered);
        assert_eq!((said.len(), said[0].count, said[0].ring.as_str()), (1, 3, "events"));
        assert_eq!(ledger.update(&lost, delivered), []);
        let more = counters(&[(counter::EVENTS_PRODUCED, 12), (counter::EVENTS_LOST, 5)]);
        assert_eq!(ledger.update(&more, delivered)[0].count, 2);
        assert_eq!(ledger.total(), 5);
    }

    #[test]
    fn nothing_lost_says_nothing() {
        let all = counters(&[(counter::EVENTS_PRODUCED, 9), (counter::VIOLATIONS_PRODUCED, 1)]);
        let delivered = Delivered { events: 9, violations: 1, ..Default::default() };
        assert_eq!(Ledger::default().close(&all, delivered), []);
        assert_eq!(unaccounted(&all, delivered), (0, 0));
    }

    #[test]
    fn what_nobody_counted_is_said_at_the_end_only() {
        let produced = counters(&[(counter::VIOLATIONS_PRODUCED, 4)]);
        let delivered = Delivered { violations: 1, ..Default::default() };
        let mut ledger = Ledger::default();
        assert_eq!(ledger.update(&produced, delivered), []);
        let said = ledger.close(&produced, delivered);
        assert_eq!((said[0].ring.as_str(), said[0].count), ("violations", 3));
    }
}
