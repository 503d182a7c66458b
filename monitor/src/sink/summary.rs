//! The summary at the end: what was read, written, executed and contacted, what alarmed, what was
//! lost, and where the recording is. Bounded: what exceeds the bounds is counted, not named.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
};

use monitor_common::record::{did, flags};

use super::{Audience, recording::Totals};
use crate::{
    enrich::{contact_text, subject},
    event::{Body, Event, Outcome, Shown, printable},
    rules::DEFAULT,
};

/// Names of one kind that are kept, and that are shown.
const NAMES_MAX: usize = 2048;
const SHOWN_MAX: usize = 8;
/// Files that are told apart.
const FILES_MAX: usize = 50_000;

/// Collects what the summary says.
#[derive(Default)]
pub struct Summary {
    events: u64,
    processes: u64,
    first_ns: Option<u64>,
    last_ns: u64,
    read: Files,
    written: Files,
    executed: Names,
    contacted: Names,
    /// Violations by category and what became of them.
    alarmed: Names,
    lost: Names,
}

/// Counts by name.
#[derive(Default)]
struct Names {
    counts: BTreeMap<Vec<u8>, u64>,
    others: u64,
}

/// Files by directory, each file once.
#[derive(Default)]
struct Files {
    seen: HashSet<u64>,
    directories: Names,
    full: bool,
}

impl Audience for Summary {
    fn event(&mut self, event: &Event) {
        self.events += 1;
        match &event.body {
            Body::Loss(loss) => self.lost.add(loss.reason.as_bytes(), loss.count),
            Body::Alert(alert) => {
                if let Some(violation) = &event.violation {
                    let what = violation.category.name();
                    let done = match violation.outcome(alert) {
                        Outcome { killed: true, .. } => "killed",
                        Outcome { denied: true, .. } => "denied",
                        Outcome { .. } => "reported",
                    };
                    // What a detector has counted is one alarm.
                    let count = if alert.finding.is_some() { 1 } else { alert.count };
                    self.alarmed.add(format!("{what} {done}").as_bytes(), count);
                }
            }
            _ => self.observed(event),
        }
    }
}

impl Summary {
    fn observed(&mut self, event: &Event) {
        let Some(observed) = &event.observed else { return };
        self.first_ns.get_or_insert(event.boot_ns);
        self.last_ns = self.last_ns.max(event.boot_ns);
        let denied = event.violation.as_ref().is_some_and(|it| it.is_refused());
        if denied {
            return;
        }
        const WRITES: u32 = did::WRITE | did::CREATE | did::TRUNCATE | did::APPEND | did::TEMPORARY;
        match &event.body {
            Body::Exit { .. } => self.processes += 1,
            // Devices and pipes are no files that could be read or written in this sense.
            Body::Open { file, .. } if !regular(file.mode) => {}
            Body::Open { access, file } => {
                if access & WRITES != 0 {
                    self.written.add(file.path.as_bytes());
                } else if access & did::READ != 0 && observed.flags & flags::DIRECTORY == 0 {
                    self.read.add(file.path.as_bytes());
                }
            }
            Body::Change { file, second, .. } => {
                self.written.add(file.path.as_bytes());
                if second.as_bytes().starts_with(b"/") {
                    self.written.add(second.as_bytes());
                }
            }
            Body::Exec(exec) => self.executed.add(exec.file.path.as_bytes(), 1),
            Body::Connect(contact) | Body::Send(contact) => {
                let text = contact_text(contact);
                let named = contact.name.as_ref().map(|name| format!("{text} ({name})"));
                self.contacted.add(named.unwrap_or(text).as_bytes(), 1);
            }
            Body::Unix { .. } => self.contacted.add(subject(&event.body).as_bytes(), 1),
            _ => {}
        }
    }

    /// Says it to people. `recording` is where the events are.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(
        &self,
        out: &mut impl Write,
        server: &str,
        recording: Option<&Totals>,
    ) -> io::Result<()> {
        let ran_ms =
            self.first_ns.map_or(0, |first| self.last_ns.saturating_sub(first)) / 1_000_000;
        writeln!(
            out,
            "mcp-monitor: summary of {}: {} events of {} ended processes in {}.{:03} s",
            printable(server),
            self.events,
            self.processes,
            ran_ms / 1000,
            ran_ms % 1000,
        )?;
        self.read.write(out, "read")?;
        self.written.write(out, "written")?;
        self.executed.write(out, "executed")?;
        self.contacted.write(out, "contacted")?;
        match self.alarmed.is_empty() {
            true => writeln!(out, "  alarmed    nothing")?,
            false => self.alarmed.write(out, "alarmed")?,
        }
        self.lost.write(out, "lost")?;
        if let Some(Totals { path, lost, reason, checkpoint, .. }) = recording {
            writeln!(out, "  recording  {}", Shown(path.as_os_str().as_encoded_bytes()))?;
            let path = Shown(path.as_os_str().as_encoded_bytes());
            // Without rules of its own a server has no name yet.
            let name = if server == DEFAULT { "NAME".into() } else { printable(server) };
            writeln!(out, "  learn      mcp-monitor learn --server {name} {path}")?;
            if *lost != 0 {
                let reason = reason.as_deref().unwrap_or("unknown reason");
                writeln!(out, "             {lost} events are not in it: {}", printable(reason))?;
            }
            if let Some(checkpoint) = checkpoint {
                writeln!(out, "  checkpoint {checkpoint}")?;
            }
        }
        Ok(())
    }
}

