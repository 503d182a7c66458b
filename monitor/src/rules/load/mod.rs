//! A server's rules with everything they name put in: includes, variables, sets.

mod grants;
mod limits;
mod loader;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use grants::{granted, isolation, load_granted, parse_grant, without_effect};
use loader::Loader;
use monitor_common::policy::{Label, access, class, detector, set, verdict};

use super::{
    Bindings, Finding, RuleError, SearchPath, Severity, Source, SourceKind,
    address::{Destination, NamedDestination},
    parse::{self, Document, Match, RECORD_ALL},
    pattern::{self, Pattern, Piece},
    search::is_name,
    source::Origin,
};
use crate::{
    detect::{GENERATION, Limits},
    event::{PolicyText, SourceText, World},
};

/// The include under which the agent answers the server's DNS; rules that name hosts take it in by
/// themselves.
const NAMES: &str = "names";

/// Name of the policy of servers that have no rule file.
pub const DEFAULT: &str = "default";

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are recorded.
    Observe,
    /// They are carried out.
    Enforce,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        })
    }
}

/// `[resources]`: what the instance's cgroup may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Time of processors, in percent of one.
    pub cpu: Option<u64>,
}

/// A pattern and what it means.
#[derive(Clone, Debug)]
pub(in crate::rules) struct PathRule {
    /// With its prefix resolved.
    pub pattern: Pattern,
    /// Bits of [`class`].
    pub class: u32,
    /// Where it stands.
    pub origin: Arc<Origin>,
    /// A symbolic link on the way to the pattern's own path, which must not be replaced.
    pub is_link: bool,
    /// The pattern before links were followed, when it was another.
    pub before: Option<String>,
}

/// Arguments that a program may have, without alternatives.
#[derive(Clone, Debug)]
pub(in crate::rules) struct VectorRule {
    /// Its path, with the prefix resolved.
    pub program: Pattern,
    /// Each argument behind argv\[0\].
    pub arguments: Vec<Vec<Piece>>,
    /// Any others may follow.
    pub open: bool,
    /// Where it stands.
    pub origin: Arc<Origin>,
}

impl VectorRule {
    /// Whether it names these arguments of a program.
    pub fn matches(&self, program: &[u8], arguments: &[&[u8]]) -> bool {
        let Some((first, rest)) = arguments.split_at_checked(self.arguments.len()) else {
            return false;
        };
        let both = self.arguments.iter().zip(first);
        (self.open || rest.is_empty())
            && self.program.matches(program)
            && both.into_iter().all(|(own, argument)| pattern::argument_matches(own, argument))
    }
}

/// A destination and what it means.
#[derive(Clone, Debug)]
pub(in crate::rules) struct AddressRule {
    pub destination: Destination,
    /// Bits of [`class`].
    pub class: u32,
    pub origin: Arc<Origin>,
}

/// A host and what it means.
#[derive(Clone, Debug)]
pub(in crate::rules) struct NameRule {
    pub destination: NamedDestination,
    /// Bits of [`class`].
    pub class: u32,
    pub origin: Arc<Origin>,
}

/// The rules of one server.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The server.
    pub server: String,
    /// There is no rule file of that name: the default policy stands in.
    pub is_default: bool,
    /// Whether verdicts are carried out; `run --mode` may replace it before [`super::compile()`].
    pub mode: Mode,
    /// All texts that take part.
    pub sources: Vec<Arc<Source>>,
    /// The variables that the rules use, with their values (bytes beyond ASCII as `\xNN`, several
    /// values one a line). `sets:HOME` are the homes that the sets cover.
    pub bindings: BTreeMap<String, String>,
    /// What the machine has put into the rules: with it and the texts they can be loaded anywhere,
    /// see [`Bindings::of_world`].
    pub world: World,
    /// `[env] pass`: variables that the server is given although they look like secrets.
    pub pass: BTreeSet<String>,
    /// What its cgroup may use.
    pub resources: Resources,
    /// What may not be as meant.
    pub warnings: Vec<Finding>,
    /// Variables without a value because no command is known: what they allow is left out.
    pub open: BTreeSet<String>,
    pub(in crate::rules) record: u64,
    pub(in crate::rules) unlisted: [u8; access::COUNT],
    pub(in crate::rules) unlisted_origins: [Option<Arc<Origin>>; access::COUNT],
    pub(in crate::rules) set_verdict: [u8; set::COUNT],
    pub(in crate::rules) set_access: [u8; set::COUNT],
    pub(in crate::rules) matches: Vec<(Arc<Source>, Match)>,
    /// Counts and verdicts of the detectors; `enforce` follows `mode` when it is compiled.
    pub(in crate::rules) limits: Limits,
    /// Stated for reading environments and memory; else the processes set's verdict holds.
    pub(in crate::rules) env_secret: Option<u8>,
    pub(in crate::rules) paths: Vec<PathRule>,
    pub(in crate::rules) vectors: Vec<VectorRule>,
    pub(in crate::rules) addresses: Vec<AddressRule>,
    pub(in crate::rules) names: Vec<NameRule>,
    /// The agent answers the server's DNS.
    pub(in crate::rules) answers_dns: bool,
    pub(in crate::rules) labels: Vec<(PathBuf, Label)>,
    pub(in crate::rules) labels_of_homes: Vec<(PathBuf, Label)>,
    pub(in crate::rules) loaders: Vec<Pattern>,
}

