//! The format of a recording, and reading it: JSON lines in segments, each line chained to the one
//! before it. [`crate::sink::recording`] writes it.
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
//! `previous`. A file may hold several segments one after the other. [`checkpoint`] lines sign
//! what is before them.
//!
//! ```text
//! paths -> recordings() -> Recording: the files of one stream, in order, plain or .zst
//!       -> Reader -> Block (owned, some MB of whole lines) -> Line -> Event, HeaderLine, Checkpoint
//!       -> Verifier: the same blocks, checked
//! ```

mod bundle;
pub mod checkpoint;
mod fault;
mod files;
mod header;
pub mod key;
mod line;
mod reader;
mod unknown;
mod verify;

#[cfg(test)]
mod tests;

pub use bundle::{RECORDINGS, SUFFIX as BUNDLE_SUFFIX};
pub use checkpoint::Checkpoint;
pub use fault::{Fault, Position, ReadError};
pub use files::{Recording, SegmentName, recordings};
pub use header::{Header, HeaderLine, Place};
pub use line::{Chain, ChainHash, Kind, kind_and_seq, split};
pub use reader::{Block, Line, Reader};
pub use verify::{Report, Signed, Trust, Verifier, check, verify};

/// Longest line that is read; longer ones are not ours.
pub const LINE_MAX: usize = 8 << 20;
