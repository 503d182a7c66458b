//! Where a recording that is there already goes on. A crash can leave half a line, or a file that
//! was made longer and not filled; what stands behind the last whole line is cut off.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{Destination, SegmentError, output::Output, store};
use crate::{
    event::{Body, Event, VERSION},
    segment::{
        ChainHash, Checkpoint, HeaderLine, LINE_MAX, Reader, Recording, kind_and_seq, split,
    },
};

const HEAD: &[u8] = b"{\"v\":1,\"type\":\"header\",";
const WINDOW: u64 = 64 << 10;

/// A destination that is ready for its header.
pub(super) struct Opened {
    pub output: Output,
    pub path: PathBuf,
    /// What the recording was before.
    pub tail: Tail,
    pub segment: u64,
    /// Directory and stream, where there are segments.
    pub stream: Option<(PathBuf, String)>,
    /// Segments of the stream that are closed and not yet compressed.
    pub plain: Vec<(Output, PathBuf)>,
}

/// Opens a destination, and repairs what is there.
pub(super) fn open(destination: Destination) -> Result<Opened, SegmentError> {
    match destination {
        Destination::File(path) => open_file(path),
        Destination::Directory { directory, stream } => open_directory(directory, stream),
    }
}

fn open_file(path: PathBuf) -> Result<Opened, SegmentError> {
    let mut output = Output::open(&path, true)?;
    let tail = repair(&path, &mut output)?;
    Ok(Opened { output, path, tail, segment: 1, stream: None, plain: Vec::new() })
}

/// Goes on behind the last segment of the stream that holds a line.
fn open_directory(directory: PathBuf, stream: String) -> Result<Opened, SegmentError> {
    store::check_stream(&stream)?;
    store::make(&directory)?;
    let segments = store::segments(&directory, &stream)?;
    let segment = segments.last().map_or(1, |(name, _)| name.segment + 1);
    let mut tail = Tail::default();
    let mut plain = Vec::new();
    for (name, path) in segments.into_iter().rev() {
        if name.compressed {
            if tail.chain.is_none() {
                tail = Tail { broken: tail.broken, ..examine_compressed(&path)? };
            }
            continue;
        }
        let mut output = Output::open(&path, true)?;
        if tail.chain.is_none() {
            let broken = tail.broken;
            tail = repair(&path, &mut output)?;
            tail.broken += broken;
        }
        plain.push((output, path));
    }
    let path = store::path(&directory, &stream, segment);
    let output = Output::open(&path, false)?;
    Ok(Opened { output, path, tail, segment, stream: Some((directory, stream)), plain })
}

/// The end of a recording that may be there already, without what is no line.
fn repair(path: &Path, output: &mut Output) -> Result<Tail, SegmentError> {
    let tail = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() != 0 => examine(path)?,
        _ => Tail::default(),
    };
    if tail.broken != 0 {
        output.cut(tail.good).map_err(SegmentError::io("repair", path))?;
    }
    Ok(tail)
}

/// The last line of a compressed segment, which was whole when it was made.
fn examine_compressed(path: &Path) -> Result<Tail, SegmentError> {
    let mut reader = Reader::open(&Recording::file(path));
    let mut last = None;
    while let Ok(Some(block)) = reader.next_block() {
        last = Some(block);
    }
    let foreign = || SegmentError::Foreign(path.to_owned());
    let block = last.ok_or_else(foreign)?;
    let line = block.lines().last().and_then(Result::ok).ok_or_else(foreign)?;
    let next_seq = next_seq(line.bytes).ok_or_else(foreign)?;
    Ok(Tail { chain: Some(line.chain), next_seq, good: 0, broken: 0 })
}

/// Where a recording goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Chain of the last line; `None` of an empty file.
    pub chain: Option<ChainHash>,
    /// `seq` of the next event.
    pub next_seq: u64,
    /// Bytes up to the end of the last line.
    pub good: u64,
    /// Bytes behind it, which are no line.
    pub broken: u64,
}

/// Finds the last whole line of the file at `path`.
fn examine(path: &Path) -> Result<Tail, SegmentError> {
    let failed = |source| SegmentError::io("read", path)(source);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut head = [0; HEAD.len()];
    let read = file.read_at(&mut head, 0).map_err(failed)?;
    let head = &head[..read];
    if let Some(found) = other_version(head) {
        return Err(SegmentError::Version { path: path.to_owned(), found });
    }
    // A crash before the header was written whole leaves a part of it or zeros.
    let begun = HEAD.starts_with(head) || head.iter().all(|&byte| byte == 0);
    if !begun {
        return Err(SegmentError::Foreign(path.to_owned()));
    }
    match last_line(&file, length).map_err(failed)? {
        Some((end, line)) => {
            let (_, chain) = split(&line).unwrap_or_default();
            let next_seq = next_seq(&line).ok_or_else(|| SegmentError::Foreign(path.to_owned()))?;
            Ok(Tail { chain: Some(chain), next_seq, good: end, broken: length - end })
        }
        None if length <= LINE_MAX as u64 => Ok(Tail { broken: length, ..Tail::default() }),
        None => Err(SegmentError::Foreign(path.to_owned())),
    }
}

fn other_version(head: &[u8]) -> Option<u32> {
    let rest = head.strip_prefix(b"{\"v\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let found = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    (found != VERSION && rest.get(digits) == Some(&b',')).then_some(found)
}

/// The last line that ends with a newline and a chain, and where it ends. Looks at the end of the
/// file first, then at more of it.
fn last_line(file: &File, length: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut window = WINDOW;
    loop {
        let start = length.saturating_sub(window);
        let mut bytes = vec![0; (length - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        let mut ends: Vec<usize> = memchr::memrchr_iter(b'\n', &bytes).collect();
        if start == 0 {
            // The first line begins where the file does.
            ends.push(usize::MAX);
        }
        for pair in ends.windows(2) {
            let line = &bytes[pair[1].wrapping_add(1)..pair[0]];
            if split(line).is_some() {
                return Ok(Some((start + pair[0] as u64 + 1, line.to_vec())));
            }
        }
        if start == 0 || window >= 4 * LINE_MAX as u64 {
            return Ok(None);
        }
        window *= 8;
    }
}

fn next_seq(line: &[u8]) -> Option<u64> {
    match kind_and_seq(line)? {
        (b"header", None) => {
            return Some(HeaderLine::parse(line).ok()?.first_seq);
        }
        (b"checkpoint", None) => {
            let (object, _) = split(line)?;
            return Some(Checkpoint::parse(object).ok()?.next_seq);
        }
        _ => {}
    }
    let event = Event::parse(line).ok()?;
    let last = match event.body {
        Body::Loss(loss) => loss.range.map_or(event.seq, |(_, last)| last),
        _ => event.seq,
    };
    last.checked_add(1)
}
