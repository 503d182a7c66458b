//! Reading and parsing on all processors, and handing on in order. One thread reads blocks and
//! deals them out to workers in turn; the lines of each come back in the same turn. At most a few
//! blocks are on their way at any time.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use super::ReplayError;
use crate::{
    event::{Event, ParseError, Parser, Shown},
    segment::{Block, Fault, HeaderLine, Kind, Line, ReadError, Reader, Recording},
};

/// Workers at most: what follows in order is as much as a few of them can feed.
const WORKERS_MAX: usize = 4;
/// Bytes of the longest line of an event that is no `policy`; the longest that we write has less.
const EVENT_MAX: usize = 2 << 20;
/// Bytes of the longest header and `policy` line.
const HEADER_MAX: usize = 8 << 20;

/// A line, parsed.
pub enum Parsed {
    /// Begins a segment.
    Header(Box<HeaderLine>),
    /// An event.
    Event(Box<Event>),
    /// Nothing to replay: a checkpoint, or an event of a type that a newer version has added.
    Other,
}

/// Where a line stands.
pub struct Place {
    file: Arc<Path>,
    line: u64,
    offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = Shown(self.file.as_os_str().as_encoded_bytes());
        write!(f, "{file}: line {} (byte {})", self.line, self.offset)
    }
}

type Lines = Vec<(Place, Parsed)>;
/// Lines of a block up to an error, its bytes, and the error.
type Work = (Lines, u64, Option<ReadError>);

/// Where lines come from.
pub struct Source {
    reader: Reader,
    workers: usize,
}

impl Source {
    /// The files of a recording.
    pub fn of(recording: &Recording) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { reader: Reader::open(recording), workers: cores.min(WORKERS_MAX) }
    }

    /// Any reader, without threads.
    pub fn plain(reader: Reader) -> Self {
        Self { reader, workers: 0 }
    }

    /// Calls `each` for the lines of every block in order, with the bytes of the block.
    ///
    /// # Errors
    /// The first error of reading, parsing, or `each`. Lines before it have been handed on.
    pub fn each(
        self,
        each: &mut dyn FnMut(Lines, u64) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError> {
        let Self { mut reader, workers } = self;
        if workers == 0 {
            while let Some(block) = reader.next_block()? {
                hand_on(parse(&block), each)?;
            }
            return Ok(());
        }
        thread::scope(|scope| {
            let (mut given, mut results) = (Vec::new(), Vec::new());
            for _ in 0..workers {
                let (to_worker, blocks) = sync_channel(0);
                let (done, result) = sync_channel(1);
                scope.spawn(move || work(&blocks, &done));
                given.push(to_worker);
                results.push(result);
            }
            scope.spawn(move || deal_out(&mut reader, &given));
            // A worker that has ended had nothing more to do, and so have those after it.
            for result in results.iter().cycle() {
                let Ok(work) = result.recv() else { return Ok(()) };
                hand_on(work, each)?;
            }
            Ok(())
        })
    }
}

fn hand_on(
    (lines, bytes, error): Work,
    each: &mut dyn FnMut(Lines, u64) -> Result<(), ReplayError>,
) -> Result<(), ReplayError> {
    each(lines, bytes)?;
    error.map_or(Ok(()), |error| Err(error.into()))
}

fn deal_out(reader: &mut Reader, workers: &[SyncSender<Result<Block, ReadError>>]) {
    for worker in workers.iter().cycle() {
        let block = reader.next_block().transpose();
        let Some(block) = block else { return };
        let last = block.is_err();
        // A worker that takes nothing more has met an error, or nobody wants its lines any more.
        if worker.send(block).is_err() || last {
            return;
        }
    }
}

fn work(blocks: &Receiver<Result<Block, ReadError>>, done: &SyncSender<Work>) {
    while let Ok(block) = blocks.recv() {
        let work = match block {
            Ok(block) => parse(&block),
            Err(error) => (Vec::new(), 0, Some(error)),
        };
        let failed = work.2.is_some();
        if done.send(work).is_err() || failed {
            return;
        }
    }
}

fn parse(block: &Block) -> Work {
    let bytes = block.len() as u64;
    let mut lines = Vec::with_capacity(block.len() / 512);
    let mut parser = Parser::default();
    for line in block.lines() {
        match line.and_then(|line| Ok((place(&line), parse_line(&line, &mut parser)?))) {
            Ok(parsed) => lines.push(parsed),
            Err(error) => return (lines, bytes, Some(error)),
        }
    }
    (lines, bytes, None)
}

fn place(line: &Line<'_>) -> Place {
    Place { file: line.file.clone(), line: line.line, offset: line.offset }
}

fn parse_line(line: &Line<'_>, parser: &mut Parser) -> Result<Parsed, ReadError> {
    let holds_rules = line.kind == Kind::Header || line.name == b"policy";
    if line.bytes.len() > if holds_rules { HEADER_MAX } else { EVENT_MAX } {
        return Err(line.error(Fault::TooLong));
    }
    match line.kind {
        Kind::Header => Ok(Parsed::Header(Box::new(line.header()?))),
        Kind::Checkpoint => Ok(Parsed::Other),
        Kind::Event => match line.event_by(parser) {
            Ok(event) => Ok(Parsed::Event(Box::new(event))),
            // Within a version of the format types may be added.
            Err(ReadError { fault: Fault::Event(ParseError::Type(_)), .. }) => Ok(Parsed::Other),
            Err(error) => Err(error),
        },
    }
}
