//! Servers that others start: the kernel side holds them at their exec until they are under their
//! rules, and what runs already when rules begin to name it is adopted with its descendants.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use monitor_common::{
    policy::{HELD_INSTANCE, mode},
    record::{Record, kind},
};

use super::{
    container, instances,
    lifecycle::Beginning,
    process::{self, Process},
    report,
    request::{Caller, Refusal},
    watch::Watch,
};
use crate::{
    decode,
    enrich::clock,
    kernel::{Held, Kernel, KernelError},
    rules::{Automaton, Matcher, SearchPath},
};

/// How long a process that is held may take until it stands still. One that somebody else has let
/// go on runs, and is refused everything all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// By what servers are known.
#[derive(Debug, Default)]
pub struct Matching {
    matcher: Matcher,
    /// Processes are held that do not stand still yet.
    pub is_waiting: bool,
    /// Processes that cannot be adopted, while others are.
    left_alone: HashSet<u32>,
}

/// Reads the matches of all rules, and makes them a table; and says what is wrong with them.
pub fn load(search: &SearchPath) -> (Matching, Option<Automaton>, Vec<String>) {
    let (matcher, findings) = match Matcher::load(search) {
        Ok(loaded) => loaded,
        Err(error) => return (Matching::default(), None, vec![error.to_string()]),
    };
    let mut wrong: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let own = Process::look_at(std::process::id());
    if let Some(server) = own.and_then(|own| matcher.server_of(&own.traits()).map(str::to_owned)) {
        wrong.push(format!(
            "the matches of server {server} fit the agent itself, which would wait for itself: \
             nothing is matched until they do not"
        ));
        return (Matching::default(), None, wrong);
    }
    match matcher.table() {
        Ok(table) => (Matching { matcher, ..Matching::default() }, table, wrong),
        Err(error) => {
            wrong.push(error.to_string());
            (Matching::default(), None, wrong)
        }
    }
}

impl Watch {
    /// Reads the matches again. What is wrong with any of them leaves all as they were.
    pub(super) fn reload_matches(&mut self) {
        let (matching, table, wrong) = load(&self.search);
        if !wrong.is_empty() {
            for message in wrong {
                let message = format!("the matches before stay in force: {message}");
                self.pipeline.agent(0, "reload", &message);
            }
            return;
        }
        match self.kernel.match_by(table.as_ref()) {
            Ok(()) => self.matching = matching,
            Err(error) => self.pipeline.agent(0, "kernel", &error.to_string()),
        }
        self.adopt_running();
    }

    /// Puts what is held under its rules, and lets go what is no longer tagged as held.
    pub(super) fn take_in_held(&mut self) {
        self.matching.is_waiting = false;
        for Held { tgid, since_ns } in self.kernel.held() {
            let Some(process) = Process::look_at(tgid) else {
                self.kernel.forget_held(tgid);
                continue;
            };
            let age = clock::boot_ns().saturating_sub(since_ns);
            if !process.is_stopped() && Duration::from_nanos(age) < PATIENCE {
                // It is still on its way out of the kernel, where it would be stopped again.
                self.matching.is_waiting = true;
                continue;
            }
            if self.is_held(tgid) {
                self.take_in(&process, since_ns);
            }
            // Also one that was adopted while it was being held. Nobody else is let go: who stops a
            // process otherwise has reasons.
            if !self.is_held(tgid) && self.kernel.forget_held(tgid) {
                process.signal(libc::SIGCONT);
            }
        }
    }

    fn is_held(&self, tgid: u32) -> bool {
        self.tags.instance_of(tgid) == Some(HELD_INSTANCE)
    }

    fn take_in(&mut self, process: &Process, since_ns: u64) {
        let tgid = process.tgid;
        let of_parent = self.tags.instance_of(process.parent);
        if let Some(number) = of_parent.filter(|number| self.instances.contains_key(number)) {
            // Forked while it was held, by one that no longer is.
            let joined = self.kernel.take_in(tgid, number, false);
            return self.tell_refusal(joined);
        }
        let Some(server) = self.matching.matcher.server_of(&process.traits()).map(str::to_owned)
        else {
            let untagged = self.kernel.untag(tgid);
            return self.tell_refusal(untagged);
        };
        match self.begin_around(process, &server) {
            Ok(number) => {
                let held = Duration::from_nanos(clock::boot_ns().saturating_sub(since_ns));
                let message = format!(
                    "process {tgid} ({}), started by process {}, is server {server}; held for {} ms",
                    printable(&process.exe),
                    process.parent,
                    held.as_millis()
                );
                self.pipeline.agent(number, "matched", &message);
            }
            Err(refusal) => {
                process.signal(libc::SIGKILL);
                self.kernel.forget_held(tgid);
                let message = format!(
                    "process {tgid} ({}) is server {server}, and was killed before it ran, because \
                     it cannot be put under its rules: {refusal}",
                    printable(&process.exe)
                );
                self.pipeline.agent(0, "match", &message);
            }
        }
    }

    /// Of the kernel's; what it concerns stays held, and is looked at again.
    fn tell_refusal(&mut self, done: Result<(), KernelError>) {
        if let Err(error) = done {
            self.pipeline.agent(0, "kernel", &error.to_string());
        }
    }

