//! `exfiltration`: something secret read, then something sent from the same tree. Both ends are
//! shown.
//!
//! | read | counts when then |
//! | --- | --- |
//! | a member of `secrets` | anything is sent |
//! | unusual breadth: a finding of `mass_read` | anything is sent |
//! | a member of `sensitive` | something is sent to where no rule allows it: honest servers read `.env` and call their service |
//! | the environment, memory or arguments of another process | the same process sends: `ps` reads them all |
//!
//! What `allow_secret` names, and what a set with verdict `allow` holds, is no secret here.

use std::collections::VecDeque;

use monitor_common::{
    file::PROC_SUPER_MAGIC,
    policy::{class, detector, set},
    record::{did, process},
};

use super::{Found, Limits, Moment, Run, Seen, parameter};
use crate::{
    enrich::contact_text,
    event::{Body, Bytes, Contact, File, Process},
};

/// Reads that are remembered; of very many the latest, and secrets before the rest.
const READS_MAX: usize = 8;
/// Time without a further finding; reads are gathered meanwhile.
const SILENCE_NS: u64 = 60_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Sensitive,
    /// By the process of this thread group and start.
    Process(u32, u64),
}

struct Read {
    at: Moment,
    kind: Kind,
    what: Bytes,
}

/// See the module.
pub struct Exfiltration {
    window_ns: u64,
    reads: VecDeque<Read>,
    silent_until_ns: u64,
}

impl Exfiltration {
    /// Nothing has been read yet.
    pub fn new(limits: &Limits) -> Self {
        let window_ns = limits.window_ns(parameter::EXFILTRATION_WINDOW);
        Self { window_ns, reads: VecDeque::new(), silent_until_ns: 0 }
    }

    /// Takes a finding of unusual breadth.
    pub fn broad(&mut self, found: &Found) {
        let what = format!("{} files such as {}", found.run.count, found.subject.shown());
        self.remember(Read { at: found.run.last, kind: Kind::Secret, what: what.as_str().into() });
    }

    /// Takes an event.
    pub fn observe(&mut self, seen: &Seen<'_>) -> Option<Found> {
        let process = &seen.event.observed.as_ref()?.process;
        match &seen.event.body {
            Body::Open { access, file } if access & did::READ != 0 => {
                self.read(seen, file, process);
                None
            }
            Body::Process { op: process::DESCRIPTOR, access, file, .. }
                if access & did::READ != 0 =>
            {
                self.read(seen, file, process);
                None
            }
            Body::Connect(contact) | Body::Send(contact) if contact.socket_address().is_some() => {
                self.send(seen, contact, process)
            }
            _ => None,
        }
    }

    fn read(&mut self, seen: &Seen<'_>, file: &File, process: &Process) {
        // Without a verdict it is named in allow_secret, or nobody minds.
        if !seen.done || seen.event.violation.is_none() {
            return;
        }
        let is_in = |set: usize| file.sets & class::of_set(set) != 0;
        let of_process = file.fs_magic == PROC_SUPER_MAGIC;
        let kind = if is_in(set::SECRETS) {
            Kind::Secret
        } else if is_in(set::PROCESSES) || of_process && is_in(set::SENSITIVE) {
            Kind::Process(process.tgid, process.start_ns)
        } else if is_in(set::SENSITIVE) {
            Kind::Sensitive
        } else {
            return;
        };
        self.remember(Read { at: seen.at, kind, what: file.path.clone() });
    }

    fn remember(&mut self, read: Read) {
        let same = |known: &Read| known.kind == read.kind && known.what == read.what;
        self.reads.retain(|known| !same(known));
        if self.reads.len() == READS_MAX {
            let least = self.reads.iter().position(|known| known.kind != Kind::Secret);
            if least.is_none() && read.kind != Kind::Secret {
                return;
            }
            self.reads.remove(least.unwrap_or(0));
        }
        self.reads.push_back(read);
    }

    fn send(&mut self, seen: &Seen<'_>, contact: &Contact, process: &Process) -> Option<Found> {
        let (now_ns, window_ns) = (seen.at.boot_ns, self.window_ns);
        self.reads.retain(|read| read.at.boot_ns.saturating_add(window_ns) > now_ns);
        if now_ns < self.silent_until_ns {
            return None;
        }
        let is_forbidden = seen.event.violation.is_some();
        let counts = |read: &Read| match read.kind {
            Kind::Secret => true,
            Kind::Sensitive => is_forbidden,
            Kind::Process(tgid, start_ns) => (tgid, start_ns) == (process.tgid, process.start_ns),
        };
        if !self.reads.iter().any(counts) {
            return None;
        }
        let (reads, others) = self.reads.drain(..).partition(counts);
        self.reads = others;
        self.silent_until_ns = now_ns.saturating_add(SILENCE_NS);
        Some(found(seen.at, reads, contact, window_ns))
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.reads.iter().map(|read| read.what.as_bytes().len() + size_of::<Read>()).sum()
    }
}

fn found(at: Moment, reads: VecDeque<Read>, contact: &Contact, window_ns: u64) -> Found {
    let latest = reads.back().map(|read| (read.what.shown().to_string(), read.at));
    let (what, read_at) = latest.unwrap_or_default();
    let others = match reads.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let later_ms = at.boot_ns.saturating_sub(read_at.boot_ns) / 1_000_000;
    Found {
        detector: detector::EXFILTRATION,
        table: "exfiltration",
        limit: 1,
        window_ns,
        deed: format!(
            "contacts {}, {}.{:03} s after the server has read {what}{others}",
            contact_text(contact),
            later_ms / 1000,
            later_ms % 1000,
        ),
        subject: contact_text(contact).as_str().into(),
        evidence: reads.iter().map(|read| read.at.seq).chain([at.seq]).collect(),
        answered: None,
        run: Run {
            count: reads.len() as u64,
            weight: reads.len() as u64,
            first: reads.front().map(|read| read.at).unwrap_or_default(),
            last: at,
            samples: reads.into_iter().map(|read| read.what).collect(),
        },
    }
}
