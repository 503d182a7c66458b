//! Checking a recording: that every line follows on the one before, that nothing is missing but
//! what `loss` lines say, and where the first fault is.

use std::{
    fmt,
    io::{self, BufRead, Read},
};

use super::{
    ChainHash, HeaderLine, LINE_MAX,
    line::{self, Chain},
};
use crate::event::{Body, Event, Loss, VERSION};

/// What was found in a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines with headers, up to the first fault.
    pub lines: u64,
    /// Segments, up to the first fault.
    pub segments: u64,
    /// What the first header says it follows on; lines before it are not here.
    pub follows: Option<ChainHash>,
    /// Chain of the last good line.
    pub last: Option<ChainHash>,
    /// `seq` of the first and of the last event.
    pub seqs: Option<(u64, u64)>,
    /// Losses that the recording tells of.
    pub losses: Vec<Loss>,
    /// The first fault.
    pub bad: Option<Bad>,
}

/// A line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Line, from 1.
    pub line: u64,
    /// Offset of its first byte.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The recording does not begin with a header.
    NoHeader,
    /// A header that cannot be read.
    Header(String),
    /// A format that this version does not know.
    Version(u32),
    /// A header that does not follow on the segment before it.
    Follows {
        /// Last chain before it.
        expected: ChainHash,
        /// What it names.
        found: Option<String>,
    },
    /// The line has no chain, or is no line of ours.
    NotChained,
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
    /// The last line has no end.
    Cut,
    /// The line is longer than any of ours.
    TooLong,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} (byte {}): {}", self.line, self.offset, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("a header should stand here"),
            Self::Header(why) => write!(f, "a header that cannot be read: {why}"),
            Self::Version(found) => {
                write!(f, "format {found}, this version reads {VERSION}")
            }
            Self::Follows { expected, found } => {
                let found = found.as_deref().unwrap_or("nothing");
                write!(f, "a header that follows on {found}, not on {expected} before it")
            }
            Self::NotChained => f.write_str("not a chained line"),
            Self::Chain => f.write_str("the chain does not fit: this line or the one before it was changed, removed, put in or moved"),
            Self::Seq { expected, found } => write!(f, "seq {found} where {expected} should be"),
            Self::Cut => f.write_str("the line has no end"),
            Self::TooLong => write!(f, "longer than {LINE_MAX} bytes"),
        }
    }
}

/// Checks one recording.
///
/// # Errors
/// When the reader fails. Faults of the recording are in the report.
pub fn verify(reader: impl BufRead) -> io::Result<Report> {
    let mut verifier = Verifier::default();
    verifier.read(reader)?;
    Ok(verifier.report)
}

/// Checks the files of one recording, in their order.
#[derive(Default)]
pub struct Verifier {
    /// What was found so far.
    pub report: Report,
    chain: Option<ChainHash>,
    next_seq: Option<u64>,
    lines: Chain,
}

impl Verifier {
    /// Checks the next file. After a fault nothing more is read.
    ///
    /// # Errors
    /// When the reader fails.
    pub fn read(&mut self, mut reader: impl BufRead) -> io::Result<()> {
        let mut bytes = Vec::new();
        let (mut number, mut offset) = (0, 0);
        while self.report.bad.is_none() {
            bytes.clear();
            let most = LINE_MAX as u64 + 1;
            let read = reader.by_ref().take(most).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                break;
            }
            number += 1;
            let checked = match bytes.strip_suffix(b"\n") {
                Some(line) => self.line(line, number == 1),
                None if bytes.len() > LINE_MAX => Err(Fault::TooLong),
                None => Err(Fault::Cut),
            };
            if let Err(fault) = checked {
                self.report.bad = Some(Bad { line: number, offset, fault });
            }
            offset += read as u64;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], first: bool) -> Result<(), Fault> {
        let (object, stated) = line::split(line).ok_or(Fault::NotChained)?;
        let (kind, seq) = line::kind_and_seq(line).ok_or_else(|| version(line))?;
        let header = kind == b"header";
        if first && !header {
            return Err(Fault::NoHeader);
        }
        let before = if header { ChainHash::default() } else { self.chain.unwrap_or_default() };
        if self.lines.expected(before, object) != stated {
            return Err(Fault::Chain);
        }
        match seq {
            _ if header => self.header(line)?,
            Some(seq) => self.event(seq, kind, line)?,
            None => return Err(Fault::NotChained),
        }
        self.chain = Some(stated);
        self.report.last = Some(stated);
        self.report.lines += 1;
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let header: HeaderLine =
            serde_json::from_slice(line).map_err(|error| Fault::Header(error.to_string()))?;
        let found = header.previous.as_ref().and_then(|hex| ChainHash::from_hex(hex.as_bytes()));
        match self.chain {
            None => self.report.follows = found,
            Some(expected) if found != Some(expected) => {
                return Err(Fault::Follows { expected, found: header.previous });
            }
            Some(_) => self.check_seq(header.first_seq)?,
        }
        self.next_seq = Some(header.first_seq);
        self.report.segments += 1;
        Ok(())
    }

    fn event(&mut self, seq: u64, kind: &[u8], line: &[u8]) -> Result<(), Fault> {
        self.check_seq(seq)?;
        let mut last = seq;
        if kind == b"loss" {
            let event = Event::parse(line).map_err(|_| Fault::NotChained)?;
            if let Body::Loss(loss) = event.body {
                last = loss.range.map_or(seq, |(_, last)| last);
                self.report.losses.push(loss);
            }
        }
        self.next_seq = Some(last.saturating_add(1));
        let first = self.report.seqs.map_or(seq, |(first, _)| first);
        self.report.seqs = Some((first, last));
        Ok(())
    }

    fn check_seq(&self, found: u64) -> Result<(), Fault> {
        match self.next_seq {
            Some(expected) if expected != found => Err(Fault::Seq { expected, found }),
            _ => Ok(()),
        }
    }
}

fn version(line: &[u8]) -> Fault {
    #[derive(serde::Deserialize)]
    struct Versioned {
        v: u32,
    }
    match serde_json::from_slice::<Versioned>(line) {
        Ok(Versioned { v }) if v != VERSION => Fault::Version(v),
        _ => Fault::NotChained,
    }
}
