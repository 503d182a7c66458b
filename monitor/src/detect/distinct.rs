//! How many different things were seen within a window, or what they weigh: the one counter of all
//! detectors.
//!
//! Bounded by its limit: it speaks when the count reaches it, forgets, and is silent for one window,
//! so that what goes on for hours makes one finding a window. Something that is seen again while it
//! counts changes nothing.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::event::Bytes;

/// Samples that are kept.
pub const SAMPLES_MAX: usize = 8;
/// Bytes of a sample that are kept: all of any path.
pub const SAMPLE_BYTES_MAX: usize = 4096;

/// Place of an event in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Its number.
    pub seq: u64,
    /// CLOCK_BOOTTIME, ns.
    pub boot_ns: u64,
}

/// What was counted when the limit was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Different things within the window.
    pub count: u64,
    /// What they weigh together: `count`, where nothing else is said.
    pub weight: u64,
    /// The first of them.
    pub first: Moment,
    /// The last.
    pub last: Moment,
    /// Some of them, oldest first.
    pub samples: Vec<Bytes>,
}

/// See the module.
#[derive(Debug)]
pub struct Distinct {
    limit: usize,
    window_ns: u64,
    seen: HashSet<u64>,
    /// What counts, oldest first.
    order: VecDeque<Counted>,
    weight: usize,
    samples: VecDeque<(u64, Bytes)>,
    added: usize,
    /// The latest time seen: events may come late, time does not go back.
    now_ns: u64,
    silent_until_ns: u64,
}

#[derive(Debug)]
struct Counted {
    at: Moment,
    key: u64,
    weight: u32,
}

impl Distinct {
    /// Speaks at a weight of `limit`, which is so many different things, within `window_ns`; never when `limit` is 0.
    pub fn new(limit: u64, window_ns: u64) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            window_ns,
            seen: HashSet::new(),
            order: VecDeque::new(),
            weight: 0,
            samples: VecDeque::new(),
            added: 0,
            now_ns: 0,
            silent_until_ns: 0,
        }
    }

    /// Counts a thing, and tells of the window when that makes the limit.
    pub fn add(&mut self, at: Moment, key: u64, sample: impl FnOnce() -> Bytes) -> Option<Run> {
        self.weigh(at, key, 1, sample)
    }

    /// [`Distinct::add`] of a thing that weighs more than another.
    pub fn weigh(
        &mut self,
        at: Moment,
        key: u64,
        weight: u32,
        sample: impl FnOnce() -> Bytes,
    ) -> Option<Run> {
        self.put(Counted { at, key, weight }, sample);
        if self.limit == 0 || self.weight < self.limit {
            return None;
        }
        self.take()
    }

    /// Counts a thing for evidence alone: beyond the limit the oldest is forgotten.
    pub fn note(&mut self, at: Moment, key: u64, sample: impl FnOnce() -> Bytes) {
        self.put(Counted { at, key, weight: 1 }, sample);
    }

    fn put(&mut self, counted: Counted, sample: impl FnOnce() -> Bytes) {
        self.now(counted.at);
        if self.limit == 0 || self.now_ns < self.silent_until_ns {
            return;
        }
        self.expire();
        if !self.seen.insert(counted.key) {
            return;
        }
        if self.weight >= self.limit {
            self.drop_oldest();
        }
        let weight = counted.weight as usize;
        self.order.push_back(counted);
        self.weight += weight;
        let step = (self.limit / SAMPLES_MAX).max(1);
        if self.added.next_multiple_of(step) < self.added + weight {
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            let mut sample = sample();
            if sample.as_bytes().len() > SAMPLE_BYTES_MAX {
                sample = sample.as_bytes()[..SAMPLE_BYTES_MAX].into();
            }
            self.samples.push_back((self.now_ns, sample));
        }
        self.added += weight;
    }

    /// What counts now, and silence for a window; `None` while it is silent.
    pub fn take(&mut self) -> Option<Run> {
        if self.now_ns < self.silent_until_ns {
            return None;
        }
        let run = Run {
            count: self.order.len() as u64,
            weight: self.weight as u64,
            first: self.order.front().map(|counted| counted.at).unwrap_or_default(),
            last: self.order.back().map(|counted| counted.at).unwrap_or_default(),
            samples: self.samples.drain(..).map(|(_, sample)| sample).collect(),
        };
        self.silent_until_ns = self.now_ns.saturating_add(self.window_ns);
        (self.seen, self.order, self.samples) = Default::default();
        (self.weight, self.added) = (0, 0);
        Some(run)
    }

    /// Sets the clock, for [`Distinct::take`] without anything counted.
    pub fn now(&mut self, at: Moment) {
        self.now_ns = self.now_ns.max(at.boot_ns);
    }

    fn expire(&mut self) {
        let is_over = |boot_ns: u64| boot_ns.saturating_add(self.window_ns) <= self.now_ns;
        let over = self.order.iter().take_while(|counted| is_over(counted.at.boot_ns)).count();
        while self.samples.front().is_some_and(|(boot_ns, _)| is_over(*boot_ns)) {
            self.samples.pop_front();
        }
        (0..over).for_each(|_| self.drop_oldest());
    }

    fn drop_oldest(&mut self) {
        if let Some(Counted { key, weight, .. }) = self.order.pop_front() {
            self.seen.remove(&key);
            self.weight -= weight as usize;
        }
    }

    /// What counts at a time weighs.
    pub fn weight(&mut self, at: Moment) -> usize {
        self.now(at);
        self.expire();
        self.weight
    }

    /// Bytes that it holds.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let samples = self.samples.iter().map(|(_, sample)| sample.as_bytes().len() + 32);
        // A byte of control beside each key, and no more than 7 of 8 places are used.
        self.seen.capacity() * 9 * 8 / 7
            + self.order.capacity() * size_of::<Counted>()
            + samples.sum::<usize>()
    }
}

