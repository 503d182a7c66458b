//! Lines of a recording, from files that may be large, compressed, damaged or hostile. What is
//! held in memory is a block of whole lines: some MB, or one line of at most [`LINE_MAX`] bytes.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use super::{
    ChainHash, Checkpoint, Fault, HeaderLine, Kind, LINE_MAX, Position, ReadError, Recording,
    bundle,
    line::{kind_and_seq, split},
};
use crate::event::{Event, Parser, VERSION};

/// Bytes of a block, unless a line is longer.
const BLOCK: usize = 1 << 20;
/// Largest window that a compressed segment may ask for, as a power of two; ours ask for 2 MB.
pub(super) const WINDOW_LOG_MAX: u32 = 25;
/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads a recording's files one after the other, in blocks.
pub struct Reader {
    files: vec::IntoIter<PathBuf>,
    source: Option<Source>,
}

impl Reader {
    /// Nothing is opened yet.
    pub fn open(recording: &Recording) -> Self {
        Self { files: recording.files.clone().into_iter(), source: None }
    }

    /// Reads one stream of bytes that is no file; `name` is for messages.
    ///
    /// # Errors
    /// When its first bytes cannot be read.
    pub fn of(name: &str, input: impl Read + Send + 'static) -> Result<Self, ReadError> {
        let name = Path::new(name);
        let source = Source::of(name, input).map_err(|error| ReadError::io(name, error))?;
        Ok(Self { files: Vec::new().into_iter(), source: Some(source) })
    }

    /// The next lines; `None` at the end. A block never reaches over the end of a file. After an
    /// error nothing more is read.
    ///
    /// # Errors
    /// When a file cannot be read or decompressed, a line has no end or is too long. Lines before
    /// that have been given.
    pub fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        loop {
            if let Some(source) = &mut self.source {
                match source.next_block() {
                    Ok(Some(block)) => return Ok(Some(block)),
                    Ok(None) => self.source = None,
                    Err(error) => {
                        (self.source, self.files) = (None, Vec::new().into_iter());
                        return Err(error);
                    }
                }
            }
            let Some(path) = self.files.next() else { return Ok(None) };
            let source = match bundle::open(&path) {
                Some(entry) => entry.and_then(|entry| Source::of(&path, entry)),
                None => File::open(&path).and_then(|file| Source::of(&path, file)),
            };
            self.source = Some(source.map_err(|error| ReadError::io(&path, error))?);
        }
    }
}

/// Whole lines of one file.
#[derive(Clone, Debug)]
pub struct Block {
    file: Arc<Path>,
    bytes: Vec<u8>,
    line: u64,
    offset: u64,
}

impl Block {
    /// Whether a file begins with this block.
    pub fn begins_file(&self) -> bool {
        self.line == 1
    }

    /// Bytes of its lines, with newlines.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none, which does not happen.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its lines. One that is none of ours is an error, and those after it can still be read.
    pub fn lines(&self) -> impl Iterator<Item = Result<Line<'_>, ReadError>> {
        let mut start = 0;
        memchr::memchr_iter(b'\n', &self.bytes).enumerate().map(move |(number, end)| {
            let (line, offset) = (self.line + number as u64, self.offset + start as u64);
            let bytes = &self.bytes[start..end];
            start = end + 1;
            Line::of(&self.file, line, offset, bytes)
        })
    }

    /// The chain of its last line, as that line states it.
    pub fn last_chain(&self) -> Option<ChainHash> {
        let lines = self.bytes.strip_suffix(b"\n")?;
        let start = memchr::memrchr(b'\n', lines).map_or(0, |newline| newline + 1);
        split(&lines[start..]).map(|(_, chain)| chain)
    }
}

/// One line. Its form is that of a line of ours; that its chain fits is for
/// [`super::Verifier`] to say.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its type, as in the line.
    pub name: &'a [u8],
    /// Its number in the stream; headers and checkpoints have none.
    pub seq: Option<u64>,
    /// The chain that it states.
    pub chain: ChainHash,
    /// The line without its newline.
    pub bytes: &'a [u8],
    /// The file that it stands in.
    pub file: &'a Arc<Path>,
    /// Its place there, from 1.
    pub line: u64,
    /// Offset of its first byte.
    pub offset: u64,
    pub(super) object: &'a [u8],
}