/// A pattern whose literal beginning is another path on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPattern {
    /// The file as people find it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// The entry with its variables' values.
    pub written: String,
    /// What the kernel will say instead.
    pub resolved: String,
}

/// Loads the rules of `server`, or the default policy when `None` or when there is no such file.
///
/// # Errors
/// Findings with file and line when a text is wrong, and files that cannot be read.
pub fn load(
    search: &SearchPath,
    server: Option<&str>,
    bindings: &Bindings,
) -> Result<Loaded, RuleError> {
    let server = server.unwrap_or(DEFAULT);
    if !is_name(server) {
        return Err(RuleError::Name(server.to_owned()));
    }
    let mut loader = Loader::new(search, bindings);
    let own = search.find(SourceKind::Server, server)?;
    let is_default = own.is_none();
    let source = match own {
        Some(source) => Some(source),
        None => search.find(SourceKind::Server, DEFAULT)?,
    };
    if let Some(source) = source {
        loader.document(&source)?;
        for drop_in in search.drop_ins(&source.name)? {
            loader.document(&drop_in)?;
        }
        for grant in search.grants() {
            loader.document(grant)?;
        }
    }
    loader.names()?;
    let sets = loader.sets()?;
    loader.rules();
    loader.into_loaded(server, is_default, &sets)
}

/// Loads the rules that a recording holds, or those of a directory in their place, as on the
/// machine that it is from; `None` when the recording does not hold enough of that machine.
///
/// # Errors
/// As [`load`].
pub fn load_recorded(
    recorded: &PolicyText,
    instead: Option<&Path>,
) -> Result<Option<Loaded>, RuleError> {
    let Some(world) = &recorded.world else { return Ok(None) };
    let bindings = Bindings::of_world(world);
    let kinds = [
        SourceKind::Server,
        SourceKind::DropIn,
        SourceKind::Grant,
        SourceKind::Include,
        SourceKind::Set,
    ];
    let texts = recorded.sources.iter().filter_map(|source| {
        let kind = kinds.into_iter().find(|kind| kind.name() == source.kind)?;
        let SourceText { name, path, text, .. } = source.clone();
        Some(Arc::new(Source { kind, name, path, text }))
    });
    let search = match instead {
        Some(rules) => SearchPath::instead_of(rules, texts.collect()),
        None => SearchPath::recorded(texts.collect()),
    };
    let mut loaded = load(&search, Some(&recorded.server), &bindings)?;
    if instead.is_none() {
        if recorded.detectors == 0 {
            loaded.limits.verdicts = [verdict::ALLOW; detector::COUNT];
        } else if recorded.detectors < 2 {
            loaded.limits.verdicts[detector::DNS_BURST] = verdict::ALLOW;
        }
        loaded.mode = if recorded.is_enforced() { Mode::Enforce } else { Mode::Observe };
    }
    Ok(Some(loaded))
}

impl Loaded {
    /// Takes over what a server's file or drop-in says once; what is said later counts.
    fn respond(&mut self, document: &Document) {
        self.mode = document.response.mode.unwrap_or(self.mode);
        self.record = document.record.unwrap_or(self.record);
        let Resources { memory, pids, cpu } = document.resources;
        self.resources.memory = memory.or(self.resources.memory);
        self.resources.pids = pids.or(self.resources.pids);
        self.resources.cpu = cpu.or(self.resources.cpu);
        for (bit, verdict, span) in &document.response.unlisted {
            let name = access::NAMES[*bit];
            self.unlisted[*bit] = *verdict;
            self.unlisted_origins[*bit] = Some(Arc::new(Origin {
                source: document.source.clone(),
                span: span.clone(),
                list: format!("response.unlisted.{name}"),
                written: verdict::NAMES[usize::from(*verdict)].to_owned(),
            }));
        }
        for (set, verdict) in &document.response.sets {
            self.set_verdict[*set] = *verdict;
        }
        let env_secret = |it: &&(usize, u8, _)| it.0 == detector::ENV_SECRET;
        let stated = document.response.detectors.iter().find(env_secret);
        self.env_secret = stated.map(|(_, verdict, _)| *verdict).or(self.env_secret);
    }

