//! Checking a recording: that every line follows on the one before, that nothing is missing but
//! what `loss` lines say, that checkpoints hold, and where the first fault is.

use super::{
    Block, ChainHash, Checkpoint, Fault, Kind, Line, ReadError, Reader, Recording, line::Chain,
};
use crate::event::{Body, Loss};

/// What was found in a recording.
#[derive(Debug, Default)]
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
    /// The last checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The first fault.
    pub bad: Option<ReadError>,
}

/// Checks one recording. Faults, also of the machine, are in the report.
pub fn verify(recording: &Recording) -> Report {
    check(Reader::open(recording))
}

/// The same of what a reader gives.
pub fn check(mut reader: Reader) -> Report {
    let mut verifier = Verifier::default();
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
    chain: Option<ChainHash>,
    next_seq: Option<u64>,
    lines: Chain,
}

impl Verifier {
    /// Checks the next block, up to the first fault.
    pub fn block(&mut self, block: &Block) {
        for line in block.lines() {
            let checked = line.and_then(|line| self.line(&line).map_err(|fault| line.error(fault)));
            if let Err(error) = checked {
                self.report.bad = Some(error);
                return;
            }
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
        match (line.kind, line.seq) {
            (Kind::Header, _) => self.header(line)?,
            (Kind::Checkpoint, _) => self.checkpoint(before, line)?,
            (Kind::Event, Some(seq)) => self.event(seq, line)?,
            (Kind::Event, None) => return Err(Fault::NotChained),
        }
        self.chain = Some(line.chain);
        self.report.last = Some(line.chain);
        self.report.lines += 1;
        Ok(())
    }

    fn header(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let header = line.header().map_err(|error| error.fault)?;
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

    fn checkpoint(&mut self, before: ChainHash, line: &Line<'_>) -> Result<(), Fault> {
        let checkpoint = line.checkpoint().map_err(|error| error.fault)?;
        if !checkpoint.holds(before, line.object) {
            return Err(Fault::Signature);
        }
        self.check_seq(checkpoint.next_seq)?;
        self.report.checkpoint = Some(checkpoint);
        Ok(())
    }

    fn event(&mut self, seq: u64, line: &Line<'_>) -> Result<(), Fault> {
        self.check_seq(seq)?;
        let mut last = seq;
        if line.name == b"loss" {
            let event = line.event().map_err(|error| error.fault)?;
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
