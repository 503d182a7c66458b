//! Writing a recording: [`crate::segment`] describes its form. Segments are begun, closed and
//! deleted here; what cannot be written is counted, and said in the stream.

mod gap;
mod keeper;
mod options;
mod output;
mod resume;
mod store;
mod writer;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::event::VERSION;

pub use options::{Limits, RecordingOptions, Sync};
pub use writer::{Notice, SegmentWriter, Totals};

/// Where a recording goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One file that grows. A recording that is there already is continued.
    File(PathBuf),
    /// Segments `STREAM.NNNNNN.jsonl` in a directory that holds all recordings together within
    /// limits.
    Directory {
        /// The directory; made when missing.
        directory: PathBuf,
        /// What the recording is called. Taking the name of an earlier one continues it.
        stream: String,
    },
}

/// Why there is no recording.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// The operating system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process writes it.
    #[error("{} is being written by another mcp-monitor: name another file", .0.display())]
    Busy(PathBuf),
    /// The file holds something else.
    #[error("{} is not a recording of mcp-monitor: name another file or move it away", .0.display())]
    Foreign(PathBuf),
    /// A recording of a format that this version does not write.
    #[error("{} has format {found}, this version writes {VERSION}: name another file", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A stream name that is no file name.
    #[error("{0:?} cannot name a recording: use letters, digits, dots, dashes and underscores")]
    Stream(String),
}

impl SegmentError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
