//! What Prometheus scrapes. Label sets are bounded whatever servers do: server names beyond a
//! number are counted as `other`, and all other labels come from lists of our own.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use prometheus::{
    Counter, CounterVec, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use crate::{
    event::{Body, Event, Outcome},
    kernel::Statistics,
};

/// Server names that have series of their own.
const SERVERS_MAX: usize = 256;
/// What the others are counted as.
const OTHER: &str = "other";

/// All metrics.
pub struct Metrics {
    registry: Registry,
    servers: Mutex<HashSet<String>>,
    events: IntCounterVec,
    alerts: IntCounterVec,
    denials: IntCounterVec,
    kills: IntCounterVec,
    lost: IntCounterVec,
    /// Instances by server and mode.
    pub instances: IntGaugeVec,
    /// Policies by state: `current` or `stale`.
    pub policies: IntGaugeVec,
    /// Reloads by result: `ok` or `failed`.
    pub reloads: IntCounterVec,
    /// Grants in force.
    pub grants: IntGauge,
    /// Instances that are cut off from networks.
    pub isolated: IntGauge,
    /// Servers that may not start.
    pub quarantined: IntGauge,
    /// Alerts by what became of the command for them.
    pub on_alert: IntCounterVec,
    /// Entries of the kernel's tables.
    pub map_entries: IntGaugeVec,
    /// Room of the kernel's tables.
    pub map_capacity: IntGaugeVec,
    /// Runs of kernel programs.
    pub program_runs: CounterVec,
    /// Time of kernel programs, in seconds.
    pub program_seconds: CounterVec,
    /// Runs of kernel programs that were left out because they were running already.
    pub program_misses: CounterVec,
    /// Time from the kernel to the sinks of the latest batch, in seconds.
    pub lag: Gauge,
    /// Seconds in which no agent read what the kernel programs had to say.
    pub blind: IntCounter,
    /// Anonymous memory of the agent, in bytes.
    pub memory: IntGauge,
    /// Processor time of the agent, in seconds.
    pub cpu: Counter,
}

impl Metrics {
    /// All of them at 0.
    ///
    /// # Errors
    /// When two metrics have one name.
    pub fn new(backend: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let metrics = Self {
            servers: Mutex::default(),
            events: counters("events_total", "Events by server and type", &["server", "type"])?,
            alerts: counters(
                "alerts_total",
                "Alerts by server and category",
                &["server", "category"],
            )?,
            denials: counters(
                "denials_total",
                "Calls that were refused, by server and category",
                &["server", "category"],
            )?,
            kills: counters(
                "kills_total",
                "Violations that were answered by killing, by server and category",
                &["server", "category"],
            )?,
            lost: counters(
                "lost_total",
                "Events that were lost, by where and why",
                &["where", "reason"],
            )?,
            instances: gauges("instances", "Instances that run", &["server", "mode"])?,
            policies: gauges("policies", "Policies in force, by state", &["state"])?,
            reloads: counters("reloads_total", "Reloads of rules, by result", &["result"])?,
            grants: IntGauge::with_opts(options("grants", "Grants in force"))?,
            isolated: IntGauge::with_opts(options(
                "isolated_instances",
                "Instances that are cut off from networks",
            ))?,
            quarantined: IntGauge::with_opts(options(
                "quarantined_servers",
                "Servers that may not start",
            ))?,
            on_alert: counters(
                "on_alert_total",
                "Alerts by what became of the command for them",
                &["result"],
            )?,
            map_entries: gauges("map_entries", "Entries in a table of the kernel", &["map"])?,
            map_capacity: gauges("map_capacity", "Room of a table of the kernel", &["map"])?,
            program_runs: sums(
                "program_runs_total",
                "Runs of a kernel program (0 unless kernel.bpf_stats_enabled is 1)",
                &["program"],
            )?,
            program_seconds: sums(
                "program_seconds_total",
                "Time that a kernel program ran (0 unless kernel.bpf_stats_enabled is 1)",
                &["program"],
            )?,
            program_misses: sums(
                "program_recursion_misses_total",
                "Runs of a kernel program that were left out because it was running already",
                &["program"],
            )?,
            lag: Gauge::with_opts(options("lag_seconds", "Time from the kernel to the sinks"))?,
            blind: IntCounter::with_opts(options(
                "blind_seconds_total",
                "Time in which the kernel programs worked without an agent",
            ))?,
            memory: IntGauge::with_opts(options(
                "resident_anonymous_bytes",
                "Anonymous memory of the agent",
            ))?,
            cpu: Counter::with_opts(options("cpu_seconds_total", "Processor time of the agent"))?,
            registry,
        };
        let build = gauges("build_info", "Version and backend; always 1", &["version", "backend"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), backend]).set(1);
        metrics.register(build)?;
        for result in ["ok", "failed"] {
            metrics.reloads.with_label_values(&[result]).inc_by(0);
        }
        metrics.register_all()?;
        Ok(metrics)
    }

    fn register_all(&self) -> prometheus::Result<()> {
        for family in
            [&self.events, &self.alerts, &self.denials, &self.kills, &self.lost, &self.reloads]
        {
            self.register(family.clone())?;
        }
        self.register(self.on_alert.clone())?;
        for gauge in [&self.grants, &self.isolated, &self.quarantined] {
            self.register(gauge.clone())?;
        }
        for family in [&self.instances, &self.policies, &self.map_entries, &self.map_capacity] {
            self.register(family.clone())?;
        }
        for family in [&self.program_runs, &self.program_seconds, &self.program_misses] {
            self.register(family.clone())?;
        }
        self.register(self.lag.clone())?;
        self.register(self.blind.clone())?;
        self.register(self.memory.clone())?;
        self.register(self.cpu.clone())
    }

    fn register(&self, collector: impl Collector + 'static) -> prometheus::Result<()> {
        self.registry.register(Box::new(collector))
    }

    /// What the agent itself takes.
    pub fn measure_agent(&self) {
        let Ok(own) = procfs::process::Process::myself() else { return };
        if let Ok(status) = own.status() {
            let pages = status.rssanon.unwrap_or(0);
            self.memory.set(pages.saturating_mul(1024) as i64);
        }
        if let Ok(stat) = own.stat() {
            let ticks = (stat.utime + stat.stime) as f64;
            raise(&self.cpu, ticks / procfs::ticks_per_second() as f64);
        }
    }

    /// Takes over what the kernel counts of its programs.
    pub fn count_programs(&self, programs: &[(String, OwnedFd)]) {
        for (name, program) in programs {
            let Statistics { runs, time_ns, misses } = Statistics::of(program);
            let labels = [name.as_str()];
            raise(&self.program_runs.with_label_values(&labels), runs as f64);
            raise(&self.program_seconds.with_label_values(&labels), time_ns as f64 / 1e9);
            raise(&self.program_misses.with_label_values(&labels), misses as f64);
        }
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// The label of a server.
    pub fn label(&self, server: &str) -> String {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.contains(server) || servers.len() < SERVERS_MAX {
            servers.insert(server.to_owned());
            return server.to_owned();
        }
        OTHER.to_owned()
    }

    /// The series of a server.
    pub fn series(&self, server: &str) -> Series {
        Series {
            server: self.label(server),
            events: self.events.clone(),
            alerts: self.alerts.clone(),
            denials: self.denials.clone(),
            kills: self.kills.clone(),
            by_type: Vec::new(),
        }
    }

    /// Counts an event that belongs to no instance.
    pub fn event(&self, event: &Event) {
        self.events.with_label_values(&["", event.kind()]).inc();
        if let Body::Loss(loss) = &event.body {
            self.lost
                .with_label_values(&[known(&loss.ring), known(&loss.reason)])
                .inc_by(loss.count);
        }
    }
}

