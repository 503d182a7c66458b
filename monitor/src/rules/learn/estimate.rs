//! What to expect of learned rules, from the recording alone.
//!
//! The recording is cut where the server paused; each stretch of activity stands for a call, or for
//! a few. Each is left out in turn, rules are made from the others, and what of it they would not
//! allow is counted: the stretch is then as new to the rules as the next call will be. With too few
//! stretches for that, the share of accesses that were the only ones of their entry is told (Good and
//! Turing, with one more added, so that little evidence promises little): so often something new is
//! still to be expected.

use std::collections::BTreeMap;

use super::{Learner, List, covers};

/// Fewest stretches that say something, and most that are left out.
const STRETCHES_MIN: usize = 5;
const STRETCHES_MAX: usize = 100;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub enum Estimate {
    /// By leaving out.
    LeftOut {
        /// Stretches.
        stretches: usize,
        /// Of these, such that the rules of the others allow all of it.
        quiet: usize,
        /// New accesses in the median stretch, and in the worst.
        median: usize,
        /// In the worst.
        worst: usize,
    },
    /// By what was seen once.
    SeenOnce {
        /// Entries that rest on one access.
        once: u64,
        /// Accesses that the rules rest on.
        of: u64,
    },
}

impl Estimate {
    pub(super) fn of(learner: &Learner) -> Self {
        let stretches = learner.stretch as usize + 1;
        let mut singles: BTreeMap<u32, Vec<(List, String)>> = BTreeMap::new();
        for (stretch, list, text) in learner.singles() {
            singles.entry(stretch).or_default().push((list, text));
        }
        if stretches < STRETCHES_MIN {
            let entries = learner.entries(None);
            return Self::SeenOnce {
                once: entries.iter().filter(|entry| entry.seen.count == 1).count() as u64,
                of: entries.iter().map(|entry| entry.seen.count).sum(),
            };
        }
        // Most stretches bring nothing of their own: nothing has to be left out to know that.
        let step = singles.len().div_ceil(STRETCHES_MAX).max(1);
        let mut counts: Vec<usize> = singles
            .iter()
            .map(|(stretch, texts)| (*stretch, texts))
            .enumerate()
            .filter(|(number, _)| number % step == 0)
            .flat_map(|(_, (stretch, texts))| vec![news(learner, stretch, texts); step])
            .collect();
        counts.resize(stretches, 0);
        counts.sort_unstable();
        Self::LeftOut {
            stretches,
            quiet: counts.iter().filter(|count| **count == 0).count(),
            median: counts[stretches / 2],
            worst: counts[stretches - 1],
        }
    }
}

/// How much of a stretch the rules of all others do not allow.
fn news(learner: &Learner, stretch: u32, texts: &[(List, String)]) -> usize {
    let others = learner.entries(Some(stretch));
    let allowed = |list: List, text: &str| {
        others.iter().any(|entry| {
            let suffices = entry.list == list || (list, entry.list) == (List::Read, List::Write);
            suffices && covers(&entry.text, text)
        })
    };
    texts.iter().filter(|(list, text)| !allowed(*list, text)).count()
}
