//! The host agent: one kernel side for all servers of a machine, which goes on judging when the
//! agent does not run.
//!
//! ```text
//! run, status, ... -> control socket -> Asker -> Inbox -> Watch -> kernel maps, cgroups
//! kernel programs  -> rings -> Pipeline -> recording, journal, Followers -> alerts --follow, metrics
//! ```
//!
//! Two threads: the watcher owns everything about the kernel and the instances; the other one runs
//! the sockets and only asks.

mod bounds;
pub mod client;
pub mod config;
mod container;
mod control;
mod followers;
mod grants;
mod instances;
mod lifecycle;
mod matching;
mod measures;
mod metrics;
mod on_alert;
mod process;
mod report;
pub mod request;
mod state;
mod watch;

use std::{collections::BTreeMap, io, path::Path, rc::Rc, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use nix::unistd::Pid;

use self::{
    config::{Backend, Config},
    control::Scraped,
    followers::Followers,
    grants::Grants,
    instances::Instance,
    measures::Quarantine,
    metrics::Metrics,
    on_alert::OnAlert,
    state::{Saved, StateDirectory},
    watch::Watch,
};
use crate::{
    enrich::{Clock, Enricher, clock},
    event::Veil,
    kernel::{self, Kernel, KernelError, Slot, Tags, pins::Pins},
    launch::{Account, Handle, cgroup, signals::Signals},
    pipeline::{Pipeline, Sinks},
    rules::{Automaton, Compiled, SearchPath, Tables},
    segment::{Header, key},
    sink::{
        journal::Journal,
        recording::{Destination, SegmentWriter},
        stderr::Stderr,
        terminal::Terminal,
    },
    waiter::Waiter,
};

/// Runs the agent until a signal ends it.
///
/// # Errors
/// When this machine lacks something, the configuration is wrong, or another agent runs.
pub fn serve(config: &Config) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(KernelError::Privileges);
    }
    let signals = Signals::block().context("cannot take over signals")?;
    let listener = control::listen(&config.control)?;
    let quarantine = quarantine(config)?;
    let mut kernel = load_kernel(config)?;
    let metrics = Metrics::new(&kernel.backend().to_string())?;
    let metrics = Arc::new(metrics);
    let key = key::open(&config.recording.key)
        .inspect_err(|error| eprintln!("mcp-monitor: the recording is not signed: {error}"))
        .ok();
    let veil =
        Veil::new(config.recording.privacy, key.as_ref().map(ed25519_dalek::SigningKey::as_bytes))?;
    let state = StateDirectory::of(&config.control.socket);
    state.create().context("cannot make the directory beside the control socket")?;
    let tags = Rc::new(kernel.take_tags()?);
    let on_alert = OnAlert::start(&config.on_alert, metrics.on_alert.clone())
        .context("cannot make threads for the command of on_alert")?;
    let mut followers =
        Followers::new(metrics.clone(), state.clone(), on_alert, kernel.read_before());
    let search = SearchPath::new(config.rules.directory.as_deref());
    let (matching, table, faults) = matching::load(&search);
    let mut tables = Tables::default();
    let adopted = adopt(&mut kernel, &state, &tags, &mut followers, table.as_ref(), &mut tables)?;
    matching::put_in_force(&mut kernel, table.as_ref())?;
    cgroup::remove_unfinished(&adopted.instances.keys().copied().collect::<Vec<_>>());
    let mut header = Header::of_host(&kernel.backend().to_string(), kernel.hooks())
        .context("cannot describe this machine")?;
    header.policies = adopted.instances.values().flat_map(Instance::policies).cloned().collect();
    let destination = Destination::Directory {
        directory: config.recording.directory.clone(),
        stream: "agent".to_owned(),
    };
    let recording = SegmentWriter::open(destination, header, config.recording.options(), key)?;
    let mut enricher = Enricher::new(recording.next_seq(), Clock::measure());
    enricher.veil(veil.clone());
    for instance in adopted.instances.values() {
        enricher.name(instance.number(), &instance.policy.server);
    }
    let (asker, inbox) = request::pair()?;
    let terminal = Terminal::new(Stderr::new(), false).with_checkpoints(true);
    let terminal = terminal.with_journal(Journal::behind_stderr());
    let account = Account::of_root()?;
    let sinks = Sinks { recording, terminal, audience: followers, account };
    let mut pipeline = Pipeline::new(kernel.take_rings()?, enricher, sinks);
    if let Some(recorded) = adopted.recorded {
        pipeline = pipeline.go_on(recorded);
    }
    for (policy, compiled) in adopted.compiled {
        pipeline.explain(policy, compiled);
    }
    let (grants, wrong) = Grants::of_agent_before(&state);
    if let Some(message) = wrong {
        pipeline.agent(0, "takeover", &message);
    }
    let blind = adopted.blind;
    for message in adopted.messages {
        pipeline.agent(0, "takeover", &message);
    }
    for message in faults {
        pipeline.agent(0, "match", &message);
    }
    if let Some(blind) = blind {
        metrics.blind.inc_by(blind.as_secs());
    }
    let scraped = Scraped { metrics: metrics.clone(), programs: Arc::new(kernel.programs()) };
    control::start(listener, config, asker, scraped)?;
    let waiter = Waiter::new(pipeline.rings())?;
    kernel::give_memory_back();
    // Fails when systemd did not start us.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    eprintln!(
        "mcp-monitor: watching with the {} backend; control socket {}",
        kernel.backend(),
        config.control.socket.display()
    );
    Watch {
        kernel,
        pipeline,
        tags,
        signals,
        inbox,
        search,
        tables,
        state,
        metrics,
        veil,
        blind,
        instances: adopted.instances,
        grants,
        quarantine,
        next_policy: adopted.next_policy,
        waiter,
        matching,
    }
    .run()
}

