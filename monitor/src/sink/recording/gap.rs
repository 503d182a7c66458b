//! Lines that found no room: what they were, when writing is tried again, and the `loss` line that
//! takes their place.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    event::{Body, Loss},
    segment::kind_and_seq,
};

/// Time between attempts to write after a failure: the first, and the longest.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// A run of lines that are not in the file.
pub(super) struct Gap {
    first_seq: u64,
    last_seq: u64,
    pub(super) count: u64,
    reason: String,
    pub(super) retry: Duration,
    retry_at: Instant,
}

impl Gap {
    /// `lost` are the lines that were to be written; `None` when none of them was an event. The
    /// next attempt is after `retry`.
    pub(super) fn of(
        lost: &[u8],
        next_seq: u64,
        error: &io::Error,
        retry: Duration,
    ) -> Option<Self> {
        let mut seqs = lost
            .split(|&byte| byte == b'\n')
            .filter_map(|line| kind_and_seq(line).and_then(|(_, seq)| seq));
        let first_seq = seqs.next()?;
        let count = 1 + seqs.count() as u64;
        Some(Self {
            first_seq,
            last_seq: next_seq.saturating_sub(1),
            count,
            reason: error.to_string(),
            retry,
            retry_at: Instant::now() + retry,
        })
    }

    /// One more.
    pub(super) fn add(&mut self, seq: u64) {
        self.count += 1;
        self.last_seq = seq;
    }

    /// Whether it is time to try again.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.retry_at
    }

    /// Writing has failed again.
    pub(super) fn failed(&mut self, error: &io::Error) {
        self.retry = longer(self.retry);
        self.retry_at = Instant::now() + self.retry;
        self.reason = error.to_string();
    }

    /// `seq` and body of the line that stands for them.
    pub(super) fn loss(&self) -> (u64, Body) {
        let loss = Loss {
            ring: "file".to_owned(),
            reason: self.reason.clone(),
            count: self.count,
            range: Some((self.first_seq, self.last_seq)),
        };
        (self.first_seq, Body::Loss(loss))
    }
}

/// The wait after one that did not help.
pub(super) fn longer(retry: Duration) -> Duration {
    (retry * 2).min(RETRY_LONGEST)
}