    /// Makes an instance around a process, and tells of the program that it runs.
    fn begin_around(&mut self, process: &Process, server: &str) -> Result<u32, Refusal> {
        self.quarantine.check(Some(server))?;
        let launch = process.launch(server);
        let caller = Caller { pid: process.tgid, uid: process.uid };
        let search = self.search_of(Some(server), None);
        let by_others = Some(container::of_process(process.tgid));
        let loaded = instances::load(&search, caller, process.uid, &launch, by_others)?;
        let number = self.fresh_number();
        let tree = instances::scattered(number, self.tags.clone());
        let begun = Beginning { number, tree, launch, loaded, uid: process.uid };
        let exe = process.exe.as_slice();
        self.begin(begun, |kernel, compiled| {
            kernel.take_in(process.tgid, number, compiled.is_loader(exe))
        })?;
        self.look_outside(number, process.tgid);
        self.tell(process, number);
        Ok(number)
    }

    /// The event of the exec that nobody has seen.
    fn tell(&mut self, process: &Process, number: u32) {
        let Some(instance) = self.instances.get(&number) else { return };
        let Ok(Some(start_ns)) = self.kernel.start_of(process.handle()) else { return };
        let record = Record {
            instance: number,
            policy: instance.policy.policy,
            mode: if instance.policy.is_enforced() { mode::ENFORCE } else { mode::OBSERVE },
            time_ns: clock::boot_ns(),
            start_ns,
            ..decode::blank(kind::EXEC)
        };
        process.executed(&record, |record, strings| self.pipeline.told(record, strings));
    }

    /// Adopts what runs already and that the rules name, with its descendants.
    pub(super) fn adopt_running(&mut self) {
        if self.matching.matcher.is_empty() {
            return;
        }
        // Those beneath others of them belong to these.
        while let Some((process, server)) = self.next_unwatched() {
            let tgid = process.tgid;
            match self.begin_around(&process, &server) {
                Ok(number) => self.adopt_descendants(&process, number),
                Err(refusal) => {
                    self.matching.left_alone.insert(tgid);
                    let message = format!(
                        "process {tgid} ({}) is server {server}, and runs on unwatched, because it \
                         cannot be put under its rules: {refusal}",
                        printable(&process.exe)
                    );
                    self.pipeline.agent(0, "match", &message);
                }
            }
        }
        self.matching.left_alone.clear();
    }

    /// A process that is a server and is not watched, while none above it is one.
    fn next_unwatched(&self) -> Option<(Process, String)> {
        let is_free = |tgid: &u32| {
            *tgid > 1 && !self.tags.contains(*tgid) && !self.matching.left_alone.contains(tgid)
        };
        let mut servers = HashMap::new();
        let mut parents = HashMap::new();
        for process in process::all().filter(is_free).filter_map(Process::look_at) {
            parents.insert(process.tgid, process.parent);
            let server = self.matching.matcher.server_of(&process.traits()).map(str::to_owned);
            // Those of a `run` without the agent have a monitor of their own.
            if let Some(server) = server.filter(|_| !instances::is_inside(process.tgid)) {
                servers.insert(process.tgid, (process, server));
            }
        }
        let is_above = |tgid: u32| {
            let mut at = tgid;
            // As many steps as there are processes: numbers used again could lead in a circle.
            (0..parents.len()).any(|_| {
                at = parents.get(&at).copied().unwrap_or(0);
                servers.contains_key(&at)
            })
        };
        let top = servers.keys().copied().find(|tgid| !is_above(*tgid))?;
        servers.remove(&top)
    }

    /// Tags everything beneath a process of an instance that has run without us: again until there
    /// is nothing new, because what is tagged tags what it forks.
    fn adopt_descendants(&mut self, root: &Process, number: u32) {
        let mut reports = vec![self.report(root, number)];
        loop {
            let is_beneath = |tgid: &u32| !self.tags.contains(*tgid);
            let fresh: Vec<Process> = process::all()
                .filter(is_beneath)
                .filter_map(Process::look_at)
                .filter(|one| self.tags.instance_of(one.parent) == Some(number))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for one in fresh {
                if let Err(error) = self.kernel.take_in(one.tgid, number, false) {
                    self.pipeline.agent(number, "kernel", &error.to_string());
                    return;
                }
                self.tell(&one, number);
                reports.push(self.report(&one, number));
            }
        }
        for message in reports {
            self.pipeline.agent(number, "adopted", &message);
        }
        self.pipeline.agent(number, "adopted", report::UNKNOWN);
    }

    fn report(&self, process: &Process, number: u32) -> String {
        let policy = self.instances.get(&number).map(|instance| instance.policy.policy);
        let compiled = policy.and_then(|policy| self.pipeline.policy(policy));
        compiled.map_or_else(String::new, |compiled| report::of(process, &compiled))
    }

    /// Begins the end of instances that others have started and that have no process left.
    pub(super) fn notice_ends(&mut self) {
        let mut first_gone: Vec<u32> = Vec::new();
        for (number, instance) in &self.instances {
            let is_ours = !instance.tree.is_scattered() || instance.ending.is_some();
            if !is_ours && self.tags.instance_of(instance.launch.pid) != Some(*number) {
                first_gone.push(*number);
            }
        }
        if first_gone.is_empty() {
            return;
        }
        let alive = self.tags.instances();
        for number in first_gone.into_iter().filter(|number| !alive.contains(number)) {
            if let Some(instance) = self.instances.get_mut(&number) {
                instance.end(None);
            }
        }
    }
}

/// Has the kernel match by a table, unless it does already.
///
/// # Errors
/// When the kernel refuses.
pub fn put_in_force(kernel: &mut Kernel, table: Option<&Automaton>) -> Result<(), KernelError> {
    if kernel.is_matching() && table.is_some() { Ok(()) } else { kernel.match_by(table) }
}

/// A path as people read it.
fn printable(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
