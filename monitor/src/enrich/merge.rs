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
/// Records held at most; beyond it the earliest goes out before its time.
pub const HELD_MAX: usize = 65_536;

/// Holds records and gives them out by time.
#[derive(Default)]
pub struct Merge {
    held: BinaryHeap<Reverse<Held>>,
    arrived: u64,
    free: Vec<Vec<u8>>,
    out: Vec<u8>,
}

struct Held {
    time_ns: u64,
    arrived: u64,
    bytes: Vec<u8>,
}

impl Merge {
    /// Takes a record. Bytes too short to have a time come out at once.
    pub fn push(&mut self, record: &[u8]) {
        let mut bytes = self.free.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(record);
        self.arrived += 1;
        let time_ns = decode::time_ns(record).unwrap_or(0);
        self.held.push(Reverse(Held { time_ns, arrived: self.arrived, bytes }));
    }

    /// The earliest record, once it is old enough at `now_ns` (CLOCK_BOOTTIME).
    pub fn pop(&mut self, now_ns: u64) -> Option<&[u8]> {
        let Reverse(first) = self.held.peek()?;
        if first.time_ns.saturating_add(DELAY_NS) > now_ns && self.held.len() <= HELD_MAX {
            return None;
        }
        let Reverse(first) = self.held.pop()?;
        let used = std::mem::replace(&mut self.out, first.bytes);
        self.free.push(used);
        Some(&self.out)
    }

    /// The earliest record, however young: for the end.
    pub fn drain(&mut self) -> Option<&[u8]> {
        self.pop(u64::MAX)
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
            merge.push(&at(time_ns));
        }
        assert_eq!(times(&mut merge, DELAY_NS + 40), [10, 20, 30, 40]);
        assert_eq!(merge.len(), 1);
        assert_eq!(merge.drain().and_then(decode::time_ns), Some(50));
        assert!(merge.is_empty());
    }

    #[test]
    fn a_young_record_waits_and_an_equal_one_keeps_its_place() {
        let mut merge = Merge::default();
        merge.push(&at(7));
        assert!(merge.pop(DELAY_NS + 6).is_none());
        assert!(merge.pop(DELAY_NS + 7).is_some());
        merge.push(&[1]);
        merge.push(&[2]);
        assert_eq!(merge.pop(DELAY_NS), Some([1].as_slice()));
        assert_eq!(merge.pop(DELAY_NS), Some([2].as_slice()));
    }

    #[test]
    fn a_flood_does_not_grow_the_memory() {
        let mut merge = Merge::default();
        let record = at(1_000);
        for _ in 0..HELD_MAX + 10 {
            merge.push(&record);
            merge.pop(0);
        }
        assert_eq!(merge.len(), HELD_MAX);
    }
}
