//! Writing a recording. Lines are buffered; [`SegmentWriter::flush`] hands them to the kernel.
//! When writing fails, what is in the file ends with its last whole line, the lines that found no
//! room are counted, and a `loss` line takes their place in the chain as soon as writing works
//! again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;

use super::{
    Destination, RecordingOptions, SegmentError, Sync,
    gap::{self, Gap},
    keeper::{Job, Keeper},
    output::Output,
    resume::{self, Opened},
    store,
};
use crate::{
    enrich::{
        Table,
        clock::{self, Clock},
    },
    event::{Body, Event, PolicyText},
    segment::{Chain, ChainHash, Checkpoint, Header, LINE_MAX, Place, checkpoint::hex, split},
};

/// Bytes that are collected before they are written.
const BUFFER: usize = 256 << 10;

/// Writes a recording.
pub struct SegmentWriter {
    header: Header,
    /// For the headers of later segments.
    processes: Table,
    place: Place,
    options: RecordingOptions,
    /// Directory and stream, where there are segments.
    stream: Option<(PathBuf, String)>,
    /// Size of the segment at which the next is tried.
    rotate_at: u64,
    begun: Instant,
    output: Output,
    lines: Chain,
    chain: ChainHash,
    /// Chain of the last line that is in the file.
    written: ChainHash,
    buffer: Vec<u8>,
    next_seq: u64,
    gap: Option<Gap>,
    /// Wait after the next failure; grows while what can be written is not even a buffer.
    retry: Duration,
    key: Option<SigningKey>,
    /// When the last checkpoint was made, and the line that it is.
    signed: (Instant, ChainHash),
    keeper: Keeper,
    notices: Vec<Notice>,
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
    /// Chain of the last checkpoint.
    pub checkpoint: Option<ChainHash>,
}

/// What others than the recording should know of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Something that belongs into the stream.
    Agent {
        /// One word.
        action: &'static str,
        /// What, in words.
        message: String,
    },
    /// The line that stands for lost ones; it is in the recording.
    Lost(Box<Event>),
    /// A checkpoint; it is in the recording, as the line with this chain.
    Checkpoint(ChainHash, Checkpoint),
}

impl SegmentWriter {
    /// Opens the destination and writes the header. Without a key there are no checkpoints.
    ///
    /// # Errors
    /// When the file cannot be opened or written, is in use, or holds something else.
    pub fn open(
        destination: Destination,
        mut header: Header,
        options: RecordingOptions,
        key: Option<SigningKey>,
    ) -> Result<Self, SegmentError> {
        let Opened { output, path, tail, segment, stream, plain } = resume::open(destination)?;
        header.key = key.as_ref().map(|key| hex(key.verifying_key().as_bytes()));
        header.privacy = options.privacy;
        let (first_seq, previous) = (tail.next_seq, tail.chain);
        let mut writer = Self {
            header,
            processes: Table::default(),
            place: Place { segment, first_seq, created_ns: 0, previous },
            rotate_at: options.limits.segment_bytes,
            options,
            stream,
            begun: Instant::now(),
            output,
            lines: Chain::default(),
            chain: ChainHash::default(),
            written: ChainHash::default(),
            buffer: Vec::with_capacity(BUFFER + BUFFER / 4),
            next_seq: tail.next_seq,
            gap: None,
            retry: gap::RETRY_FIRST,
            key,
            signed: (Instant::now(), ChainHash::default()),
            keeper: Keeper::new(),
            notices: Vec::new(),
            totals: Totals { path: path.clone(), ..Totals::default() },
        };
        writer.begin().map_err(SegmentError::io("write", &path))?;
        for (output, path) in plain {
            writer.keeper.ask(Job::Close(output, path));
        }
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
        if self.stream.is_some() {
            self.processes.learn(event);
        }
        if self.gap.is_some() && !self.recover(event.seq) {
            return;
        }
        self.chain = self.lines.line(self.chain, &mut self.buffer, |out| event.write(out));
        if self.stream.is_some() && self.output.good + self.buffer.len() as u64 >= self.rotate_at {
            self.rotate();
        } else if self.buffer.len() >= BUFFER {
            self.hand_over();
        }
    }

    /// Hands what is buffered to the kernel, or tries whether writing works again. Makes a
    /// checkpoint and a new segment when it is time.
    pub fn flush(&mut self) {
        self.hand_over();
        let (signed, _) = self.signed;
        if signed.elapsed() >= self.options.checkpoint_every {
            self.checkpoint(false);
        }
        let old = self.begun.elapsed() >= self.options.limits.segment_age;
        if old && self.next_seq != self.place.first_seq {
            self.rotate();
        }
        self.keeper.begin();
    }

    /// Writes what is left, ends with a checkpoint and waits for the disk.
    pub fn finish(&mut self) -> Totals {
        self.hand_over();
        if self.gap.is_some() {
            self.say_loss(true);
        }
        self.checkpoint(true);
        if let Err(error) = self.output.sync() {
            self.totals.reason = Some(error.to_string());
        }
        self.keeper.finish();
        self.totals()
    }

    /// What became of the events so far.
    pub fn totals(&self) -> Totals {
        let mut totals = self.totals.clone();
        totals.lost += self.gap.as_ref().map_or(0, |gap| gap.count);
        totals
    }

