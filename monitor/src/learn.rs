//! Rules from recordings: reads them twice, first for the programs that ran, which say what
//! building blocks to include, then for what these do not allow.
//!
//! What the sets protect and what was refused is never learned, only told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    sync::Arc,
};

use monitor_common::{
    network,
    policy::{Decision, access, decide_one, reason, set, verdict},
    record::enforced,
};
use thiserror::Error;

use crate::{
    enrich::subject,
    event::{Body, Contact, Event, Exec, PolicyText, Shown, World},
    judge,
    replay::{Parsed, ReplayError, Source as Lines},
    rules::{
        self, Bindings, Compiled, RuleError, SearchPath, Source, SourceKind,
        learn::{Learned, Learner, List, Peer, Places, new_file},
    },
    segment::Recording,
};

/// A pause after which activity counts as another stretch, ns.
const PAUSE_NS: u64 = 100_000_000;
/// Servers that a message names.
const SERVERS_MAX: usize = 20;
/// Starts of a server that are told apart.
const STARTS_MAX: usize = 1000;

/// Building blocks by the program that asks for them. What stands first includes those behind it.
const INCLUDES: [(&str, &[&str]); 6] = [
    ("npx", &["npx", "npm", "npx-cli.js", "npm-cli.js"]),
    ("uvx", &["uvx", "uv"]),
    ("node", &["node", "nodejs"]),
    ("python", &["python", "python3"]),
    ("git", &["git"]),
    ("browser", &["chromium", "chromium-browser", "chrome", "google-chrome"]),
];

/// What is learned from.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The server that the rules are for.
    pub server: Option<String>,
    /// Includes are looked for here first.
    pub rules: Option<PathBuf>,
    /// The text of a rule file that is to be extended, and its path.
    pub merge: Option<(String, String)>,
}

/// What came of it.
#[derive(Debug)]
pub struct Lesson {
    /// The server.
    pub server: String,
    /// The file that is extended, or a new one with nothing but its includes.
    pub base: String,
    /// What it does not allow yet.
    pub learned: Learned,
    /// Events of the server.
    pub events: u64,
    /// Starts of the server.
    pub starts: u64,
    /// Accesses that includes or the file allow already.
    pub covered: u64,
    /// Accesses that are in no rule, since there were too many different ones.
    pub dropped: u64,
    /// The recordings do not hold all types of events.
    pub partial: bool,
    /// Events that the recordings lack by their own account.
    pub lost: u64,
}

