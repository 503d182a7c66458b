//! The instances that run: how they begin, go on under other rules or another agent, and end.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    hash::{BuildHasher as _, RandomState},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{
    request::{Caller, Launch, Mode, Refusal, Reply},
    state::Saved,
};
use crate::{
    event::{Bytes, PolicyText},
    kernel::{FIRST_RESERVED, Slot, Tags},
    launch::{Cgroup, Tree},
    names::Service,
    rules::{self, Bindings, ByOthers, Compiled, Loaded, SearchPath, Start, Tables},
};

/// How long after its last process an instance's records are waited for.
const GRACE: Duration = Duration::from_millis(50);

/// What comes into force by itself when the first of an instance's grants is over and no agent has
/// replaced its policy.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Standby {
    /// Its rules with nothing granted.
    pub policy: PolicyText,
    /// Where the policy stands in the kernel.
    #[serde(skip)]
    pub slot: Slot,
    /// When that grant is over, CLOCK_BOOTTIME, ns.
    pub until_ns: u64,
}

/// One instance.
pub struct Instance {
    /// The policy in force, with the instance's number and server.
    pub policy: PolicyText,
    /// Where the policy stands in the kernel.
    pub slot: Slot,
    /// While something is granted to it.
    pub standby: Option<Standby>,
    /// How it was launched.
    pub launch: Launch,
    /// Who launched it.
    pub uid: u32,
    /// When it began, CLOCK_BOOTTIME, ns.
    pub started_ns: u64,
    /// Everything that belongs to it.
    pub tree: Tree,
    /// Answers its DNS, where its rules name hosts.
    pub names: Option<Service>,
    /// Why the latest rules are not in force.
    pub stale: Option<String>,
    /// It is cut off from IP networks.
    pub isolated: bool,
    /// Nobody says when it ends: it is looked at.
    pub is_alone: bool,
    /// Its end, once that has begun.
    pub ending: Option<Ending>,
}

/// An end that has begun.
#[derive(Default)]
pub struct Ending {
    /// Who waits for it.
    pub replies: Vec<Reply<String>>,
    /// When nothing of it was left.
    pub empty: Option<Instant>,
}

impl Instance {
    /// Policies that records of it may come under.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyText> {
        self.standby.iter().map(|standby| &standby.policy).chain([&self.policy])
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.policy.instance
    }

    /// Begins to end it; `reply` gets the summary.
    pub fn end(&mut self, reply: Option<Reply<String>>) {
        // Fails when nothing is left to kill.
        let _ = self.tree.kill();
        self.tree.kill_strays();
        self.ending.get_or_insert_default().replies.extend(reply);
    }

    /// Whether it has ended, and its last records have been read: `read` is when the rings were
    /// read last.
    pub fn has_ended(&mut self, read: Instant) -> bool {
        let Some(ending) = &mut self.ending else { return false };
        if let Some(since) = ending.empty {
            return read.saturating_duration_since(since) >= GRACE;
        }
        let left = self.tree.populated().unwrap_or(false) || self.tree.kill_strays() > 0;
        if !left {
            ending.empty = Some(Instant::now());
        }
        false
    }

    /// What the next agent needs of it.
    pub fn saved(&self, position: u32) -> Saved {
        Saved {
            position,
            policy: self.policy.clone(),
            standby: self.standby.clone(),
            launch: self.launch.clone(),
            uid: self.uid,
            started_ns: self.started_ns,
            is_scattered: self.tree.is_scattered(),
            isolated: self.isolated,
        }
    }
}

/// Refuses a launch that is not of a waiting child of the caller's own.
///
/// # Errors
/// Says what is wrong.
pub fn check_child(caller: Caller, child: u32) -> Result<(), Refusal> {
    let status = fs::read_to_string(format!("/proc/{child}/status"))
        .map_err(|_| Refusal::Wrong(format!("there is no process {child} to put under watch")))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().map(|value| value.parse::<u32>().ok()).collect::<Option<Vec<_>>>()
    };
    let is_child = field("PPid:") == Some(vec![caller.pid]);
    let is_own = field("Uid:").is_some_and(|ids| ids.iter().all(|id| *id == caller.uid));
    if is_child && (is_own || caller.is_root()) {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!(
        "process {child} is no child of process {} that asks, or not of the same user",
        caller.pid
    )))
}

