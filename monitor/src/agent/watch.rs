//! The watcher: the one thread that owns the kernel side and all instances. Records come from the
//! rings, questions from the control socket, signals from systemd.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    os::fd::AsFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use monitor_common::record::Record;
use nix::{
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    unistd::Pid,
};

use super::{
    followers::Followers,
    instances::{self, Instance},
    metrics::Metrics,
    request::{
        Ask, Caller, Inbox, InstanceStatus, Launch, Launched, Plan, Refusal, Reloaded, Request,
        Started, Status, Told,
    },
    state::StateDirectory,
};
use crate::{
    enrich::clock::{self, Clock},
    event::{PolicyText, Veil, format_time},
    kernel::{Kernel, KernelError, Rings, Slot, Tags},
    launch::{Tree, signals::Signals},
    names::Service,
    pipeline::{self, Pipeline},
    respond::{self, Answer},
    rules::{Compiled, Mode, SearchPath},
    sink::stderr::Stderr,
};

/// Longest time without a look at the ordinary ring, while it fills and while it does not.
const BUSY: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_secs(1);
/// The same while names are answered.
const NAMES: Duration = Duration::from_millis(200);
/// Looks at an empty ring after which it counts as idle.
const QUIET: u32 = 50;
/// Longest wait while records wait for earlier ones of the other ring.
const HOLDING: Duration = Duration::from_millis(5);
/// How often what is slow to find out is looked at.
const LOOK: Duration = Duration::from_secs(1);

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
    /// Number of the next policy.
    pub next_policy: u32,
    /// What is waited on.
    pub epoll: Option<Rc<Epoll>>,
}

/// Why the watcher has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A signal asked for it.
    Asked,
}

impl Watch {
    /// Watches until a signal asks for the end. Servers go on, judged by the pinned programs.
    ///
    /// # Errors
    /// When the kernel refuses what watching takes.
    pub fn run(mut self) -> anyhow::Result<()> {
        let epoll = Rc::new(self.waiter()?);
        self.epoll = Some(epoll.clone());
        self.serve_adopted_names();
        self.measure();
        let End::Asked = self.until_end(&epoll)?;
        let Self { pipeline, kernel, instances, .. } = self;
        for instance in instances.into_values() {
            instance.tree.leave();
        }
        // The programs go on: what they produce from here on is the next agent's.
        let produced = counters(&kernel);
        pipeline.finish(&mut |_| {}, || produced)?;
        Ok(())
    }

    /// Goes on answering the DNS of adopted instances: at other ports, and with no address known.
    fn serve_adopted_names(&mut self) {
        let adopted =
            self.instances.iter().map(|(number, one)| (*number, one.policy.policy, one.slot));
        for (number, policy, slot) in adopted.collect::<Vec<_>>() {
            let Some(compiled) = self.pipeline.policy(policy) else { continue };
            let names =
                self.name_service(number, policy, slot, &compiled).unwrap_or_else(|error| {
                    // Nowhere: what redirected it before refuses it now.
                    self.pipeline.agent(number, "names", &error.to_string());
                    None
                });
            self.kernel.answer_dns(number, names.as_ref().map_or(0, Service::port));
            if let Some(instance) = self.instances.get_mut(&number) {
                instance.names = names;
            }
        }
    }