    /// What others should know since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        self.notices.extend(self.keeper.notices());
        std::mem::take(&mut self.notices)
    }

    fn hand_over(&mut self) {
        if self.buffer.is_empty() {
            self.say_loss(false);
            return;
        }
        match self.output.append(&self.buffer) {
            Ok(()) => {
                self.written = self.chain;
                self.retry = gap::RETRY_FIRST;
                self.sync_if(Sync::Flush);
            }
            Err((kept, error)) => self.fail(kept, &error),
        }
        self.buffer.clear();
    }

    /// Writes the header of a new segment straight into the file.
    fn begin(&mut self) -> io::Result<()> {
        self.place.created_ns = now().1;
        let mut line = Vec::new();
        let (header, place) = (&self.header, &self.place);
        let chain =
            self.lines.line(ChainHash::default(), &mut line, |out| header.write(out, place));
        if line.len() > LINE_MAX {
            return Err(io::Error::other("the texts of all policies exceed the bound of a line"));
        }
        self.output.append(&line).map_err(|(_, error)| error)?;
        (self.chain, self.written) = (chain, chain);
        self.begun = Instant::now();
        Ok(())
    }

    /// Closes the segment with a checkpoint and begins the next. If that fails, the old one grows.
    fn rotate(&mut self) {
        self.hand_over();
        self.checkpoint(false);
        let Some((directory, stream)) = self.stream.as_ref().filter(|_| self.gap.is_none()) else {
            return;
        };
        let path = store::path(directory, stream, self.place.segment + 1);
        // Whatever comes of it, the next attempt is not for the next line.
        self.rotate_at = self.output.good + self.options.limits.segment_bytes;
        self.begun = Instant::now();
        let Ok(output) = Output::open(&path, false) else { return };
        let before = std::mem::replace(&mut self.output, output);
        self.header.processes = self.processes.known();
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
        let closed = std::mem::replace(&mut self.totals.path, path);
        self.rotate_at = self.options.limits.segment_bytes;
        self.keeper.ask(Job::Close(before, closed));
        self.prune();
    }

    fn prune(&mut self) {
        let Some((directory, stream)) = self.stream.clone() else { return };
        self.keeper.ask(Job::Prune { directory, stream, limits: self.options.limits });
    }

    /// Signs everything up to here, unless that has been done or lines cannot be written.
    fn checkpoint(&mut self, end: bool) {
        let Some(key) = self.key.as_ref().filter(|_| self.gap.is_none()) else { return };
        let (_, last) = self.signed;
        if last == self.written && !end {
            return;
        }
        let ((boot_ns, time_ns), before) = (now(), self.written);
        let mut checkpoint = Checkpoint::new(time_ns, boot_ns, self.next_seq, end);
        let mut line = Vec::new();
        let chain = self.lines.line(before, &mut line, |out| checkpoint.sign(key, before, out));
        self.signed.0 = Instant::now();
        // One that finds no room is missed by nobody: the events that find none are counted.
        if self.output.append(&line).is_ok() {
            (self.chain, self.written, self.signed.1) = (chain, chain, chain);
            self.totals.checkpoint = Some(chain);
            self.notices.push(Notice::Checkpoint(chain, checkpoint));
            if !end {
                self.sync_if(Sync::Checkpoint);
            }
        }
    }

    fn sync_if(&mut self, policy: Sync) {
        match self.output.regular() {
            Some(file) if policy == self.options.sync && policy == Sync::Checkpoint => {
                self.keeper.ask(Job::Sync(file, self.totals.path.clone()));
            }
            Some(file) if policy == self.options.sync => {
                if let Err(error) = file.sync_data() {
                    self.totals.reason = Some(error.to_string());
                }
            }
            _ => {}
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
        self.gap = Gap::of(lost, self.next_seq, error, self.retry);
        self.totals.reason = Some(error.to_string());
        if self.retry != gap::RETRY_FIRST {
            return;
        }
        let message = format!(
            "cannot write {}: {error}; events are judged as before, and not recorded until it can \
             be written",
            self.totals.path.display()
        );
        self.notices.push(Notice::Agent { action: "recording", message });
    }

    /// Whether writing works again. If not, the event is counted as lost.
    fn recover(&mut self, seq: u64) -> bool {
        if self.say_loss(false) {
            return true;
        }
        if let Some(gap) = &mut self.gap {
            gap.add(seq);
        }
        false
    }

    /// Tries to write the line that stands for the lost ones.
    fn say_loss(&mut self, now: bool) -> bool {
        let Some(gap) = &mut self.gap else { return true };
        if !now && !gap.is_due() {
            return false;
        }
        let (seq, body) = gap.loss();
        let loss = own(seq, body);
        let mut line = Vec::new();
        let chain = self.lines.line(self.written, &mut line, |out| loss.write(out));
        if let Err((_, error)) = self.output.append(&line) {
            gap.failed(&error);
            return false;
        }
        self.totals.lost += gap.count;
        self.retry = gap::longer(gap.retry);
        (self.chain, self.written) = (chain, chain);
        self.gap = None;
        self.notices.push(Notice::Lost(Box::new(loss)));
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
        self.hand_over();
    }
}

/// CLOCK_BOOTTIME and wall clock.
fn now() -> (u64, u64) {
    let boot_ns = clock::boot_ns();
    (boot_ns, Clock::measure().wall_ns(boot_ns))
}

fn own(seq: u64, body: Body) -> Event {
    let (boot_ns, time_ns) = now();
    Event::of_monitor(seq, boot_ns, time_ns, body)
}
