//! Checking a recording: that every line follows on the one before, that nothing is missing but
//! what `loss` lines say, that checkpoints hold, and where the first fault is.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    Block, ChainHash, Checkpoint, Fault, HeaderLine, Kind, Line, Position, ReadError, Reader,
    Recording, line::Chain,
};
use crate::event::{Body, Loss};

/// Losses that are listed; of further ones the events are counted.
const LOSSES_MAX: usize = 1000;
/// Characters of each that are kept.
const LOSS_TEXT_MAX: usize = 200;

/// What is known from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Public keys that are known to be the host's.
    pub keys: Vec<[u8; 32]>,
    /// Checkpoints of other keys are faults.
    pub only: bool,
    /// The chain of a line that was kept elsewhere.
    pub anchor: Option<ChainHash>,
}

/// What was found in a recording.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines with headers, up to the first fault.
    pub lines: u64,
    /// Event lines, up to the first fault.
    pub events: u64,
    /// Segments, up to the first fault.
    pub segments: u64,
    /// The first header, without policies and processes.
    pub header: Option<HeaderLine>,
    /// What the first header says it follows on; lines before it are not here.
    pub follows: Option<ChainHash>,
    /// The last good line.
    pub last: Option<(Position, ChainHash)>,
    /// `seq` of the first and of the last event.
    pub seqs: Option<(u64, u64)>,
    /// Losses that the recording tells of, the first of them.
    pub losses: Vec<(Position, Loss)>,
    /// Events that all its losses tell of.
    pub lost: u64,
    /// The last checkpoint that was made with a key that is trusted, or with any where none is.
    pub signed: Option<Signed>,
    /// Whether the last line ends the recording in good order, with a checkpoint as above.
    pub ended: bool,
    /// Whether somebody writes it: then its last line may be there in part.
    pub writing: bool,
    /// The line whose chain was kept elsewhere.
    pub anchor: Option<Position>,
    /// Places where a run goes on behind an end that no checkpoint closed: the first, and how many.
    pub joints: Option<(Position, u64)>,
    /// The first fault.
    pub bad: Option<ReadError>,
}

/// A checkpoint that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Where it is.
    pub at: Position,
    /// How many lines there are up to and with it.
    pub lines: u64,
    /// Its chain.
    pub chain: ChainHash,
    /// What it says.
    pub checkpoint: Checkpoint,
}

/// Checks one recording. Faults, also of the machine, are in the report.
pub fn verify(recording: &Recording, trust: &Trust) -> Report {
    let mut report = check(Reader::open(recording), trust);
    let newest = recording.files.last();
    report.writing = newest.is_some_and(|path| is_locked(path).unwrap_or(false));
    let half = |bad: &ReadError| {
        matches!(bad.fault, Fault::Cut) && newest.is_some_and(|path| *bad.file == **path)
    };
    if report.writing && report.bad.as_ref().is_some_and(half) {
        report.bad = None;
    }
    if report.lines == 0 && report.bad.is_none() {
        let file = recording.name.as_path().into();
        report.bad = Some(ReadError { file, line: 1, offset: 0, fault: Fault::NoHeader });
    }
    report
}

/// Whether a process holds a lock on a file, as writers do. Asked without taking one.
fn is_locked(path: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    let locks = fs::read_to_string("/proc/locks")?;
    let mut locks = locks.lines().map(|line| line.split_whitespace());
    Ok(locks.any(|mut words| words.any(|word| word == "FLOCK") && words.any(|word| word == file)))
}

/// The same of what a reader gives.
pub fn check(mut reader: Reader, trust: &Trust) -> Report {
    let mut verifier = Verifier::new(trust.clone());
    while verifier.report.bad.is_none() {
        match reader.next_block() {
            Ok(Some(block)) => verifier.block(&block),
            Ok(None) => break,
            Err(error) => verifier.report.bad = Some(error),
        }
    }
    verifier.report
}

/// Checks the blocks of one recording, in their order.
#[derive(Default)]
pub struct Verifier {
    /// What was found so far.
    pub report: Report,
    trust: Trust,
    chain: Option<ChainHash>,
    next_seq: Option<u64>,
    /// Boot and beginning of the run that the last header is of.
    run: Option<(String, u64)>,
    lines: Chain,
}

impl Verifier {
    /// Nothing is checked yet.
    pub fn new(trust: Trust) -> Self {
        Self { trust, ..Self::default() }
    }

