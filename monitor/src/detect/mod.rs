//! Detectors: what many events of one tree do together. One file a detector, one counter for all
//! (`distinct`), time by the events' `boot_ns` alone, so that a replay finds what was found live.
//!
//! ```text
//! event, in the order of the stream -> Detectors::observe -> findings -> alerts (enrich) -> respond
//! ```
//!
//! Memory is bounded for each instance by its limits, whatever its tree does; docs/detectors.md
//! has the figures, and the tests of this module hold them.

mod connect_burst;
mod distinct;
mod dns_burst;
mod exec_burst;
mod exfiltration;
mod limits;
mod mass_read;
mod mass_write;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use monitor_common::{file, policy::detector, record::did};

use crate::event::{Body, Bytes, Event, File, Violation};

pub use distinct::{Moment, Run};
pub use limits::{
    COUNT_MAX, Limits, PARAMETERS, Parameter, Unit, WINDOW_MAX_MS, WINDOW_MIN_MS, duration,
    parameter, parse_duration,
};

/// Version of what is counted and how: recordings name it, so that those made before detectors
/// replay as they were. 2: `dns_burst`.
pub const GENERATION: u32 = 2;

/// Instances whose state is kept; beyond them that of the one that was quiet longest is given up.
const INSTANCES_MAX: usize = 1024;

/// What a detector has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the [`detector`].
    pub detector: usize,
    /// Its table in `[limits]`.
    pub table: &'static str,
    /// The count at which it speaks.
    pub limit: u64,
    /// Its window, ns.
    pub window_ns: u64,
    /// What was counted.
    pub run: Run,
    /// What was done, as the rest of a sentence about the process.
    pub deed: String,
    /// What the last event was about.
    pub subject: Bytes,
    /// `seq` of the events that show it.
    pub evidence: Vec<u64>,
    /// The kernel's own verdict, where that has refused the last event.
    pub answered: Option<Violation>,
}

/// An event as detectors see it.
struct Seen<'a> {
    event: &'a Event,
    at: Moment,
    /// Whether a path is one of the runtime's own, see `[files] runtime`.
    is_runtime: &'a dyn Fn(&Bytes) -> bool,
    /// It took effect.
    done: bool,
}

/// The detectors of all instances.
#[derive(Default)]
pub struct Detectors {
    limits: HashMap<u32, Arc<Limits>>,
    instances: HashMap<u32, Instance>,
}

struct Instance {
    limits: Arc<Limits>,
    /// The policy that `limits` are of.
    policy: u32,
    last_ns: u64,
    mass_read: mass_read::MassRead,
    mass_write: mass_write::MassWrite,
    exec_burst: exec_burst::ExecBurst,
    connect_burst: connect_burst::ConnectBurst,
    dns_burst: dns_burst::DnsBurst,
    exfiltration: exfiltration::Exfiltration,
}

impl Detectors {
    /// Lets events of policy number `policy` be counted.
    pub fn learn(&mut self, policy: u32, limits: Arc<Limits>) {
        self.limits.insert(policy, limits);
    }

    /// Whether the limits of a policy are known.
    pub fn knows(&self, policy: u32) -> bool {
        self.limits.contains_key(&policy)
    }

    /// Forgets a policy.
    pub fn retire(&mut self, policy: u32) {
        self.limits.remove(&policy);
    }

    /// Forgets an instance.
    pub fn forget(&mut self, instance: u32) {
        self.instances.remove(&instance);
    }

    /// The limits that an event is counted by.
    pub fn limits_of(&self, event: &Event) -> Option<&Limits> {
        self.limits.get(&event.policy()).map(AsRef::as_ref)
    }