/// Why nothing can be learned.
#[derive(Debug, Error)]
pub enum LearnError {
    /// The recordings cannot be read.
    #[error(transparent)]
    Read(#[from] ReplayError),
    /// The includes, or the file to extend, cannot be used.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// There are events of no server, or of several.
    #[error("the recordings hold these servers, name one with --server: {0}")]
    Which(String),
    /// There is nothing of it.
    #[error("the recordings hold nothing of server {0}: they have {1}")]
    None(String, String),
    /// A recording without what its rules rest on.
    #[error("the recording of server {0} does not say how it was started: record it anew")]
    World(String),
}

/// Learns from recordings.
///
/// # Errors
/// When they cannot be read, hold nothing of the server, or when rules cannot be used.
pub fn learn(recordings: &[Recording], options: &Options) -> Result<Lesson, LearnError> {
    let mut survey = Survey::default();
    each_line(recordings, &mut |line| survey.line(line))?;
    let recorded = survey.server(options.server.as_deref())?;
    let server = options.server.clone().unwrap_or_else(|| recorded.clone());
    let includes = survey.includes(&recorded);
    let (path, base) = match &options.merge {
        Some((path, text)) => (path.clone(), text.clone()),
        None => (String::new(), new_file(&server, &includes)),
    };
    let text = Source { kind: SourceKind::Server, name: server.clone(), path, text: base.clone() };
    let search = SearchPath::new(options.rules.as_deref()).with_first(Arc::new(text));
    let mut pupil = Pupil::new(search, server.clone(), recorded);
    each_line(recordings, &mut |line| pupil.line(line))?;
    if let Some(error) = pupil.failed {
        return Err(error);
    }
    Ok(Lesson {
        server,
        base,
        learned: pupil.learner.learned(),
        events: pupil.events,
        starts: pupil.starts,
        covered: pupil.learner.covered,
        dropped: pupil.learner.dropped,
        partial: pupil.partial,
        lost: pupil.lost,
    })
}

fn each_line(recordings: &[Recording], each: &mut dyn FnMut(Parsed)) -> Result<(), ReplayError> {
    for recording in recordings {
        Lines::of(recording).each(&mut |lines, _| {
            lines.into_iter().for_each(|(_, line)| each(line));
            Ok(())
        })?;
    }
    Ok(())
}

/// The servers of the recordings, and the programs that each ran.
#[derive(Default)]
struct Survey {
    servers: BTreeMap<String, BTreeSet<&'static str>>,
}

impl Survey {
    fn line(&mut self, line: Parsed) {
        let Parsed::Event(event) = line else { return };
        if event.observed.is_none() || event.is_alert() {
            return;
        }
        if !self.servers.contains_key(&*event.server) {
            if self.servers.len() >= SERVERS_MAX {
                return;
            }
            self.servers.insert(event.server.to_string(), BTreeSet::new());
        }
        let Some(includes) = self.servers.get_mut(&*event.server) else { return };
        match &event.body {
            Body::Exec(exec) => {
                for path in programs(exec) {
                    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                    let name = String::from_utf8_lossy(name);
                    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
                    let asked = |known: &&str| **known == *name || **known == *plain;
                    let block = INCLUDES.iter().find(|(_, names)| names.iter().any(asked));
                    includes.extend(block.map(|(include, _)| *include));
                }
            }
            Body::Connect(contact) | Body::Send(contact) if network::is_dns(&contact.peer) => {
                includes.insert("dns");
            }
            _ => {}
        }
    }

    /// The name under which the wanted server was recorded: its own, or that of servers without
    /// rules.
    fn server(&self, wanted: Option<&str>) -> Result<String, LearnError> {
        let names = || self.servers.keys().cloned().collect::<Vec<_>>().join(", ");
        match wanted {
            Some(name) if self.servers.contains_key(name) => Ok(name.to_owned()),
            Some(_) if self.servers.contains_key(rules::DEFAULT) => Ok(rules::DEFAULT.to_owned()),
            Some(name) => Err(LearnError::None(name.to_owned(), names())),
            None => match self.servers.keys().next() {
                Some(name) if self.servers.len() == 1 && name != rules::DEFAULT => Ok(name.clone()),
                _ => Err(LearnError::Which(names())),
            },
        }
    }

    fn includes(&self, server: &str) -> Vec<&'static str> {
        let Some(asked) = self.servers.get(server) else { return Vec::new() };
        let has = |include: &str| asked.contains(include);
        let implied = |include: &str| match include {
            "node" => has("npx"),
            "python" => has("uvx"),
            "dns" => has("npx") || has("uvx") || has("browser"),
            _ => false,
        };
        let order = INCLUDES.iter().map(|(include, _)| *include).chain(["dns"]);
        let mut includes: Vec<_> = order.filter(|name| has(name) && !implied(name)).collect();
        if includes.is_empty() {
            includes.push("base");
        }
        includes
    }
}

/// One start: what its rules will be made with, and what the base allows already.
struct Start {
    places: Places,
    allowed: Compiled,
}

struct Pupil {
    search: SearchPath,
    /// The name of the rules, and that of the recording.
    server: String,
    recorded: String,
    /// Of the run that is being read.
    run: Option<(String, u64)>,
    starts_by_policy: HashMap<u32, Arc<Start>>,
    last_ns: u64,
    learner: Learner,
    events: u64,
    starts: u64,
    partial: bool,
    lost: u64,
    failed: Option<LearnError>,
}