impl<'a> Line<'a> {
    fn of(file: &'a Arc<Path>, line: u64, offset: u64, bytes: &'a [u8]) -> Result<Self, ReadError> {
        let error = |fault| ReadError { file: file.clone(), line, offset, fault };
        if bytes.len() > LINE_MAX {
            return Err(error(Fault::TooLong));
        }
        let (object, chain) = split(bytes).ok_or_else(|| error(Fault::NotChained))?;
        let (name, seq) = kind_and_seq(bytes).ok_or_else(|| error(version(bytes)))?;
        let kind = match (name, seq) {
            (b"header", None) => Kind::Header,
            (b"checkpoint", None) => Kind::Checkpoint,
            (_, Some(_)) => Kind::Event,
            (_, None) => return Err(error(Fault::NotChained)),
        };
        Ok(Self { kind, name, seq, chain, bytes, file, line, offset, object })
    }

    /// The event.
    ///
    /// # Errors
    /// When the line is none.
    pub fn event(&self) -> Result<Event, ReadError> {
        Event::parse(self.bytes).map_err(|error| self.error(Fault::Event(error)))
    }

    /// [`Line::event`] of one of many lines.
    ///
    /// # Errors
    /// When the line is none.
    pub fn event_by(&self, parser: &mut Parser) -> Result<Event, ReadError> {
        parser.event(self.bytes).map_err(|error| self.error(Fault::Event(error)))
    }

    /// The header.
    ///
    /// # Errors
    /// When the line is none.
    pub fn header(&self) -> Result<HeaderLine, ReadError> {
        HeaderLine::parse(self.bytes).map_err(|error| self.error(Fault::Header(error.to_string())))
    }

    /// The checkpoint.
    ///
    /// # Errors
    /// When the line is none.
    pub fn checkpoint(&self) -> Result<Checkpoint, ReadError> {
        Checkpoint::parse(self.object).map_err(|why| self.error(Fault::Checkpoint(why)))
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { file: self.file.clone(), line: self.line, offset: self.offset }
    }

    /// Something wrong with this line.
    pub fn error(&self, fault: Fault) -> ReadError {
        ReadError { file: self.file.clone(), line: self.line, offset: self.offset, fault }
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

/// One file.
struct Source {
    file: Arc<Path>,
    input: Box<dyn Read + Send>,
    /// What was read behind the last whole line.
    rest: Vec<u8>,
    /// Why nothing more can be read.
    end: Option<End>,
    line: u64,
    offset: u64,
}

enum End {
    File,
    Fault(Fault),
}

impl Source {
    /// Plain or compressed, as its first bytes say.
    fn of(path: &Path, mut input: impl Read + Send + 'static) -> io::Result<Self> {
        let mut magic = Vec::new();
        (&mut input).take(ZSTD.len() as u64).read_to_end(&mut magic)?;
        let compressed = magic == ZSTD;
        let input = io::Cursor::new(magic).chain(input);
        let input: Box<dyn Read + Send> = if compressed {
            let mut decoder = zstd::Decoder::new(input)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(decoder)
        } else {
            Box::new(input)
        };
        Ok(Self { file: path.into(), input, rest: Vec::new(), end: None, line: 1, offset: 0 })
    }

    fn error(&self, fault: Fault) -> ReadError {
        ReadError { file: self.file.clone(), line: self.line, offset: self.offset, fault }
    }

    /// Reads until there is a whole line, or no more.
    fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        let mut bytes = std::mem::take(&mut self.rest);
        let mut end = None;
        while end.is_none() && self.end.is_none() {
            let had = bytes.len();
            let wanted = BLOCK.max(had);
            match self.input.by_ref().take(wanted as u64).read_to_end(&mut bytes) {
                Ok(count) if count < wanted => self.end = Some(End::File),
                Ok(_) => {}
                Err(error) => self.end = Some(End::Fault(fault(error))),
            }
            end = memchr::memrchr(b'\n', &bytes[had..]).map(|at| had + at);
            if end.is_none() && bytes.len() > LINE_MAX {
                self.end = Some(End::Fault(Fault::TooLong));
            }
        }
        let Some(end) = end else {
            return match self.end.take() {
                Some(End::Fault(fault)) => Err(self.error(fault)),
                _ if bytes.is_empty() => Ok(None),
                _ => Err(self.error(Fault::Cut)),
            };
        };
        self.rest = bytes.split_off(end + 1);
        let (line, offset) = (self.line, self.offset);
        self.line += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        self.offset += bytes.len() as u64;
        Ok(Some(Block { file: self.file.clone(), bytes, line, offset }))
    }
}

/// What the decompressor says has no number of the operating system's.
fn fault(error: io::Error) -> Fault {
    match error.raw_os_error() {
        Some(_) => Fault::Io(error),
        None => Fault::Compressed(error.to_string()),
    }
}