/// Whether a mode is of a file or directory; 0 is not known.
fn regular(mode: u32) -> bool {
    mode == 0 || matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

impl Names {
    fn add(&mut self, name: &[u8], count: u64) {
        if let Some(known) = self.counts.get_mut(name) {
            *known += count;
        } else if self.counts.len() < NAMES_MAX {
            self.counts.insert(name.to_vec(), count);
        } else {
            self.others += count;
        }
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The names with the highest counts.
    fn write(&self, out: &mut impl Write, label: &str) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut names: Vec<_> = self.counts.iter().collect();
        names.sort_by_key(|(name, count)| (u64::MAX - **count, name.as_slice()));
        let mut left: u64 = self.others;
        for (place, (name, count)) in names.into_iter().enumerate() {
            if place >= SHOWN_MAX {
                left += count;
                continue;
            }
            let label = if place == 0 { label } else { "" };
            let name = if name.is_empty() {
                "(beyond the bounds)".into()
            } else {
                Shown(name).to_string()
            };
            writeln!(out, "  {label:<10} {count:>6}  {name}")?;
        }
        if left != 0 {
            writeln!(out, "  {:<10} {left:>6}  elsewhere", "")?;
        }
        Ok(())
    }

    /// The same with deep directories counted into those above them, until few are left.
    fn folded(&self) -> Self {
        let mut counts = self.counts.clone();
        while counts.len() > SHOWN_MAX {
            let depth = |name: &[u8]| memchr::memchr_iter(b'/', name).count();
            let deepest = counts.keys().map(|name| depth(name)).max().unwrap_or(0);
            if deepest <= 1 {
                break;
            }
            let mut above: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for (name, count) in counts {
                let name = if depth(&name) == deepest { parent(&name).to_vec() } else { name };
                *above.entry(name).or_default() += count;
            }
            counts = above;
        }
        Self { counts, others: self.others }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    match memchr::memrchr(b'/', path) {
        Some(0) | None => b"/",
        Some(end) => &path[..end],
    }
}

impl Files {
    fn add(&mut self, path: &[u8]) {
        if self.seen.len() >= FILES_MAX {
            self.full = true;
            return;
        }
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        if self.seen.insert(hasher.finish()) {
            self.directories.add(parent(path), 1);
        }
    }

    fn write(&self, out: &mut impl Write, label: &str) -> io::Result<()> {
        self.directories.folded().write(out, label)?;
        if self.full {
            writeln!(out, "  {:<10} and more; only {FILES_MAX} files are told apart", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::record::enforced;

    use super::*;
    use crate::{event::tests::sample, segment::ChainHash};

    fn open(path: &str, access: u32, answered: u8) -> Event {
        let mut event = sample(path.as_bytes());
        if let Body::Open { access: given, .. } = &mut event.body {
            *given = access;
        }
        event.violation.as_mut().unwrap().answered = answered;
        event
    }

    fn said(summary: &Summary) -> String {
        let mut out = Vec::new();
        summary.write(&mut out, "github", None).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn files_are_counted_once_and_by_directory() {
        let mut summary = Summary::default();
        for path in ["/srv/a", "/srv/b", "/srv/a", "/etc/hosts"] {
            summary.event(&open(path, did::READ, enforced::NONE));
        }
        summary.event(&open("/tmp/out", did::READ | did::WRITE, enforced::NONE));
        summary.event(&open("/root/.ssh/id", did::READ, enforced::DENIED));
        assert_eq!(
            said(&summary),
            "mcp-monitor: summary of github: 6 events of 0 ended processes in 0.000 s\n\
             \x20 read            2  /srv\n\
             \x20                 1  /etc\n\
             \x20 written         1  /tmp\n\
             \x20 alarmed    nothing\n"
        );
    }

    #[test]
    fn devices_are_no_files() {
        let mut summary = Summary::default();
        let mut event = open("/dev/null", did::WRITE, enforced::NONE);
        if let Body::Open { file, .. } = &mut event.body {
            file.mode = libc::S_IFCHR | 0o666;
        }
        summary.event(&event);
        assert!(!said(&summary).contains("written"));
    }

    #[test]
    fn many_directories_are_folded_into_those_above() {
        let mut summary = Summary::default();
        for number in 0..3000 {
            let path = format!("/usr/lib/node/m{number}/index.js");
            summary.event(&open(&path, did::READ, enforced::NONE));
        }
        summary.event(&open("/home/u/p/a", did::READ, enforced::NONE));
        let said = said(&summary);
        assert!(said.contains("2048  /usr/lib/node\n"), "{said}");
        assert!(said.contains("953  elsewhere\n"), "{said}");
    }

    #[test]
    fn hostile_names_are_escaped() {
        let mut summary = Summary::default();
        summary.event(&open("/a\x1b[2J\n/b", did::READ, enforced::NONE));
        assert!(said(&summary).contains("1  /a\\x1b[2J\\x0a\n"));
    }

    #[test]
    fn the_recording_and_what_is_missing_in_it_are_named() {
        let totals = Totals {
            path: "/state/run.000001.jsonl".into(),
            events: 10,
            lost: 3,
            reason: Some("No space left on device".into()),
            checkpoint: Some(ChainHash([0xab; 32])),
        };
        let mut out = Vec::new();
        Summary::default().write(&mut out, "github", Some(&totals)).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.ends_with(
            "  recording  /state/run.000001.jsonl\n  learn      mcp-monitor learn --server github \
             /state/run.000001.jsonl\n             3 events are not in it: No space \
             left on device\n  checkpoint abababababababababababababababababababababababababababab\
             abababab\n"
        ));
    }
}