/// A key of anything. The same everywhere, so that a replay counts alike; nobody can make many
/// things that share one.
pub fn key(thing: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_NS: u64 = 1000;

    fn at(boot_ns: u64) -> Moment {
        Moment { seq: boot_ns + 7, boot_ns }
    }

    fn add(distinct: &mut Distinct, boot_ns: u64, key: u64) -> Option<Run> {
        distinct.add(at(boot_ns), key, || format!("/{key}").as_str().into())
    }

    #[test]
    fn it_speaks_at_the_limit_and_not_before() {
        let mut distinct = Distinct::new(3, WINDOW_NS);
        assert_eq!(add(&mut distinct, 1, 10), None);
        assert_eq!(add(&mut distinct, 2, 11), None);
        let run = add(&mut distinct, 3, 12).unwrap();
        assert_eq!((run.count, run.first, run.last), (3, at(1), at(3)));
        assert_eq!(run.samples.len(), 3);
    }

    #[test]
    fn the_same_thing_counts_once() {
        let mut distinct = Distinct::new(2, WINDOW_NS);
        assert!((0..100).all(|time| add(&mut distinct, time, 5).is_none()));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut distinct = Distinct::new(3, WINDOW_NS);
        for step in 0..100 {
            assert_eq!(add(&mut distinct, step * WINDOW_NS / 2, step), None, "{step}");
        }
        let mut distinct = Distinct::new(3, WINDOW_NS);
        let found = (0..100).filter_map(|step| add(&mut distinct, step * WINDOW_NS / 3, step));
        let run = found.take(1).next().unwrap();
        assert_eq!(run.last.boot_ns - run.first.boot_ns, WINDOW_NS / 3 * 2);
    }

    #[test]
    fn it_is_silent_for_a_window_and_then_speaks_again() {
        let mut distinct = Distinct::new(10, WINDOW_NS);
        let runs = (0..10_000).filter(|step| add(&mut distinct, *step, *step).is_some());
        assert_eq!(runs.count(), 10, "one in each window of 1000, begun anew");
    }

    #[test]
    fn late_events_do_not_turn_the_clock_back() {
        let mut distinct = Distinct::new(2, WINDOW_NS);
        assert_eq!(add(&mut distinct, 5000, 1), None);
        assert!(add(&mut distinct, 4999, 2).is_some());
        assert_eq!(add(&mut distinct, 100, 3), None, "silent by the latest time");
    }

    #[test]
    fn a_million_things_do_not_grow_it() {
        let limit = 500;
        let mut distinct = Distinct::new(limit, u64::MAX);
        let long = [b'x'; 100_000];
        for number in 0..1_000_000 {
            distinct.note(at(number), number, || long.as_slice().into());
        }
        let samples = SAMPLES_MAX * (SAMPLE_BYTES_MAX + 32);
        assert!(distinct.bytes() <= limit as usize * 72 + samples, "{}", distinct.bytes());
        let run = distinct.take().unwrap();
        assert_eq!((run.count, run.samples.len()), (limit, SAMPLES_MAX));
    }

    #[test]
    fn a_thing_counts_with_its_weight_and_no_longer_than_the_window() {
        let mut distinct = Distinct::new(100, WINDOW_NS);
        let mut weigh =
            |boot_ns, key, weight| distinct.weigh(at(boot_ns), key, weight, Bytes::default);
        assert_eq!(weigh(0, 1, 60), None);
        assert_eq!(weigh(1, 1, 60), None, "the same thing");
        assert_eq!(weigh(WINDOW_NS, 2, 60), None, "the first is over");
        let run = weigh(WINDOW_NS + 1, 3, 60).unwrap();
        assert_eq!((run.count, run.weight, run.samples.len()), (2, 120, 2));
    }

    #[test]
    fn a_limit_of_nothing_never_speaks() {
        let mut distinct = Distinct::new(0, WINDOW_NS);
        assert!((0..1000).all(|step| add(&mut distinct, step, step).is_none()));
        assert_eq!(distinct.bytes(), 0);
    }
}
