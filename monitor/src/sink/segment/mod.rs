//! The recording: JSON lines in segments, each line chained to the one before it.
//!
//! A segment begins with a `header` line that says where and by what it was made and holds the
//! text of the rules in force, so that it can be read and replayed by itself. Every line ends
//! with a `chain` field:
//!
//! ```text
//! chain = hex(BLAKE3(P || L))      written as   L without its last byte "}", then ,"chain":"…"}
//! ```
//!
//! where `L` is the line's JSON object without the chain field and without the newline, and `P`
//! is the chain of the line before as 32 bytes; for a header, whose line begins a chain, `P` is 32
//! zero bytes. A header that follows on another segment names that segment's last chain in
//! `previous`. A file may hold several segments one after the other.

mod line;
mod output;
mod store;
mod tail;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{JsonLine, PolicyText, VERSION};

pub use line::ChainHash;
pub use store::Limits;
pub use verify::{Bad, Fault, Report, Verifier, verify};
pub use writer::{SegmentWriter, Totals};

/// Longest line that is read; longer ones are not ours.
pub const LINE_MAX: usize = 16 << 20;

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
        /// Bounds of a segment and of the directory.
        limits: Limits,
    },
}

/// What a header says about the machine, the agent and the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`: `boot_ns` of lines can be compared within one boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the agent.
    pub agent: String,
    /// `lsm` or `tracepoint`.
    pub backend: String,
    /// Hooks that are attached.
    pub hooks: Vec<String>,
    /// Policies in force, with the text of their rules.
    pub policies: Vec<PolicyText>,
}

/// A header line as it is read back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderLine {
    /// Version of the format.
    pub v: u32,
    /// Position of the segment in its stream, from 1.
    pub segment: u64,
    /// `seq` of the next event line.
    pub first_seq: u64,
    /// When the segment was begun.
    pub created: String,
    /// Chain of the last line of the segment before, in hexadecimal.
    pub previous: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub header: Header,
}

impl Header {
    /// A header for this machine.
    ///
    /// # Errors
    /// When procfs cannot be read.
    pub fn of_host(backend: &str, hooks: &[String]) -> io::Result<Self> {
        let read = |name| {
            let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))?;
            Ok::<_, io::Error>(text.trim_end().to_owned())
        };
        Ok(Self {
            host: read("hostname")?,
            boot_id: read("random/boot_id")?,
            kernel: read("osrelease")?,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            backend: backend.to_owned(),
            hooks: hooks.to_vec(),
            policies: Vec::new(),
        })
    }

    fn write(&self, out: &mut Vec<u8>, place: &Place) {
        let mut line = JsonLine::begin(out, "header");
        line.number("segment", place.segment);
        line.number("first_seq", place.first_seq);
        line.time("created", place.created_ns);
        if let Some(previous) = &place.previous {
            line.text("previous", &previous.to_string());
        }
        line.text("host", &self.host);
        line.text("boot_id", &self.boot_id);
        line.text("kernel", &self.kernel);
        line.text("agent", &self.agent);
        line.text("backend", &self.backend);
        line.value("hooks", &self.hooks);
        line.value("policies", &self.policies);
        line.end();
    }
}

/// Where in its stream a segment stands.
struct Place {
    segment: u64,
    first_seq: u64,
    created_ns: u64,
    previous: Option<ChainHash>,
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
