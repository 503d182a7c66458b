//! The watcher: the one thread that owns the kernel side and all instances. Records come from the
//! rings, questions from the control socket, signals from systemd.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use monitor_common::record::Record;
use nix::unistd::Pid;

use super::{
    followers::Followers,
    grants::Grants,
    instances::{self, Instance},
    matching::Matching,
    measures::Quarantine,
    metrics::Metrics,
    request::{Ask, Caller, Inbox, InstanceStatus, Plan, Refusal, Request, Status, Told},
    state::StateDirectory,
};
use crate::{
    enrich::clock::Clock,
    event::{Veil, format_time},
    kernel::{Kernel, Tags},
    launch::signals::Signals,
    pipeline::{self, Look, Pipeline},
    respond::{self, Answer},
    rules::{Mode, SearchPath, Tables},
    sink::stderr::Stderr,
    waiter::{BUSY, Waiter},
};

/// How often what is slow to find out is looked at: the longest wait.
const LOOK: Duration = Duration::from_secs(1);
/// The longest wait while a process that is held does not stand still yet.
const HELD: Duration = Duration::from_millis(1);
/// The longest wait while names are answered.
const NAMES: Duration = Duration::from_millis(200);

/// Everything that is alive while the agent runs.
pub struct Watch {
    /// The kernel programs.
    pub kernel: Kernel,
    /// From rings to sinks.
    pub pipeline: Pipeline<Stderr, Followers>,
    /// Who is tagged.
    pub tags: Rc<Tags>,
    /// The agent's signals.
    pub signals: Signals,
    /// Questions.
    pub inbox: Inbox,
    /// Where rules are.
    pub search: SearchPath,
    /// What policies have in common.
    pub tables: Tables,
    /// For the next agent.
    pub state: StateDirectory,
    /// What Prometheus scrapes.
    pub metrics: Arc<Metrics>,
    /// What of arguments is recorded.
    pub veil: Veil,
    /// How long nobody had watched before.
    pub blind: Option<Duration>,
    /// What runs.
    pub instances: BTreeMap<u32, Instance>,
    /// What has been granted for a while.
    pub grants: Grants,
    /// Servers that may not start.
    pub quarantine: Quarantine,
    /// Number of the next policy.
    pub next_policy: u32,
    /// What is waited on.
    pub waiter: Waiter,
    /// By what servers are known that others start.
    pub matching: Matching,
}

impl Watch {
    /// Watches until a signal asks for the end. Servers go on, judged by the pinned programs.
    ///
    /// # Errors
    /// When the kernel refuses what watching takes.
    pub fn run(mut self) -> anyhow::Result<()> {
        self.waiter.add(self.signals.as_fd())?;
        self.waiter.add(self.inbox.as_fd())?;
        self.waiter.add(self.kernel.bell())?;
        self.serve_adopted_names();
        self.settle_grants();
        self.look_outside_adopted();
        self.adopt_running();
        self.measure();
        self.until_end()?;
        let Self { pipeline, kernel, instances, .. } = self;
        for instance in instances.into_values() {
            instance.tree.leave();
        }
        // The programs go on: what they produce from here on is the next agent's.
        let produced = pipeline::counters(&kernel);
        pipeline.finish(&mut |_| {}, || produced)?;
        Ok(())
    }