impl Pupil {
    fn new(search: SearchPath, server: String, recorded: String) -> Self {
        Self {
            search,
            server,
            recorded,
            run: None,
            starts_by_policy: HashMap::new(),
            last_ns: 0,
            learner: Learner::default(),
            events: 0,
            starts: 0,
            partial: false,
            lost: 0,
            failed: None,
        }
    }

    fn line(&mut self, line: Parsed) {
        match line {
            _ if self.failed.is_some() => {}
            Parsed::Header(line) => {
                let run = (line.header.boot_id.clone(), line.header.began_ns);
                if self.run.as_ref() != Some(&run) {
                    self.run = Some(run);
                    self.starts_by_policy.clear();
                    self.pause();
                }
                line.header.policies.iter().for_each(|policy| self.policy(policy));
            }
            Parsed::Event(event) => match &event.body {
                Body::Policy { action, policy } if action == "install" => self.policy(policy),
                Body::Loss(loss) => self.lost = self.lost.saturating_add(loss.count),
                _ if *event.server == *self.recorded && !event.is_alert() => self.event(&event),
                _ => {}
            },
            Parsed::Other => {}
        }
    }

    fn policy(&mut self, policy: &PolicyText) {
        let known = self.starts_by_policy.contains_key(&policy.policy);
        if policy.server != self.recorded || known || self.starts_by_policy.len() >= STARTS_MAX {
            return;
        }
        match self.start(policy) {
            Ok(start) => {
                self.starts += 1;
                self.starts_by_policy.insert(policy.policy, Arc::new(start));
            }
            Err(error) => self.failed = Some(error),
        }
    }

    fn start(&mut self, policy: &PolicyText) -> Result<Start, LearnError> {
        let Some(world) = &policy.world else {
            return Err(LearnError::World(policy.server.clone()));
        };
        self.partial |=
            rules::load_recorded(policy, None)?.is_some_and(|loaded| !loaded.records_all());
        let loaded = rules::load(&self.search, Some(&self.server), &bindings(world))?;
        Ok(Start { places: Places::of(world), allowed: rules::compile(&loaded)? })
    }

    fn pause(&mut self) {
        if self.events != 0 {
            self.learner.next_stretch();
        }
        self.last_ns = 0;
    }

    fn event(&mut self, event: &Event) {
        let Some(observed) = &event.observed else { return };
        let Some(start) = self.starts_by_policy.get(&observed.policy).cloned() else { return };
        if self.last_ns != 0 && event.boot_ns.saturating_sub(self.last_ns) >= PAUSE_NS {
            self.learner.next_stretch();
        }
        self.last_ns = event.boot_ns.max(self.last_ns);
        self.events += 1;
        let refused = event.violation.as_ref().is_some_and(|it| it.answered != enforced::NONE);
        let mut study = Study { event, start: &start, refused, learner: &mut self.learner };
        match &event.body {
            // The command that the person launched needs no rule.
            Body::Exec(_) if observed.process.image.exe.is_empty() => {}
            Body::Exec(exec) => {
                programs(exec).for_each(|path| study.path(Some(path), 0, access::EXEC));
            }
            Body::Connect(contact) | Body::Send(contact) => study.contact(contact, List::Connect),
            Body::Listen(contact) if contact.file.is_none() => study.contact(contact, List::Listen),
            Body::Socket(_) => study.hold("no rule allows this kind of socket", "connect"),
            _ => judge::cases_of(event)
                .for_each(|case| study.path(case.path, case.classes, case.asked)),
        }
    }
}

/// One event.
struct Study<'a> {
    event: &'a Event,
    start: &'a Start,
    refused: bool,
    learner: &'a mut Learner,
}