/// Ends all instances and removes all programs, maps and state; an agent that runs is ended first
/// by whoever asks for this.
///
/// # Errors
/// When something stays.
pub fn detach_all(config: &Config) -> anyhow::Result<()> {
    let _alone = control::listen(&config.control)?;
    let state = StateDirectory::of(&config.control.socket);
    for number in state.numbers() {
        if let Ok(cgroup) = instances::find(number) {
            crate::launch::Tree::new(cgroup, Box::new(Vec::new)).end()?;
        }
    }
    let pins = Pins::at(&config.kernel.pins);
    let held = kernel::held_at(&pins);
    pins.remove_all().context("cannot remove what is pinned")?;
    for tgid in held {
        // Fails for one that has ended.
        let _ = Handle::open(Pid::from_raw(tgid as i32)).and_then(|one| one.signal(libc::SIGCONT));
    }
    cgroup::remove_unfinished(&[]);
    state.remove();
    Ok(())
}

/// The servers in quarantine; the file stands beside the recording.
fn quarantine(config: &Config) -> anyhow::Result<Quarantine> {
    let file = config.recording.directory.with_file_name("quarantine.json");
    Quarantine::read(&file).with_context(|| {
        format!("cannot read which servers are in quarantine: repair or remove {}", file.display())
    })
}

fn load_kernel(config: &Config) -> anyhow::Result<Kernel> {
    let backend = match config.kernel.backend {
        Backend::Auto => None,
        Backend::Lsm => Some(kernel::Backend::Lsm),
        Backend::Tracepoint => Some(kernel::Backend::Tracepoint),
    };
    let pins = Some(config.kernel.pins.clone());
    let kernel = Kernel::load(&kernel::Options { backend, diagnostics: false, pins })?;
    if let Some(reason) = kernel.passed_over() {
        eprintln!("mcp-monitor: using the tracepoint backend, because {reason}");
    }
    Ok(kernel)
}

/// What an earlier agent has left running.
struct Adopted {
    instances: BTreeMap<u32, Instance>,
    compiled: Vec<(u32, Arc<Compiled>)>,
    next_policy: u32,
    blind: Option<Duration>,
    /// Records of each ring in the recording of the agent before.
    recorded: Option<(u64, u64)>,
    messages: Vec<String>,
}