    fn until_end(&mut self) -> anyhow::Result<()> {
        let mut looked = Instant::now();
        loop {
            let read = Instant::now();
            let look = self.pump();
            self.take_in_held();
            self.answer_names();
            self.inbox.quiet();
            while let Some(request) = self.inbox.next() {
                self.answer(request);
            }
            self.bury(read);
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look()?;
            }
            if self.is_asked_to_end()? {
                return Ok(());
            }
            let mut instances = self.instances.values();
            let idle = match () {
                () if self.matching.is_waiting => HELD,
                () if instances.clone().any(|one| one.ending.is_some()) => BUSY,
                () if instances.any(|one| one.names.is_some()) => NAMES,
                () => LOOK,
            };
            self.waiter.wait(look, idle)?;
        }
    }

    /// Reads what is in the rings, and answers it.
    fn pump(&mut self) -> Look {
        self.answering(|pipeline, mut respond| pipeline.pump(&mut respond))
    }

    /// Has the pipeline read, and answers what it finds.
    pub(super) fn answering<T>(
        &mut self,
        read: impl FnOnce(&mut Pipeline<Stderr, Followers>, &mut dyn FnMut(&Record)) -> T,
    ) -> T {
        let Self { pipeline, instances, .. } = self;
        let mut strays = Vec::new();
        let result = read(pipeline, &mut |record| {
            if answer(record, instances) {
                strays.push(record.instance);
            }
        });
        strays.dedup();
        for number in strays {
            if let Some(instance) = instances.get(&number) {
                instance.tree.kill_strays();
            }
        }
        result
    }

    /// Once a second: clocks, losses, instances that nobody speaks for, metrics, the watchdog.
    fn look(&mut self) -> anyhow::Result<()> {
        let kernel = &self.kernel;
        self.pipeline.tick(|| pipeline::counters(kernel))?;
        self.kernel.flush_diagnostics();
        for instance in self.instances.values_mut() {
            let alone = instance.is_alone && instance.ending.is_none();
            if alone && !instance.tree.contains(Pid::from_raw(instance.launch.pid as i32)) {
                // As with a launcher: what the first process leaves running ends with it.
                instance.end(None);
            }
        }
        self.expire_grants();
        self.notice_ends();
        if let Some(trouble) = self.pipeline.sinks().audience.trouble() {
            self.pipeline.agent(0, "on_alert", &trouble);
        }
        self.measure();
        self.state.is_seen();
        // Fails when systemd did not start us.
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
        Ok(())
    }

    fn measure(&self) {
        let metrics = &self.metrics;
        metrics.lag.set(self.pipeline.lag_ns() as f64 / 1e9);
        metrics.instances.reset();
        let (mut current, mut stale) = (0, 0);
        for instance in self.instances.values() {
            let server = metrics.label(&instance.policy.server);
            metrics.instances.with_label_values(&[&server, &instance.policy.mode]).inc();
            if instance.stale.is_some() { stale += 1 } else { current += 1 }
        }
        metrics.policies.with_label_values(&["current"]).set(current);
        metrics.policies.with_label_values(&["stale"]).set(stale);
        metrics.grants.set(self.grants.list().len() as i64);
        let isolated = self.instances.values().filter(|instance| instance.isolated);
        metrics.isolated.set(isolated.count() as i64);
        metrics.quarantined.set(self.quarantine.names().count() as i64);
        for (map, used, room) in self.kernel.usage() {
            metrics.map_entries.with_label_values(&[map]).set(used as i64);
            metrics.map_capacity.with_label_values(&[map]).set(room as i64);
        }
    }

    fn is_asked_to_end(&mut self) -> anyhow::Result<bool> {
        while let Some(signal) = self.signals.next()? {
            match signal.ssi_signo as i32 {
                libc::SIGTERM | libc::SIGINT => return Ok(true),
                libc::SIGHUP => drop(self.reload()),
                _ => {}
            }
        }
        Ok(false)
    }

    fn answer(&mut self, request: Request) {
        let caller = request.caller;
        let inside = instances::is_inside(caller.pid) || self.tags.contains(caller.pid);
        if let Some(refusal) = request.ask.refusal(caller, inside) {
            return request.refuse(refusal);
        }
        // A reply fails when the asker has gone; then its own end of the line tells so.
        match request.ask {
            Ask::Gone(number) => {
                if let Some(instance) = self.instances.get_mut(&number) {
                    instance.end(None);
                }
            }
            Ask::Launch(launch, reply) => drop(reply.send(self.launch(caller, *launch))),
            Ask::Plan(launch, reply) => {
                let server = launch.server.as_deref();
                let loaded = self.quarantine.check(server).and_then(|()| {
                    instances::load(&self.search, caller, caller.uid, &launch, None)
                });
                let plan = loaded.map(|loaded| Plan {
                    enforced: loaded.mode == Mode::Enforce,
                    pass: loaded.pass,
                });
                let _ = reply.send(plan);
            }
            Ask::End(number, reply) => match self.owned(caller, number) {
                Ok(instance) => instance.end(Some(reply)),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Ask::Status(reply) => drop(reply.send(Ok(self.status(caller)))),
            Ask::Reload(reply) => drop(reply.send(Ok(self.reload()))),
            Ask::Give(give, reply) => drop(reply.send(self.give(caller, &give))),
            Ask::Revoke(id, reply) => drop(reply.send(self.revoke(caller, id))),
            Ask::Grants(reply) => drop(reply.send(Ok(self.grants.list().to_vec()))),
            Ask::Isolate(number, isolated, reply) => {
                let _ = reply.send(self.isolate(caller, number, isolated));
            }
            Ask::Quarantine(server, hold, reply) => {
                let _ = reply.send(self.quarantine(caller, &server, hold));
            }
            Ask::Alerts(reply) => {
                let followers = &self.pipeline.sinks().audience;
                let own = |told: &&Told| caller.owns(told.uid);
                let _ = reply.send(Ok(followers.kept().filter(own).cloned().collect()));
            }
            Ask::Follow(reply) => {
                let _ = reply.send(Ok(self.pipeline.sinks().audience.follow()));
            }
        }
    }

    /// An instance that the caller may end.
    fn owned(&mut self, caller: Caller, number: u32) -> Result<&mut Instance, Refusal> {
        // Whoever has no right to it does not learn that it is there.
        let instance = self.instances.get_mut(&number).filter(|of| caller.owns(of.uid));
        instance.ok_or_else(|| Refusal::NotFound(format!("there is no instance {number}")))
    }

    fn status(&mut self, caller: Caller) -> Status {
        let own = |instance: &&Instance| caller.owns(instance.uid);
        let clock = Clock::measure();
        let followers = &self.pipeline.sinks().audience;
        let instances = self.instances.values().filter(own).map(|instance| {
            let (events, alerts) = followers.counts(instance.number());
            InstanceStatus {
                instance: instance.number(),
                server: instance.policy.server.clone(),
                pid: instance.launch.pid,
                uid: instance.uid,
                mode: instance.policy.mode.clone(),
                started: format_time(clock.wall_ns(instance.started_ns)),
                events,
                alerts,
                stale: instance.stale.clone(),
                isolated: instance.isolated,
            }
        });
        let instances = instances.collect();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            backend: self.kernel.backend().to_string(),
            passed_over: self.kernel.passed_over().map(str::to_owned),
            recording: self.pipeline.sinks().recording.path().display().to_string(),
            lost: self.pipeline.lost(),
            blind_seconds: self.blind.map(|blind| blind.as_secs()),
            quarantined: self.quarantine.names().cloned().collect(),
            instances,
        }
    }
}

/// Carries out what the kernel left to do; whether a whole tree was meant.
fn answer(record: &Record, instances: &BTreeMap<u32, Instance>) -> bool {
    let Some(instance) = instances.get(&record.instance) else { return false };
    match respond::carry_out(record, &instance.tree) {
        Ok(answer) => answer == Answer::Tree,
        Err(error) => {
            eprintln!("mcp-monitor: cannot kill instance {}: {error}", record.instance);
            false
        }
    }
}
