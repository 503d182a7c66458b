//! Writing a recording. Lines are buffered; [`SegmentWriter::flush`] hands them to the kernel,
//! and only the end of a segment waits for the disk. When writing fails, what is in the file ends
//! with its last whole line, the lines that found no room are counted, and a `loss` line takes
//! their place in the chain as soon as writing works again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Destination, Limits, SegmentError,
    output::Output,
    store,
    tail::{self, Tail},
};
use crate::{
    enrich::clock::{self, Clock},
    event::{Body, Event, Loss, PolicyText},
    segment::{Chain, ChainHash, Header, Place, kind_and_seq, split},
};

/// Bytes that are collected before they are written.
const BUFFER: usize = 256 << 10;
/// Time between attempts to write after a failure: the first, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Writes a recording.
pub struct SegmentWriter {
    header: Header,
    place: Place,
    rotation: Option<Rotation>,
    output: Output,
    lines: Chain,
    chain: ChainHash,
    /// Chain of the last line that is in the file.
    written: ChainHash,
    buffer: Vec<u8>,
    next_seq: u64,
    failure: Option<Failure>,
    retry: Duration,
    totals: Totals,
}

/// What became of the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The file that is, or was last, written.
    pub path: PathBuf,
    /// Events given.
    pub events: u64,
    /// Of these, lost on the way to the file.
    pub lost: u64,
    /// Why they were lost, the latest reason.
    pub reason: Option<String>,
}

struct Rotation {
    directory: PathBuf,
    stream: String,
    limits: Limits,
    /// Size of the segment at which the next is tried.
    at: u64,
}

/// Lines that found no room.
struct Failure {
    first_seq: u64,
    last_seq: u64,
    count: u64,
    reason: String,
    retry_at: Instant,
}

impl SegmentWriter {
    /// Opens the destination and writes the header.
    ///
    /// # Errors
    /// When the file cannot be opened or written, is in use, or holds something else.
    pub fn open(destination: Destination, header: Header) -> Result<Self, SegmentError> {
        let Opened { output, path, tail, segment, rotation } = match destination {
            Destination::File(path) => open_file(path)?,
            Destination::Directory { directory, stream, limits } => {
                open_directory(directory, stream, limits)?
            }
        };
        let (first_seq, previous) = (tail.next_seq, tail.chain);
        let place = Place { segment, first_seq, created_ns: 0, previous };
        let mut writer = Self {
            header,
            place,
            rotation,
            output,
            lines: Chain::default(),
            chain: ChainHash::default(),
            written: ChainHash::default(),
            buffer: Vec::with_capacity(BUFFER + BUFFER / 4),
            next_seq: tail.next_seq,
            failure: None,
            retry: RETRY_FIRST,
            totals: Totals { path: path.clone(), ..Totals::default() },
        };
        writer.begin().map_err(SegmentError::io("write", &path))?;
        writer.prune();
        if tail.broken != 0 {
            writer.repaired(tail.broken);
        }
        Ok(writer)
    }

    /// `seq` that the next event must have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The file that is being written.
    pub fn path(&self) -> &Path {
        &self.totals.path
    }

    /// The policies that later headers name. Their coming into force is an event of its own.
    pub fn set_policies(&mut self, policies: Vec<PolicyText>) {
        self.header.policies = policies;
    }