    /// Takes an event; `is_runtime` tells whether a path of it is one of the runtime's own.
    pub fn observe(&mut self, event: &Event, is_runtime: &dyn Fn(&Bytes) -> bool) -> Vec<Found> {
        // A question is known to come from the tree, not from whom.
        if event.observed.is_none() && !matches!(event.body, Body::Resolve(_)) {
            return Vec::new();
        }
        let Some(instance) = self.instance(event, event.policy()) else { return Vec::new() };
        let refused = event.violation.as_ref().is_some_and(|it| it.is_refused());
        let at = Moment { seq: event.seq, boot_ns: event.boot_ns };
        instance.observe(&Seen { event, at, is_runtime, done: !refused })
    }

    fn instance(&mut self, event: &Event, policy: u32) -> Option<&mut Instance> {
        let Self { limits, instances } = self;
        if !instances.contains_key(&event.instance) {
            let limits = limits.get(&policy)?;
            if instances.len() >= INSTANCES_MAX {
                let quiet = instances.iter().min_by_key(|(number, it)| (it.last_ns, **number));
                let quiet = quiet.map(|(number, _)| *number);
                quiet.and_then(|number| instances.remove(&number));
            }
            instances.insert(event.instance, Instance::new(policy, limits.clone()));
        }
        let instance = instances.get_mut(&event.instance)?;
        if instance.policy != policy {
            let limits = limits.get(&policy)?;
            match *instance.limits == **limits {
                true => instance.policy = policy,
                false => *instance = Instance::new(policy, limits.clone()),
            }
        }
        instance.last_ns = instance.last_ns.max(event.boot_ns);
        Some(instance)
    }
}

impl Instance {
    fn new(policy: u32, limits: Arc<Limits>) -> Self {
        Self {
            policy,
            last_ns: 0,
            mass_read: mass_read::MassRead::new(&limits),
            mass_write: mass_write::MassWrite::new(&limits),
            exec_burst: exec_burst::ExecBurst::new(&limits),
            connect_burst: connect_burst::ConnectBurst::new(&limits),
            dns_burst: dns_burst::DnsBurst::new(),
            exfiltration: exfiltration::Exfiltration::new(&limits),
            limits,
        }
    }

    fn observe(&mut self, seen: &Seen<'_>) -> Vec<Found> {
        let mut found = Vec::new();
        if self.limits.wants(detector::MASS_READ) {
            found.extend(self.mass_read.observe(seen, &self.limits));
        }
        if self.limits.wants(detector::EXFILTRATION) {
            for breadth in &found {
                self.exfiltration.broad(breadth);
            }
            found.extend(self.exfiltration.observe(seen));
        }
        if self.limits.wants(detector::MASS_WRITE) {
            found.extend(self.mass_write.observe(seen, &self.limits));
        }
        if self.limits.wants(detector::EXEC_BURST) {
            found.extend(self.exec_burst.observe(seen, &self.limits));
        }
        if self.limits.wants(detector::CONNECT_BURST) {
            found.extend(self.connect_burst.observe(seen, &self.limits));
        }
        if self.limits.wants(detector::DNS_BURST) {
            found.extend(self.dns_burst.observe(seen, &self.limits));
        }
        found
    }

    /// Bytes that it holds, its own aside.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.mass_read.bytes()
            + self.mass_write.bytes()
            + self.exec_burst.bytes()
            + self.connect_burst.bytes()
            + self.dns_burst.bytes()
            + self.exfiltration.bytes()
    }
}

/// See [`file::holds_data`], which the kernel programs count by too.
fn holds_data(file: &File) -> bool {
    file::holds_data(file.mode, file.nlink, file.fs_magic)
}

/// Whether an open changes what is there.
fn writes(access: u32) -> bool {
    access & (did::WRITE | did::TRUNCATE | did::APPEND) != 0
}

/// Seconds between two moments, for people.
fn between(run: &Run) -> String {
    let ms = run.last.boot_ns.saturating_sub(run.first.boot_ns) / 1_000_000;
    match ms {
        0..60_000 => format!("{}.{:03} s", ms / 1000, ms % 1000),
        60_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}