    /// Warns of allows that name a member of a set: the set decides, however plainly it is named.
    fn warn_of_sets(&mut self) {
        const READ: u32 = class::READ;
        const RUNTIME: u32 = class::READ | class::RUNTIME;
        let is_set = |rule: &&PathRule| rule.class & class::SETS != 0;
        let mut warnings = Vec::new();
        for rule in self.paths.iter().filter(|rule| !is_set(rule) && !rule.is_link) {
            let asked = match rule.class {
                READ | RUNTIME => access::READ,
                class::WRITE => access::WRITE,
                class::EXEC | class::ARGUMENTS => access::EXEC,
                class::UNIX => access::UNIX,
                _ => continue,
            };
            let tree = rule.pattern.rest == [pattern::Component::Recursive];
            if !tree && !rule.pattern.rest.is_empty() {
                continue;
            }
            let member = |other: &&PathRule| other.pattern.matches(&rule.pattern.prefix);
            let decides = |other: &&PathRule| {
                set_of(other.class).filter(|set| {
                    self.set_access[*set] & asked != 0 && self.set_verdict[*set] > verdict::ALLOW
                })
            };
            let sets = self.paths.iter().filter(is_set).filter(member);
            let Some(set) = sets.filter_map(|other| decides(&other)).next() else { continue };
            let set = set::NAMES[set];
            warnings.push(Finding {
                severity: Severity::Warning,
                message: format!(
                    "this belongs to the {set} set, which outranks {}",
                    rule.origin.list
                ),
                help: Some("name it in files.allow_secret if the server may touch it".to_owned()),
                source: rule.origin.source.clone(),
                span: rule.origin.span.clone(),
            });
        }
        for warning in warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// Number of entries of `[[match]]`.
    pub fn matches(&self) -> usize {
        self.matches.len()
    }

    /// The rules with all that they rest on, as recordings hold them.
    pub fn text(&self, policy: u32, instance: u32) -> PolicyText {
        PolicyText {
            policy,
            server: self.server.clone(),
            instance,
            mode: self.mode.to_string(),
            sources: self.sources.iter().map(|source| SourceText::from(&**source)).collect(),
            bindings: self.bindings.clone(),
            detectors: GENERATION,
            world: Some(self.world.clone()),
        }
    }

    /// Whether everything is recorded, so that what is not in a recording was not done.
    pub fn records_all(&self) -> bool {
        self.record & RECORD_ALL == RECORD_ALL
    }

    /// Patterns that lead through symbolic links of this machine.
    pub fn resolved(&self) -> Vec<ResolvedPattern> {
        let moved = self.paths.iter().filter_map(|rule| {
            Some(ResolvedPattern {
                file: rule.origin.source.path.clone(),
                line: rule.origin.source.line(rule.origin.span.start),
                written: rule.before.clone()?,
                resolved: rule.pattern.display(),
            })
        });
        moved.collect()
    }
}

/// The set that a class bit belongs to.
pub(in crate::rules) fn set_of(class: u32) -> Option<usize> {
    (0..set::COUNT).find(|set| class & class::of_set(*set) != 0)
}

/// What is wrong with the form of any text of the search path, used or not.
///
/// # Errors
/// When a file or directory cannot be read.
pub fn audit(search: &SearchPath) -> Result<Vec<Finding>, RuleError> {
    let mut all = Vec::new();
    for kind in [SourceKind::Server, SourceKind::Include, SourceKind::Set] {
        for name in search.names(kind)? {
            let Some(source) = search.find(kind, &name)? else { continue };
            let result = match kind {
                SourceKind::Set => parse::set(&source).map(drop),
                _ => parse::document(&source).map(drop),
            };
            all.extend(result.err().unwrap_or_default());
        }
    }
    for server in search.names_with_drop_ins()? {
        let is_used = search.find(SourceKind::Server, &server)?.is_some();
        for source in search.drop_ins(&server)? {
            all.extend(parse::document(&source).err().unwrap_or_default());
            if !is_used {
                all.push(Finding {
                    severity: Severity::Warning,
                    message: format!("there is no servers/{server}.toml that this could add to"),
                    help: Some("write it, or name the folder after a server".to_owned()),
                    source,
                    span: 0..0,
                });
            }
        }
    }
    Ok(all)
}