/// Names of losses are our own, but for those that a recording tells of.
fn known(name: &str) -> &str {
    if name.len() <= 64
        && name.bytes().all(|byte| byte == b' ' || byte == b',' || byte.is_ascii_alphanumeric())
    {
        name
    } else {
        OTHER
    }
}

/// The series of one server.
pub struct Series {
    server: String,
    events: IntCounterVec,
    alerts: IntCounterVec,
    denials: IntCounterVec,
    kills: IntCounterVec,
    /// The few types that there are, found by comparing.
    by_type: Vec<(&'static str, IntCounter)>,
}

impl Series {
    /// Counts an event.
    pub fn event(&mut self, event: &Event) {
        let kind = event.kind();
        match self.by_type.iter().find(|(known, _)| *known == kind) {
            Some((_, counter)) => counter.inc(),
            None => {
                let counter = self.events.with_label_values(&[&self.server, kind]);
                counter.inc();
                self.by_type.push((kind, counter));
            }
        }
        let (Body::Alert(alert), Some(violation)) = (&event.body, &event.violation) else { return };
        let labels = [self.server.as_str(), violation.category.name()];
        self.alerts.with_label_values(&labels).inc_by(alert.count);
        let Outcome { denied, killed } = violation.outcome(alert);
        if denied {
            self.denials.with_label_values(&labels).inc_by(alert.count);
        }
        if killed {
            self.kills.with_label_values(&labels).inc_by(alert.count);
        }
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("mcp_monitor")
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(options(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(options(name, help), labels)
}

fn sums(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
    CounterVec::new(options(name, help), labels)
}

/// Brings a counter up to what somebody else has counted.
fn raise(counter: &Counter, value: f64) {
    counter.inc_by((value - counter.get()).max(0.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented_and_every_documented_one_is_there() {
        let metrics = Metrics::new("lsm").unwrap();
        for family in
            [&metrics.events, &metrics.alerts, &metrics.denials, &metrics.kills, &metrics.lost]
        {
            family.with_label_values(&["a", "b"]).inc();
        }
        metrics.instances.with_label_values(&["a", "b"]).inc();
        metrics.on_alert.with_label_values(&["a"]).inc();
        for family in [&metrics.policies, &metrics.map_entries, &metrics.map_capacity] {
            family.with_label_values(&["a"]).inc();
        }
        for family in [&metrics.program_runs, &metrics.program_seconds, &metrics.program_misses] {
            family.with_label_values(&["a"]).inc();
        }
        let text = metrics.text().unwrap();
        let name = |line: &'static str| line.strip_prefix("| `mcp_monitor_")?.split('`').next();
        let documented: HashSet<&str> =
            include_str!("../../../docs/agent.md").lines().filter_map(name).collect();
        let ours: HashSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE mcp_monitor_")?.split(' ').next())
            .collect();
        assert_eq!(ours, documented);
    }

    #[test]
    fn servers_without_end_are_counted_as_others() {
        let metrics = Metrics::new("lsm").unwrap();
        let labels: HashSet<String> = (0..10 * SERVERS_MAX)
            .map(|number| metrics.label(&format!("server-{number}")))
            .collect();
        assert_eq!(labels.len(), SERVERS_MAX + 1);
        assert_eq!(metrics.label("server-0"), "server-0");
    }
}
