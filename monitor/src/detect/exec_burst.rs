//! `exec_burst`: many programs or many processes started, as a fork bomb, a loop of commands over
//! files or a brute force does. Threads are not processes.

use monitor_common::{policy::detector, record::flags};

use super::{Found, Limits, Run, Seen, between, distinct::Distinct, parameter};
use crate::{enrich::subject, event::Body};

/// See the module.
pub struct ExecBurst {
    programs: Distinct,
    processes: Distinct,
}

impl ExecBurst {
    /// Nothing has been started yet.
    pub fn new(limits: &Limits) -> Self {
        let max = limits.values[parameter::EXEC_BURST_MAX];
        let distinct = || Distinct::new(max, limits.window_ns(parameter::EXEC_BURST_WINDOW));
        Self { programs: distinct(), processes: distinct() }
    }

    /// Takes an event.
    pub fn observe(&mut self, seen: &Seen<'_>, limits: &Limits) -> Option<Found> {
        let observed = seen.event.observed.as_ref()?;
        // Each counts, even if it is the same program again.
        let key = seen.at.seq;
        match &seen.event.body {
            Body::Exec(exec) if seen.done && observed.flags & flags::CHECK == 0 => {
                let run = self.programs.add(seen.at, key, || exec.file.path.clone())?;
                Some(found(seen, run, "programs", limits))
            }
            Body::Fork { .. } => {
                let by = || observed.process.image.exe.clone();
                let run = self.processes.add(seen.at, key, by)?;
                Some(found(seen, run, "processes", limits))
            }
            _ => None,
        }
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.programs.bytes() + self.processes.bytes()
    }
}

fn found(seen: &Seen<'_>, run: Run, what: &str, limits: &Limits) -> Found {
    Found {
        detector: detector::EXEC_BURST,
        table: "exec_burst",
        limit: limits.values[parameter::EXEC_BURST_MAX],
        window_ns: limits.window_ns(parameter::EXEC_BURST_WINDOW),
        deed: format!("is the last of {} {what} started within {}", run.count, between(&run)),
        subject: subject(&seen.event.body),
        evidence: vec![run.first.seq, run.last.seq],
        answered: None,
        run,
    }
}