fn adopt(
    kernel: &mut Kernel,
    state: &StateDirectory,
    tags: &Rc<Tags>,
    followers: &mut Followers,
    table: Option<&Automaton>,
    tables: &mut Tables,
) -> anyhow::Result<Adopted> {
    let (saved, wrong) = state.read().context("cannot read the state of the agent before")?;
    let mut adopted = Adopted {
        instances: BTreeMap::new(),
        compiled: Vec::new(),
        next_policy: 1,
        blind: None,
        recorded: None,
        messages: wrong,
    };
    if !kernel.was_taken_over() {
        for saved in saved {
            state.forget(saved.policy.instance);
        }
        state.forget_grants();
        return Ok(adopted);
    }
    adopted.recorded = state.recorded();
    let now = clock::boot_ns();
    let last = state.last_seen()?;
    adopted.blind = last.map(|last| Duration::from_nanos(now.saturating_sub(last)));
    let mut fresh = Vec::new();
    for saved in saved {
        let standby = saved.standby.as_ref().map_or(0, |standby| standby.policy.policy);
        let latest = saved.policy.policy.max(standby);
        adopted.next_policy = adopted.next_policy.max(latest + 1);
        match adopt_one(kernel, tags, tables, saved) {
            Ok(one) => fresh.push(one),
            Err((number, error)) => {
                state.forget(number);
                // The cgroup went with its programs; their pins have nothing to hold.
                kernel.end_isolation(number)?;
                adopted.messages.push(format!("instance {number}: {error}"));
            }
        }
    }
    kernel.adopt_match(table)?;
    kernel.sweep()?;
    for Fresh { mut instance, compiled, in_kernel, standby } in fresh {
        let number = instance.number();
        if !in_kernel {
            instance.slot = kernel.install(instance.policy.policy, &compiled)?;
            kernel.bind(number, instance.slot)?;
        }
        adopted.compiled.extend(standby);
        // Nobody is told yet: who launched it has lost its line.
        let _ = followers.begin(number, &instance.policy.server, instance.uid);
        adopted.compiled.push((instance.policy.policy, compiled));
        adopted.instances.insert(number, instance);
    }
    let blind = adopted.blind.unwrap_or_default().as_secs_f64();
    adopted.messages.push(format!(
        "took over {} instances; nobody had read the rings for {blind:.1} s, in which the kernel \
         programs went on",
        adopted.instances.len()
    ));
    Ok(adopted)
}

/// An instance whose rules have been compiled again.
struct Fresh {
    instance: Instance,
    compiled: Arc<Compiled>,
    /// Whether the kernel holds what they say.
    in_kernel: bool,
    /// What comes into force when they lapse, with its number.
    standby: Option<(u32, Arc<Compiled>)>,
}

fn adopt_one(
    kernel: &mut Kernel,
    tags: &Rc<Tags>,
    tables: &mut Tables,
    saved: Saved,
) -> Result<Fresh, (u32, String)> {
    let number = saved.policy.instance;
    let failed = |error: String| (number, error);
    let tree = match saved.is_scattered {
        true if tags.members(number).is_empty() => {
            return Err(failed("its last process has ended".to_owned()));
        }
        true => instances::scattered(number, tags.clone()),
        false => {
            let cgroup = instances::find(number).map_err(|error| failed(error.to_string()))?;
            instances::tree(cgroup, number, tags.clone())
        }
    };
    let compiled = instances::recompile(tables, &saved.policy).map_err(failed)?;
    let slot = kernel
        .adopt(number, saved.position, &compiled)
        .map_err(|error| failed(error.to_string()))?;
    let Saved { policy, mut standby, launch, uid, started_ns, is_scattered, isolated, .. } = saved;
    let mut compiled_standby = None;
    if let (Some(one), Some(slot)) = (&mut standby, slot) {
        let compiled = instances::recompile(tables, &one.policy).map_err(failed)?;
        let after = kernel.adopt_after(slot, &compiled);
        one.slot = after.map_err(|error| failed(error.to_string()))?.unwrap_or_default();
        compiled_standby = Some((one.policy.policy, compiled));
    }
    let instance = Instance {
        policy,
        slot: slot.unwrap_or_default(),
        // Not in the kernel: nothing lapses, and what is granted is settled at once.
        standby: standby.filter(|standby| standby.slot != Slot::default()),
        launch,
        uid,
        started_ns,
        tree,
        names: None,
        stale: None,
        isolated,
        is_alone: !is_scattered,
        ending: None,
    };
    Ok(Fresh { instance, compiled, in_kernel: slot.is_some(), standby: compiled_standby })
}

/// Makes a directory that only root may write to, and that everybody may pass.
fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}
