//! How a recording is kept: the one place for its bounds, its safety and its privacy. `run` takes
//! the defaults, the agent fills this from its configuration.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

use crate::{event::Privacy, segment::key};

/// How a recording is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingOptions {
    /// Bounds of a segment and of the directory.
    pub limits: Limits,
    /// When the disk is waited for.
    pub sync: Sync,
    /// Longest time that lines stand without a checkpoint behind them.
    pub checkpoint_every: Duration,
    /// The key that signs checkpoints, see [`crate::segment::key`].
    pub key: PathBuf,
    /// What of arguments and captured content is recorded.
    pub privacy: Privacy,
}

/// Bounds of a directory of recordings. The oldest segments that nobody writes are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size at which a segment is closed and the next begun.
    pub segment_bytes: u64,
    /// Age at which a segment that holds events is closed and the next begun.
    pub segment_age: Duration,
    /// Bytes of all recordings in the directory.
    pub total_bytes: u64,
    /// Segments of all recordings in the directory.
    pub segments: usize,
    /// Age at which a closed segment is deleted.
    pub age: Option<Duration>,
}

/// When the disk is waited for, so that lines outlive a loss of power. They outlive the monitor's
/// own death as soon as they are handed to the kernel, after 200 ms at most.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// At the end of each segment and of the recording.
    Segment,
    /// At each checkpoint too, without holding up events.
    Checkpoint,
    /// Whenever lines are handed to the kernel; events wait meanwhile.
    Flush,
}

impl Default for RecordingOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            sync: Sync::Checkpoint,
            checkpoint_every: Duration::from_secs(60),
            key: key::HOST_KEY.into(),
            privacy: Privacy::Full,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segment_age: Duration::from_secs(24 * 60 * 60),
            total_bytes: 1 << 30,
            segments: 1000,
            age: None,
        }
    }
}