/// Rules for a launch; the caller may tighten what they say, and nothing else. `by_others`: others
/// have started it, and there is no caller.
///
/// # Errors
/// What is wrong with the rules or with what was asked.
pub fn load(
    search: &SearchPath,
    caller: Caller,
    uid: u32,
    launch: &Launch,
    by_others: Option<ByOthers>,
) -> Result<Loaded, Refusal> {
    let text = |bytes: &Bytes| OsStr::from_bytes(bytes.as_bytes()).to_owned();
    let start = Start {
        command: launch.command.iter().map(text).collect(),
        environment: launch
            .environment
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect::<BTreeMap<OsString, OsString>>(),
        cwd: text(&launch.cwd).into(),
        by_others,
    };
    let home = launch.home.as_ref().map(|home| PathBuf::from(text(home)));
    if home.is_some() && !caller.is_root() {
        return Err(Refusal::Forbidden(
            "only root says with --home which directory rules mean by ${HOME}".to_owned(),
        ));
    }
    let wrong = |error: &dyn std::error::Error| Refusal::Wrong(error.to_string());
    let bindings =
        Bindings::of_start(uid, home.as_deref(), start).map_err(|error| wrong(&error))?;
    let server = launch.server.as_deref();
    let mut loaded = rules::load(search, server, &bindings).map_err(|error| wrong(&error))?;
    if loaded.is_default && launch.mode == Some(Mode::Enforce) && server.is_some() {
        return Err(Refusal::NotFound(format!(
            "there are no rules for server {} to enforce: write /etc/mcp-monitor/rules.d/servers/{}.toml",
            loaded.server, loaded.server
        )));
    }
    loaded.mode = match (loaded.mode, launch.mode) {
        (_, Some(Mode::Enforce)) => rules::Mode::Enforce,
        (rules::Mode::Enforce, Some(Mode::Observe)) if !caller.is_root() => {
            return Err(Refusal::Forbidden(format!(
                "the rules of server {} are enforced on this host: only root may observe instead",
                loaded.server
            )));
        }
        (_, Some(Mode::Observe)) => rules::Mode::Observe,
        (mode, None) => mode,
    };
    Ok(loaded)
}

/// Compiles them.
///
/// # Errors
/// When they exceed the tables.
pub fn compile(known: &mut Tables, loaded: &Loaded) -> Result<Arc<Compiled>, Refusal> {
    let compiled = rules::compile_among(known, loaded);
    compiled.map(Arc::new).map_err(|error| Refusal::Wrong(error.to_string()))
}

/// A cgroup with a number that no instance has.
///
/// # Errors
/// When there is no room for it.
pub fn place(fresh_number: impl FnMut() -> u32) -> Result<(u32, Cgroup), Refusal> {
    Cgroup::create(fresh_number).map_err(|error| Refusal::Failed(error.to_string()))
}

/// The tree of an instance in its cgroup.
pub fn tree(cgroup: Cgroup, instance: u32, tags: Rc<Tags>) -> Tree {
    Tree::new(cgroup, Box::new(move || tags.members(instance)))
}

/// The tree of a server that others have started.
pub fn scattered(instance: u32, tags: Rc<Tags>) -> Tree {
    Tree::scattered(Box::new(move || tags.members(instance)))
}

/// A number that no instance has.
pub fn fresh_number(taken: impl Fn(u32) -> bool) -> u32 {
    loop {
        let number = RandomState::new().hash_one(std::process::id()) as u32;
        // The last ones stand for what is no server: see the kernel side.
        if (1..FIRST_RESERVED).contains(&number) && !taken(number) {
            return number;
        }
    }
}

/// The rules of an instance as an earlier agent had put them in force.
pub fn recompile(known: &mut Tables, policy: &PolicyText) -> Result<Arc<Compiled>, String> {
    let loaded = rules::load_recorded(policy, None).map_err(|error| error.to_string())?;
    let loaded = loaded.ok_or("the state of the agent before this one is incomplete")?;
    rules::compile_among(known, &loaded).map(Arc::new).map_err(|error| error.to_string())
}

/// Whether a process is in the cgroup of an instance.
pub fn is_inside(pid: u32) -> bool {
    crate::launch::cgroup::is_process_inside_an_instance(Pid::from_raw(pid as i32))
}

/// The cgroup that an instance of an earlier agent lives in.
///
/// # Errors
/// When it has gone.
pub fn find(instance: u32) -> Result<Cgroup, crate::launch::cgroup::CgroupError> {
    let parent: &Path = &crate::launch::cgroup::parent()?;
    Cgroup::open(&parent.join(instance.to_string()))
}
