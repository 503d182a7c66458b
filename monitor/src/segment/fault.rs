//! What can be wrong with a recording, and where.

use std::{fmt, io, path::Path, sync::Arc};

use super::{ChainHash, LINE_MAX, checkpoint::hex};
use crate::event::{ParseError, VERSION};

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: u64,
    /// Offset of the line's first byte; of a compressed file, in its plain text.
    pub offset: u64,
}

/// What is wrong, and where.
#[derive(Debug)]
pub struct ReadError {
    /// The file.
    pub file: Arc<Path>,
    /// Line, from 1; 0 when the file cannot be opened.
    pub line: u64,
    /// Offset of the line's first byte; of a compressed file, in its plain text.
    pub offset: u64,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a line.
#[derive(Debug)]
pub enum Fault {
    /// The operating system refuses.
    Io(io::Error),
    /// What cannot be decompressed.
    Compressed(String),
    /// The line is longer than any of ours.
    TooLong,
    /// The last line has no end.
    Cut,
    /// The line has no chain, or is no line of ours.
    NotChained,
    /// A format that this version does not know.
    Version(u32),
    /// A header that cannot be read.
    Header(String),
    /// A checkpoint that cannot be read.
    Checkpoint(String),
    /// An event that cannot be read.
    Event(ParseError),
    /// The recording does not begin with a header.
    NoHeader,
    /// A header that does not follow on the segment before it.
    Follows {
        /// Last chain before it.
        expected: ChainHash,
        /// What it names.
        found: Option<String>,
    },
    /// The chain does not fit the line and what is before it: one of them was changed, removed,
    /// put in or moved.
    Chain,
    /// `seq` does not go on from the line before.
    Seq {
        /// Expected.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// The signature does not fit the checkpoint and what is before it.
    Signature,
    /// A checkpoint that was made with a key that is not trusted.
    Key([u8; 32]),
}

impl Fault {
    /// Whether the machine failed rather than the recording.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

impl ReadError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self { file: path.into(), line: 0, offset: 0, fault: Fault::Io(error) }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = crate::event::Shown(self.file.as_os_str().as_encoded_bytes());
        match self.line {
            0 => write!(f, "{file}: {}", self.fault),
            line => write!(f, "{file}: line {line} (byte {}): {}", self.offset, self.fault),
        }
    }
}

impl std::error::Error for ReadError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Compressed(why) => write!(f, "damaged compression behind this line: {why}"),
            Self::TooLong => write!(f, "longer than {LINE_MAX} bytes"),
            Self::Cut => f.write_str("the line has no end"),
            Self::NotChained => f.write_str("not a chained line"),
            Self::Version(found) => write!(f, "format {found}, this version reads {VERSION}"),
            Self::Header(why) => write!(f, "a header that cannot be read: {why}"),
            Self::Checkpoint(why) => write!(f, "a checkpoint that cannot be read: {why}"),
            Self::Event(why) => why.fmt(f),
            Self::NoHeader => f.write_str("a header should stand here"),
            Self::Follows { expected, found } => {
                let found = found.as_deref().unwrap_or("nothing");
                let found = crate::event::printable(found);
                write!(f, "a header that follows on {found}, not on {expected} before it")
            }
            Self::Chain => f.write_str(
                "the chain does not fit: this line or the one before it was changed, removed, \
                 put in or moved",
            ),
            Self::Seq { expected, found } => write!(f, "seq {found} where {expected} should be"),
            Self::Signature => f.write_str(
                "the signature does not fit: the checkpoint or what is before it was made anew",
            ),
            Self::Key(key) => write!(f, "signed with key {}, which is not trusted", hex(key)),
        }
    }
}
