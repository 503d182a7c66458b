//! Records of several rings into one order by time. Each ring is nearly in order by itself, but
//! they are read one after the other; a record is held for a short while so that an earlier one
//! of another ring can still come before it. Response must not wait for this: act on a violation
//! when it is read, record it when it comes out here.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use crate::decode;

/// How long a record is held.
pub const DELAY_NS: u64 = 5_000_000;
/// Records held, and bytes of them; beyond either the earliest goes out before its time.
const HELD_MAX: usize = 16_384;
const HELD_BYTES_MAX: usize = 4 << 20;
/// Buffers kept for further records, and the largest that is kept.
const FREE_MAX: usize = 1024;
const FREE_BYTES_MAX: usize = 1024;

/// The ring that a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Ordinary events.
    Events,
    /// Violations.
    Violations,
}

/// Holds records and gives them out by time.
#[derive(Default)]
pub struct Merge {
    held: BinaryHeap<Reverse<Held>>,
    /// Of these, those of the ring of violations.
    violations: usize,
    bytes: usize,
    arrived: u64,
    free: Vec<Vec<u8>>,
    out: Vec<u8>,
}

struct Held {
    source: Source,
    time_ns: u64,
    arrived: u64,
    bytes: Vec<u8>,
}

impl Merge {
    /// Takes a record. Bytes too short to have a time come out at once.
    pub fn push(&mut self, source: Source, record: &[u8]) {
        let mut bytes = self.free.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(record);
        self.arrived += 1;
        self.bytes += bytes.len();
        let time_ns = decode::time_ns(record).unwrap_or(0);
        self.violations += usize::from(source == Source::Violations);
        self.held.push(Reverse(Held { source, time_ns, arrived: self.arrived, bytes }));
    }

    /// The earliest record, once it is old enough at `now_ns` (CLOCK_BOOTTIME).
    pub fn pop(&mut self, now_ns: u64) -> Option<&[u8]> {
        let Reverse(first) = self.held.peek()?;
        if first.time_ns.saturating_add(DELAY_NS) > now_ns && !self.is_full() {
            return None;
        }
        let Reverse(first) = self.held.pop()?;
        self.bytes -= first.bytes.len();
        self.violations -= usize::from(first.source == Source::Violations);
        let used = std::mem::replace(&mut self.out, first.bytes);
        if self.free.len() < FREE_MAX && used.capacity() <= FREE_BYTES_MAX {
            self.free.push(used);
        }
        Some(&self.out)
    }

    /// The earliest record, however young: for the end.
    pub fn drain(&mut self) -> Option<&[u8]> {
        self.pop(u64::MAX)
    }

    /// Whether records should be taken out before more are put in.
    pub fn is_full(&self) -> bool {
        self.held.len() >= HELD_MAX || self.bytes >= HELD_BYTES_MAX
    }

    /// Records held of each ring: events, violations.
    pub fn held(&self) -> (u64, u64) {
        ((self.len() - self.violations) as u64, self.violations as u64)
    }

    /// Records held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl Held {
    fn key(&self) -> (u64, u64) {
        (self.time_ns, self.arrived)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::record::kind;

    use super::*;
    use crate::decode::{blank, encode};

    fn at(time_ns: u64) -> Vec<u8> {
        let mut record = blank(kind::EXIT);
        record.time_ns = time_ns;
        encode(record, [b"", b"", b"", b""])
    }

    fn times(merge: &mut Merge, now_ns: u64) -> Vec<u64> {
        std::iter::from_fn(|| merge.pop(now_ns).and_then(decode::time_ns)).collect()
    }

    #[test]
    fn records_of_two_rings_come_out_by_time() {
        let mut merge = Merge::default();
        for time_ns in [10, 30, 50, 20, 40] {
            merge.push(Source::Events, &at(time_ns));
        }
        assert_eq!(times(&mut merge, DELAY_NS + 40), [10, 20, 30, 40]);
        assert_eq!(merge.len(), 1);
        assert_eq!(merge.drain().and_then(decode::time_ns), Some(50));
        assert!(merge.is_empty());
    }

    #[test]
    fn a_young_record_waits_and_an_equal_one_keeps_its_place() {
        let mut merge = Merge::default();
        merge.push(Source::Violations, &at(7));
        assert_eq!(merge.held(), (0, 1));
        assert!(merge.pop(DELAY_NS + 6).is_none());
        assert!(merge.pop(DELAY_NS + 7).is_some());
        merge.push(Source::Events, &[1]);
        assert_eq!(merge.held(), (1, 0));
        merge.push(Source::Events, &[2]);
        assert_eq!(merge.pop(DELAY_NS), Some([1].as_slice()));
        assert_eq!(merge.pop(DELAY_NS), Some([2].as_slice()));
    }

    #[test]
    fn a_flood_does_not_grow_the_memory() {
        for record in [at(1_000), [at(1_000).as_slice(), &[0; 30_000]].concat()] {
            let mut merge = Merge::default();
            for _ in 0..HELD_MAX + 10 {
                merge.push(Source::Events, &record);
                merge.pop(0);
            }
            assert!(merge.len() <= HELD_MAX && merge.bytes <= HELD_BYTES_MAX);
            while merge.drain().is_some() {}
            assert_eq!(merge.bytes, 0);
        }
    }
}
