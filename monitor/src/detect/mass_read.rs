//! `mass_read`: many different files read, outside the runtime's own trees. Fast: within seconds.
//! Where the verdict is `deny` or more the kernel programs count themselves and judge the open that
//! is too many; here only the evidence is gathered then. Slow: the breadth that the rules state,
//! over hours and days.

use monitor_common::{
    policy::{detector, reason},
    record::did,
};

use super::{
    Found, Limits, Moment, Run, Seen, between,
    distinct::{Distinct, key},
    holds_data, parameter,
};
use crate::event::{Body, Bytes, File, Violation};

/// See the module.
pub struct MassRead {
    fast: Distinct,
    slow: Distinct,
    in_kernel: bool,
}

impl MassRead {
    /// Nothing has been read yet.
    pub fn new(limits: &Limits) -> Self {
        let distinct =
            |files: usize, window| Distinct::new(limits.values[files], limits.window_ns(window));
        Self {
            fast: distinct(parameter::MASS_READ_FILES, parameter::MASS_READ_WINDOW),
            slow: distinct(parameter::BREADTH_FILES, parameter::BREADTH_WINDOW),
            in_kernel: limits.kernel_counts_reads(),
        }
    }

    /// Takes an event.
    pub fn observe(&mut self, seen: &Seen<'_>, limits: &Limits) -> Vec<Found> {
        let Body::Open { access, file } = &seen.event.body else { return Vec::new() };
        let by_kernel = seen.event.violation.as_deref().filter(|it| is_finding(it));
        if let Some(violation) = by_kernel {
            self.fast.now(seen.at);
            let run = self.fast.take().map(|run| Run {
                count: limits.values[parameter::MASS_READ_FILES],
                first: if run.count == 0 { seen.at } else { run.first },
                last: seen.at,
                ..run
            });
            let found = run.map(|run| fast(run, &file.path, limits, Some(violation.clone())));
            return found.into_iter().collect();
        }
        let is_read = access & did::READ != 0 && seen.done && holds_data(file);
        if !is_read || (seen.is_runtime)(&file.path) {
            return Vec::new();
        }
        let (path, key) = (|| file.path.clone(), key_of(file));
        let run = match self.in_kernel {
            true => {
                self.fast.note(seen.at, key, path);
                None
            }
            false => self.fast.add(seen.at, key, path),
        };
        let slow = self.slow.add(seen.at, key, path);
        let fast = run.map(|run| fast(run, &file.path, limits, None));
        fast.into_iter().chain(slow.map(|run| breadth(run, &file.path, limits))).collect()
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.fast.bytes() + self.slow.bytes()
    }
}

/// The kernel programs have judged by their own count.
fn is_finding(violation: &Violation) -> bool {
    violation.decision.reason == reason::DETECTOR
        && usize::from(violation.decision.set) == detector::MASS_READ
}

/// A file is the same under any name.
fn key_of(file: &File) -> u64 {
    match file.inode.ino {
        0 => key(&file.path.as_bytes()),
        _ => key(&(file.inode.dev, file.inode.ino, file.inode.generation)),
    }
}

fn fast(run: Run, path: &Bytes, limits: &Limits, answered: Option<Violation>) -> Found {
    let (files, window) = (parameter::MASS_READ_FILES, parameter::MASS_READ_WINDOW);
    Found { answered, ..found(run, path, "mass_read", limits, (files, window)) }
}

fn breadth(run: Run, path: &Bytes, limits: &Limits) -> Found {
    let (files, window) = (parameter::BREADTH_FILES, parameter::BREADTH_WINDOW);
    found(run, path, "breadth", limits, (files, window))
}

fn found(
    run: Run,
    path: &Bytes,
    table: &'static str,
    limits: &Limits,
    (files, window): (usize, usize),
) -> Found {
    let Moment { seq: first, .. } = run.first;
    Found {
        detector: detector::MASS_READ,
        table,
        limit: limits.values[files],
        window_ns: limits.window_ns(window),
        deed: format!("has read {} different files within {}", run.count, between(&run)),
        subject: path.clone(),
        evidence: vec![first, run.last.seq],
        answered: None,
        run,
    }
}