    fn waiter(&self) -> anyhow::Result<Epoll> {
        let Rings { events, violations } = self.pipeline.rings();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let add = |descriptor: &dyn AsFd, flags| {
            epoll.add(descriptor.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | flags, 0))
        };
        add(&self.signals, EpollFlags::empty())?;
        add(&self.inbox, EpollFlags::empty())?;
        add(violations, EpollFlags::empty())?;
        // By edge: it is readable whenever a record is in it, but wakes only when it fills.
        add(events, EpollFlags::EPOLLET)?;
        Ok(epoll)
    }

    fn until_end(&mut self, epoll: &Epoll) -> anyhow::Result<End> {
        let mut quiet = 0_u32;
        let mut looked = Instant::now();
        loop {
            let before = self.pipeline.delivered();
            let more = self.pump();
            self.answer_names();
            self.inbox.quiet();
            while let Some(request) = self.inbox.next() {
                self.answer(request);
            }
            self.bury();
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look()?;
            }
            if let Some(end) = self.handle_signals()? {
                return Ok(end);
            }
            let delivered = self.pipeline.delivered() != before;
            quiet = if delivered { 0 } else { quiet.saturating_add(1) };
            let ending = self.instances.values().any(|instance| instance.ending.is_some());
            let patience = match (more, self.pipeline.holds_records()) {
                (true, _) => Duration::ZERO,
                (_, true) => HOLDING,
                _ if self.instances.values().any(|one| one.names.is_some()) => NAMES,
                _ if ending || (quiet < QUIET && !self.instances.is_empty()) => BUSY,
                _ => IDLE,
            };
            wait(epoll, patience)?;
        }
    }

    /// Reads what is in the rings, and answers it; whether there may be more.
    fn pump(&mut self) -> bool {
        self.answering(|pipeline, mut respond| pipeline.pump(&mut respond))
    }

    /// Has the pipeline read, and answers what it finds.
    fn answering<T>(
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
        self.pipeline.tick(|| counters(kernel))?;
        self.kernel.flush_diagnostics();
        for instance in self.instances.values_mut() {
            let alone = instance.is_alone && instance.ending.is_none();
            if alone && !instance.tree.cgroup().contains(Pid::from_raw(instance.launch.pid as i32))
            {
                // As with a launcher: what the first process leaves running ends with it.
                instance.end(None);
            }
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
        for (map, used, room) in self.kernel.usage() {
            metrics.map_entries.with_label_values(&[map]).set(used as i64);
            metrics.map_capacity.with_label_values(&[map]).set(room as i64);
        }
    }

    fn handle_signals(&mut self) -> anyhow::Result<Option<End>> {
        while let Some(signal) = self.signals.next()? {
            match signal.ssi_signo as i32 {
                libc::SIGTERM | libc::SIGINT => return Ok(Some(End::Asked)),
                libc::SIGHUP => {
                    self.reload();
                }
                _ => {}
            }
        }
        Ok(None)
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
                let loaded = instances::load(&self.search, caller, caller.uid, &launch);
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

    fn launch(&mut self, caller: Caller, launch: Launch) -> Result<Launched, Refusal> {
        instances::check_child(caller, launch.pid)?;
        let uid = caller.uid;
        let loaded = instances::load(&self.search, caller, uid, &launch)?;
        let compiled = instances::compile(&loaded)?;
        let failed = |error: &dyn std::error::Error| Refusal::Failed(error.to_string());
        let random = || RandomState::new().hash_one(std::process::id()) as u32;
        let taken =
            |number: u32| number == 0 || number == u32::MAX || self.instances.contains_key(&number);
        let (number, cgroup) = instances::place(taken, random)?;
        cgroup.limit(&loaded.resources).map_err(|error| failed(&error))?;
        let tree = instances::tree(cgroup, number, self.tags.clone());
        let policy = self.veil.policy(loaded.text(self.next_policy, number));
        let slot = self.kernel.install(policy.policy, &compiled).map_err(|error| failed(&error))?;
        self.next_policy += 1;
        let names = self.name_service(number, policy.policy, slot, &compiled);
        let put = names.map_err(anyhow::Error::from).and_then(|names| {
            let port = names.as_ref().map_or(0, Service::port);
            self.put_under_watch(&tree, &compiled, number, slot, port, launch.pid)?;
            Ok(names)
        });
        let names = match put {
            Ok(names) => names,
            Err(error) => {
                let _ = tree.kill();
                self.drop_from_kernel(number, slot);
                return Err(Refusal::Failed(error.to_string()));
            }
        };
        let started = Started {
            instance: number,
            server: policy.server.clone(),
            mode: policy.mode.clone(),
            backend: self.kernel.backend().to_string(),
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        };
        let followers = &mut self.pipeline.sinks().audience;
        let told = followers.begin(number, &policy.server, uid);
        self.pipeline.begin(policy.clone(), compiled);
        let instance = Instance {
            policy,
            slot,
            launch,
            uid,
            started_ns: clock::boot_ns(),
            tree,
            names,
            stale: None,
            is_alone: false,
            ending: None,
        };
        self.instances.insert(number, instance);
        self.name_policies();
        self.save(number);
        Ok(Launched { started, told })
    }

    fn put_under_watch(
        &mut self,
        tree: &Tree,
        compiled: &Compiled,
        number: u32,
        slot: Slot,
        port: u16,
        child: u32,
    ) -> anyhow::Result<()> {
        self.kernel.label_all(&compiled.labels)?;
        self.kernel.bind(number, slot)?;
        self.kernel.answer_dns(number, port);
        tree.cgroup().add(Pid::from_raw(child as i32))?;
        Ok(self.kernel.tag(child, number)?)
    }

    /// The DNS of an instance whose rules name hosts.
    fn name_service(
        &mut self,
        number: u32,
        policy: u32,
        slot: Slot,
        compiled: &Arc<Compiled>,
    ) -> Result<Option<Service>, KernelError> {
        if !compiled.answers_dns() {
            return Ok(None);
        }
        // Without it questions would go where the server sends them.
        self.kernel.attach_dns()?;
        let service = Service::start(&mut self.kernel, number, policy, slot, compiled.clone());
        if let (Some(epoll), Some(descriptor)) = (&self.epoll, service.descriptor()) {
            // What cannot be waited for is looked at several times a second all the same.
            let _ = epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0));
        }
        Ok(Some(service))
    }

    /// Answers what was asked by name.
    fn answer_names(&mut self) {
        let Self { kernel, pipeline, instances, .. } = self;
        for (number, instance) in instances {
            if let Some(names) = &mut instance.names {
                pipeline.names(*number, names.serve(kernel));
            }
        }
    }

    /// Forgets instances that have ended.
    fn bury(&mut self) {
        let ended = |instance: &mut Instance| instance.has_ended();
        let numbers: Vec<u32> = self
            .instances
            .iter_mut()
            .filter_map(|(number, instance)| ended(instance).then_some(*number))
            .collect();
        if numbers.is_empty() {
            return;
        }
        for number in numbers {
            let Some(instance) = self.instances.remove(&number) else { continue };
            let message = format!("the last process of instance {number} has ended");
            self.pipeline.agent(number, "ended", &message);
            if let Some(names) = instance.names {
                self.pipeline.names(number, names.finish(&mut self.kernel));
            }
            self.drop_from_kernel(number, instance.slot);
            let followers = &mut self.pipeline.sinks().audience;
            let summary = followers.end(number, &instance.policy.server);
            self.pipeline.retire(instance.policy);
            self.pipeline.forget(number);
            for reply in instance.ending.into_iter().flat_map(|ending| ending.replies) {
                let _ = reply.send(Ok(summary.clone()));
            }
            self.state.forget(number);
        }
        self.name_policies();
    }

    fn drop_from_kernel(&mut self, number: u32, slot: Slot) {
        let dropped = self.kernel.release(number).and_then(|()| self.kernel.retire(slot));
        if let Err(error) = dropped {
            self.pipeline.agent(number, "kernel", &error.to_string());
        }
    }

    /// Loads all rules again. What cannot be loaded changes nothing.
    fn reload(&mut self) -> Vec<Reloaded> {
        let numbers: Vec<u32> = self.instances.keys().copied().collect();
        let mut results = Vec::new();
        for number in numbers {
            let error = self.reload_one(number).err().map(|refusal| refusal.to_string());
            let result = if error.is_none() { "ok" } else { "failed" };
            self.metrics.reloads.with_label_values(&[result]).inc();
            if let Some(error) = &error {
                let message = format!("the rules before stay in force: {error}");
                self.pipeline.agent(number, "reload", &message);
            }
            let Some(instance) = self.instances.get_mut(&number) else { continue };
            instance.stale = error.clone();
            let server = instance.policy.server.clone();
            results.push(Reloaded { instance: number, server, error });
            self.save(number);
        }
        self.name_policies();
        results
    }

    fn reload_one(&mut self, number: u32) -> Result<(), Refusal> {
        let Some(instance) = self.instances.get(&number) else { return Ok(()) };
        let caller = Caller { pid: instance.launch.pid, uid: instance.uid };
        let loaded = instances::load(&self.search, caller, instance.uid, &instance.launch)?;
        let compiled = instances::compile(&loaded)?;
        let policy = self.veil.policy(loaded.text(self.next_policy, number));
        let same = PolicyText { policy: policy.policy, ..instance.policy.clone() } == policy;
        if same {
            return Ok(());
        }
        let failed = |error: KernelError| Refusal::Failed(error.to_string());
        let slot = self.kernel.install(policy.policy, &compiled).map_err(failed)?;
        self.next_policy += 1;
        let prepared = self
            .kernel
            .label_all(&compiled.labels)
            .and_then(|()| self.name_service(number, policy.policy, slot, &compiled));
        let names = match prepared {
            Ok(names) => names,
            Err(error) => {
                self.kernel.retire(slot).map_err(failed)?;
                return Err(failed(error));
            }
        };
        // Known before the first record under it comes.
        self.pipeline.begin(policy.clone(), compiled.clone());
        self.kernel.bind(number, slot).map_err(failed)?;
        self.kernel.answer_dns(number, names.as_ref().map_or(0, Service::port));
        let Some(instance) = self.instances.get_mut(&number) else { return Ok(()) };
        let before = std::mem::replace(&mut instance.slot, slot);
        let old = std::mem::replace(&mut instance.policy, policy);
        if let Some(names) = std::mem::replace(&mut instance.names, names) {
            self.pipeline.names(number, names.finish(&mut self.kernel));
        }
        self.kernel.retire(before).map_err(failed)?;
        // Its last records are in the rings by now, and are read before it is forgotten.
        self.answering(|pipeline, mut respond| pipeline.settle(&mut respond));
        self.pipeline.retire(old);
        Ok(())
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
            instances,
        }
    }

    /// Leaves word for the next agent.
    fn save(&mut self, number: u32) {
        let Some(instance) = self.instances.get(&number) else { return };
        let saved = instance.saved(self.kernel.position(number).unwrap_or(u32::MAX));
        if let Err(error) = self.state.write(&saved) {
            let message = format!(
                "the state of instance {number} cannot be saved: {error}: the next agent would not \
                 know it"
            );
            self.pipeline.agent(number, "state", &message);
        }
    }

    /// The policies that headers of later segments name.
    fn name_policies(&mut self) {
        let policies = self.instances.values().map(|instance| instance.policy.clone()).collect();
        self.pipeline.set_policies(policies);
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

fn counters(kernel: &Kernel) -> Result<crate::enrich::Counters, KernelError> {
    kernel.counters().map(|counters| pipeline::counters(&counters))
}

fn wait(epoll: &Epoll, patience: Duration) -> std::io::Result<()> {
    let mut events = [EpollEvent::empty(); 8];
    let timeout = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::ZERO);
    match epoll.wait(&mut events, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