    /// Takes an event. What cannot be written is counted, see [`SegmentWriter::totals`].
    pub fn write(&mut self, event: &Event) {
        self.totals.events += 1;
        self.next_seq = event.seq.saturating_add(1);
        if self.failure.is_some() && !self.recover(event, false) {
            return;
        }
        self.chain = self.lines.line(self.chain, &mut self.buffer, |out| event.write(out));
        let size = self.output.good + self.buffer.len() as u64;
        if self.rotation.as_ref().is_some_and(|rotation| size >= rotation.at) {
            self.flush();
            self.rotate();
        } else if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Hands what is buffered to the kernel, or tries whether writing works again.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            self.say_loss(false);
            return;
        }
        match self.output.append(&self.buffer) {
            Ok(()) => {
                self.written = self.chain;
                self.retry = RETRY_FIRST;
            }
            Err((kept, error)) => self.fail(kept, &error),
        }
        self.buffer.clear();
    }

    /// Writes what is left and waits for the disk.
    pub fn finish(&mut self) -> Totals {
        self.flush();
        if self.failure.is_some() {
            self.say_loss(true);
        }
        if let Err(error) = self.output.sync() {
            self.totals.reason = Some(error.to_string());
        }
        self.totals()
    }

    /// What became of the events so far.
    pub fn totals(&self) -> Totals {
        let mut totals = self.totals.clone();
        totals.lost += self.failure.as_ref().map_or(0, |failure| failure.count);
        totals
    }

    /// Writes the header of a new segment straight into the file.
    fn begin(&mut self) -> io::Result<()> {
        self.place.created_ns = now().1;
        let mut line = Vec::new();
        let (header, place) = (&self.header, &self.place);
        let chain =
            self.lines.line(ChainHash::default(), &mut line, |out| header.write(out, place));
        self.output.append(&line).map_err(|(_, error)| error)?;
        (self.chain, self.written) = (chain, chain);
        Ok(())
    }

    fn rotate(&mut self) {
        let Some(rotation) = self.rotation.as_mut().filter(|_| self.failure.is_none()) else {
            return;
        };
        let path = store::path(&rotation.directory, &rotation.stream, self.place.segment + 1);
        // Whatever comes of it, the next attempt is not for the next line.
        rotation.at = self.output.good + rotation.limits.segment_bytes;
        let Ok(output) = Output::open(&path, false) else { return };
        let before = std::mem::replace(&mut self.output, output);
        let place = Place {
            segment: self.place.segment + 1,
            first_seq: self.next_seq,
            created_ns: 0,
            previous: Some(self.written),
        };
        let place = std::mem::replace(&mut self.place, place);
        if self.begin().is_err() {
            self.output = before;
            self.place = place;
            // Best effort: an empty segment is left behind otherwise, and the next attempt meets it.
            let _ = fs::remove_file(&path);
            return;
        }
        if let Err(error) = before.sync() {
            self.totals.reason = Some(error.to_string());
        }
        self.totals.path = path;
        if let Some(rotation) = &mut self.rotation {
            rotation.at = rotation.limits.segment_bytes;
        }
        self.prune();
    }

    fn prune(&self) {
        let Some(rotation) = &self.rotation else { return };
        if let Err(error) = store::prune(&rotation.directory, &rotation.limits) {
            log::warn!("cannot delete old recordings in {}: {error}", rotation.directory.display());
        }
    }

    /// Of the buffer the first `kept` bytes are in the file and end with a line.
    fn fail(&mut self, kept: usize, error: &io::Error) {
        let (kept, lost) = self.buffer.split_at(kept);
        let last = kept
            .strip_suffix(b"\n")
            .and_then(|kept| split(&kept[memchr::memrchr(b'\n', kept).map_or(0, |end| end + 1)..]));
        self.written = last.map_or(self.written, |(_, chain)| chain);
        self.chain = self.written;
        let count = memchr::memchr_iter(b'\n', lost).count() as u64;
        self.failure = (count != 0).then(|| Failure {
            first_seq: kind_and_seq(lost)
                .and_then(|(_, seq)| seq)
                .unwrap_or(self.next_seq.saturating_sub(count)),
            last_seq: self.next_seq.saturating_sub(1),
            count,
            reason: error.to_string(),
            retry_at: Instant::now() + self.retry,
        });
        self.totals.reason = Some(error.to_string());
    }

    /// Whether writing works again. If not, the event is counted as lost.
    fn recover(&mut self, event: &Event, now: bool) -> bool {
        if self.say_loss(now) {
            return true;
        }
        if let Some(failure) = &mut self.failure {
            failure.count += 1;
            failure.last_seq = event.seq;
        }
        false
    }

    /// Tries to write the line that stands for the lost ones.
    fn say_loss(&mut self, now: bool) -> bool {
        let Some(failure) = &mut self.failure else { return true };
        if !now && Instant::now() < failure.retry_at {
            return false;
        }
        let loss = own(
            failure.first_seq,
            Body::Loss(Loss {
                ring: "file".to_owned(),
                reason: failure.reason.clone(),
                count: failure.count,
                range: Some((failure.first_seq, failure.last_seq)),
            }),
        );
        let mut line = Vec::new();
        let chain = self.lines.line(self.written, &mut line, |out| loss.write(out));
        if let Err((_, error)) = self.output.append(&line) {
            self.retry = (self.retry * 2).min(RETRY_LONGEST);
            failure.retry_at = Instant::now() + self.retry;
            failure.reason = error.to_string();
            return false;
        }
        self.totals.lost += failure.count;
        (self.chain, self.written) = (chain, chain);
        self.failure = None;
        true
    }

    fn repaired(&mut self, broken: u64) {
        let message = format!(
            "the recording ended with {broken} bytes that are no line, left by a crash; they \
             were cut off"
        );
        let body = Body::Agent { action: "repaired".to_owned(), message };
        let event = own(self.next_seq, body);
        self.write(&event);
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A destination that is ready for its header.
struct Opened {
    output: Output,
    path: PathBuf,
    /// What the recording was before.
    tail: Tail,
    segment: u64,
    rotation: Option<Rotation>,
}

fn open_file(path: PathBuf) -> Result<Opened, SegmentError> {
    let mut output = Output::open(&path, true)?;
    let tail = existing(&path)?;
    if tail.broken != 0 {
        output.cut(tail.good).map_err(SegmentError::io("repair", &path))?;
    }
    Ok(Opened { output, path, tail, segment: 1, rotation: None })
}

/// Goes on behind the last segment of the stream that holds a line.
fn open_directory(
    directory: PathBuf,
    stream: String,
    limits: Limits,
) -> Result<Opened, SegmentError> {
    store::check_stream(&stream)?;
    store::make(&directory)?;
    let segments = store::segments(&directory, &stream)?;
    let segment = segments.last().map_or(1, |(number, _)| number + 1);
    let mut tail = Tail::default();
    for (_, path) in segments.iter().rev() {
        let broken = tail.broken;
        let mut output = Output::open(path, true)?;
        tail = existing(path)?;
        if tail.broken != 0 {
            output.cut(tail.good).map_err(SegmentError::io("repair", path))?;
        }
        tail.broken += broken;
        if tail.chain.is_some() {
            break;
        }
    }
    let path = store::path(&directory, &stream, segment);
    let output = Output::open(&path, false)?;
    let at = limits.segment_bytes;
    let rotation = Some(Rotation { directory, stream, limits, at });
    Ok(Opened { output, path, tail, segment, rotation })
}

/// The end of a recording that may be there already.
fn existing(path: &Path) -> Result<Tail, SegmentError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() != 0 => tail::examine(path),
        _ => Ok(Tail::default()),
    }
}

/// CLOCK_BOOTTIME and wall clock.
fn now() -> (u64, u64) {
    let boot_ns = clock::boot_ns();
    (boot_ns, Clock::measure().wall_ns(boot_ns))
}

fn own(seq: u64, body: Body) -> Event {
    let (boot_ns, time_ns) = now();
    Event {
        seq,
        time_ns,
        boot_ns,
        server: Arc::default(),
        instance: 0,
        observed: None,
        violation: None,
        body,
    }
}