    /// Checks the next block, up to the first fault.
    pub fn block(&mut self, block: &Block) {
        let mut last = None;
        for line in block.lines() {
            let checked = line.and_then(|line| {
                self.line(&line).map_err(|fault| line.error(fault))?;
                Ok(line)
            });
            match checked {
                Ok(line) => last = Some(line),
                Err(error) => {
                    self.report.bad = Some(error);
                    break;
                }
            }
        }
        if let Some(last) = last {
            self.report.last = Some((last.position(), last.chain));
        }
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let header = line.kind == Kind::Header;
        if line.line == 1 && !header {
            return Err(Fault::NoHeader);
        }
        let before = if header { ChainHash::default() } else { self.chain.unwrap_or_default() };
        if self.lines.expected(before, line.object) != line.chain {
            return Err(Fault::Chain);
        }
        let ended = std::mem::replace(&mut self.report.ended, false);
        self.report.lines += 1;
        let checked = match (line.kind, line.seq) {
            (Kind::Header, _) => self.header(line, ended),
            (Kind::Checkpoint, _) => self.checkpoint(before, line),
            (Kind::Event, Some(seq)) => self.event(seq, line),
            (Kind::Event, None) => Err(Fault::NotChained),
        };
        self.report.lines -= u64::from(checked.is_err());
        checked?;
        if self.trust.anchor == Some(line.chain) {
            self.report.anchor = Some(line.position());
        }
        self.chain = Some(line.chain);
        Ok(())
    }

    fn header(&mut self, line: &Line<'_>, ended: bool) -> Result<(), Fault> {
        let mut header = line.header().map_err(|error| error.fault)?;
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
        let run = (header.header.boot_id.clone(), header.header.began_ns);
        if self.run.as_ref().is_some_and(|before| *before != run) && !ended {
            let (_, count) = self.report.joints.get_or_insert_with(|| (line.position(), 0));
            *count += 1;
        }
        self.run = Some(run);
        (header.header.policies, header.header.processes) = (Vec::new(), Vec::new());
        self.report.header.get_or_insert(header);
        Ok(())
    }

    fn checkpoint(&mut self, before: ChainHash, line: &Line<'_>) -> Result<(), Fault> {
        let checkpoint = line.checkpoint().map_err(|error| error.fault)?;
        if !checkpoint.holds(before, line.object) {
            return Err(Fault::Signature);
        }
        self.check_seq(checkpoint.next_seq)?;
        let trusted = self.trust.keys.contains(&checkpoint.key);
        if self.trust.only && !trusted {
            return Err(Fault::Key(checkpoint.key));
        }
        let so_far = self.report.signed.as_ref().map(|signed| signed.checkpoint.key);
        if trusted || so_far.is_none_or(|key| !self.trust.keys.contains(&key)) {
            self.report.ended = checkpoint.end;
            let (at, lines, chain) = (line.position(), self.report.lines, line.chain);
            self.report.signed = Some(Signed { at, lines, chain, checkpoint });
        }
        Ok(())
    }

    fn event(&mut self, seq: u64, line: &Line<'_>) -> Result<(), Fault> {
        self.check_seq(seq)?;
        let mut last = seq;
        if line.name == b"loss" {
            let event = line.event().map_err(|error| error.fault)?;
            if let Body::Loss(mut loss) = event.body {
                let (first, end) = loss.range.unwrap_or((seq, seq));
                if first != seq || end < first {
                    return Err(Fault::Seq { expected: seq, found: first.min(end) });
                }
                last = end;
                self.report.lost = self.report.lost.saturating_add(loss.count);
                if self.report.losses.len() < LOSSES_MAX {
                    for text in [&mut loss.ring, &mut loss.reason] {
                        *text = text.chars().take(LOSS_TEXT_MAX).collect();
                    }
                    self.report.losses.push((line.position(), loss));
                }
            }
        }
        self.next_seq = Some(last.saturating_add(1));
        let first = self.report.seqs.map_or(seq, |(first, _)| first);
        self.report.seqs = Some((first, last));
        self.report.events += 1;
        Ok(())
    }

    fn check_seq(&self, found: u64) -> Result<(), Fault> {
        match self.next_seq {
            Some(expected) if expected != found => Err(Fault::Seq { expected, found }),
            _ => Ok(()),
        }
    }
}