impl Study<'_> {
    /// What is asked of a path, as the base decides about it. `None` for what has none.
    fn path(&mut self, path: Option<&[u8]>, classes: u32, asked: u8) {
        const LISTS: [List; access::COUNT] =
            [List::Read, List::Write, List::Exec, List::Connect, List::Listen, List::Unix];
        let start = self.start;
        let allowed = &start.allowed;
        let classes = classes | path.map_or(0, |path| allowed.classify_path(path));
        let mut written = false;
        // Writing first: what may be written may be read.
        for bit in [1, 0, 2, 3, 4, 5].into_iter().filter(|bit| asked >> bit & 1 == 1) {
            let decision = decide_one(&allowed.policy, classes, bit);
            if LISTS[bit] == List::Read && written || self.is_settled(decision) {
                continue;
            }
            let Some(path) = path.filter(|path| !path.is_empty()) else {
                self.hold("without a path", access::NAMES[bit]);
                continue;
            };
            written |= LISTS[bit] == List::Write;
            let (event, places) = (self.event, &start.places);
            match path.starts_with(b"/") {
                true => self.learner.path(LISTS[bit], path, places, &|| example(event)),
                false => self.learner.abstract_socket(LISTS[bit], path, &|| example(event)),
            }
        }
    }

    fn contact(&mut self, contact: &Contact, list: List) {
        let Some(address) = contact.socket_address() else { return };
        let start = self.start;
        let allowed = &start.allowed;
        let protocol = network::protocol::of(&contact.peer);
        let (to, port) = (contact.peer.address, contact.peer.port);
        let (bit, classes) = match list {
            List::Listen => (4, allowed.classify_local(to, port, protocol)),
            _ => (3, allowed.classify_address(to, port, protocol)),
        };
        if !self.is_settled(decide_one(&allowed.policy, classes, bit)) {
            let peer = Peer { address, protocol, host: contact.name.as_deref() };
            let (event, places) = (self.event, &start.places);
            self.learner.address(list, &peer, places, &|| example(event));
        }
    }

    /// Whether nothing is to be learned: it is allowed already, or not for us to allow.
    fn is_settled(&mut self, decision: Decision) -> bool {
        let access = access::NAMES[decision.access.trailing_zeros() as usize];
        match decision.reason {
            reason::SET if decision.verdict > verdict::ALLOW => {
                self.hold(set::NAMES[usize::from(decision.set)], access);
            }
            reason::DENY => self.hold("denied by the file", access),
            _ if decision.verdict == verdict::ALLOW => self.learner.covered += 1,
            _ if self.refused => self.hold("refused when it was recorded", access),
            _ => return false,
        }
        true
    }

    fn hold(&mut self, why: &'static str, access: &'static str) {
        let (event, what) = (self.event, subject(&self.event.body));
        let places = &self.start.places;
        self.learner.hold(why, access, what.as_bytes(), places, &|| example(event));
    }
}

/// What an event was about, and who did it.
fn example(event: &Event) -> String {
    let exe = event.observed.as_ref().map(|observed| observed.process.image.exe.as_bytes());
    let exe = exe.unwrap_or_default().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    format!("{} by {}", subject(&event.body).shown(), Shown(exe))
}

/// The program that an exec runs, and the script that led to it.
fn programs(exec: &Exec) -> impl Iterator<Item = &[u8]> {
    let script = (!exec.interpreter.is_empty()).then(|| exec.interpreter.as_bytes());
    [Some(exec.file.path.as_bytes()), script].into_iter().flatten().filter(|path| !path.is_empty())
}

/// Values of variables as they were, links as they are here: what is included now was not known to
/// the recording.
fn bindings(world: &World) -> Bindings {
    let mut bindings = Bindings { elsewhere: None, ..Bindings::of_world(world) };
    for (name, values) in &world.values {
        if let (Some(name), [value, ..]) = (name.strip_prefix("ENV:"), values.as_slice()) {
            let value = std::ffi::OsStr::from_bytes(value.as_bytes()).to_owned();
            bindings.env.insert(name.into(), value);
        }
    }
    bindings
}
