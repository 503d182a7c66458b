//! Events over time in a fixed number of steps. A step begins at a millisecond and doubles
//! whenever an event lies beyond the last, so that one pass is enough.

use crate::report::model::{LANES, Moment, Timeline};

/// Steps of a timeline.
pub(super) const STEPS: usize = 256;
const FIRST_STEP_NS: u64 = 1_000_000;

/// Position in [`LANES`].
#[derive(Clone, Copy)]
pub(super) enum Lane {
    Processes,
    Reads,
    Writes,
    Contacts,
    Violations,
}

/// Counts what comes.
pub(super) struct Counter {
    from: u64,
    step_ns: u64,
    lanes: [Vec<u32>; LANES.len()],
}

impl Counter {
    pub(super) fn new(from: Moment) -> Self {
        Self { from: from.0, step_ns: FIRST_STEP_NS, lanes: Default::default() }
    }

    /// Counts one event. What lies before the first (a clock that was set back, a late record) is
    /// counted with it.
    pub(super) fn add(&mut self, lane: Lane, at: Moment) {
        let after = at.0.saturating_sub(self.from);
        while after / self.step_ns >= STEPS as u64 {
            self.step_ns *= 2;
            self.lanes.iter_mut().for_each(halve);
        }
        let step = (after / self.step_ns) as usize;
        let counts = &mut self.lanes[lane as usize];
        if counts.len() <= step {
            counts.resize(step + 1, 0);
        }
        counts[step] = counts[step].saturating_add(1);
    }

    pub(super) fn finish(mut self) -> Timeline {
        let steps = self.lanes.iter().map(Vec::len).max().unwrap_or(0);
        self.lanes.iter_mut().for_each(|counts| counts.resize(steps, 0));
        Timeline { from: Moment(self.from), step_ns: self.step_ns, lanes: self.lanes }
    }
}

fn halve(counts: &mut Vec<u32>) {
    let sum = |pair: &[u32]| pair.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
    *counts = counts.chunks(2).map(sum).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_event_is_counted_once_wherever_it_lies(
            times in proptest::collection::vec(any::<u64>(), 1..200)
        ) {
            let mut counter = Counter::new(Moment(times[0]));
            times.iter().for_each(|time| counter.add(Lane::Reads, Moment(*time)));
            let timeline = counter.finish();
            let counted: u32 = timeline.lanes[Lane::Reads as usize].iter().sum();
            prop_assert_eq!(counted as usize, times.len());
            prop_assert!(timeline.lanes.iter().all(|lane| lane.len() <= STEPS));
        }
    }

    #[test]
    fn events_stand_in_their_order() {
        let mut counter = Counter::new(Moment(1_000));
        for second in 0..600 {
            counter.add(Lane::Writes, Moment(1_000 + second * 1_000_000_000));
        }
        let timeline = counter.finish();
        let writes = &timeline.lanes[Lane::Writes as usize];
        assert!(writes.len() > STEPS / 2, "{}", writes.len());
        assert!(writes.iter().all(|count| (1..=6).contains(count)), "{writes:?}");
    }
}
