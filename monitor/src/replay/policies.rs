//! The rules that recorded events were judged by, compiled again from what the recording holds,
//! and other rules in their place. Compiled when first needed; those that have not been needed for
//! longest are given up when together they grow too large.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use monitor_common::record::kind;
use thiserror::Error;

use super::{Rules, blocks::Place};
use crate::{
    event::{Body, PolicyText, World},
    rules::{self, RuleError},
    segment::{Kind, ReadError, Reader, recordings},
};

/// Bytes of one rule text, and of all that are known at one time.
const TEXT_MAX: usize = 256 << 10;
const TEXTS_MAX: usize = 32 << 20;
/// Homes, arguments, variables and links of one policy.
const FACTS_MAX: usize = 10_000;
/// Bytes of tables that are kept.
const TABLES_MAX: usize = 64 << 20;

/// Servers that a message names.
const SERVERS_MAX: usize = 20;

/// Why rules cannot be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A rule text that is none, or other rules that are wrong.
    #[error("{place}: the rules of server {server} cannot be used: {source}")]
    Rules {
        /// Where the policy stands.
        place: String,
        /// Whose.
        server: String,
        /// What is wrong.
        source: Box<RuleError>,
    },
    /// Not what we would have written.
    #[error("{place}: policy {policy} with {what}")]
    Value {
        /// Where the policy stands.
        place: String,
        /// Its number.
        policy: u32,
        /// What is wrong.
        what: &'static str,
    },
}

/// A policy as it was, and the other one to compare with.
#[derive(Clone)]
pub struct Pair {
    /// As it was.
    pub recorded: Rules,
    /// By other rules.
    pub other: Option<Rules>,
    /// Not everything was recorded.
    pub partial: bool,
}

struct Known {
    text: PolicyText,
    place: String,
    pair: Option<Pair>,
    used: u64,
}

/// See the module.
pub struct Policies {
    instead: Option<PathBuf>,
    known: HashMap<u32, Known>,
    texts: usize,
    uses: u64,
}

impl Policies {
    /// `instead` is the directory of other rules.
    pub fn new(instead: Option<PathBuf>) -> Self {
        Self { instead, known: HashMap::new(), texts: 0, uses: 0 }
    }

    /// Another run: its numbers mean other policies.
    pub fn clear(&mut self) {
        self.known.clear();
        self.texts = 0;
    }

    /// Learns of a policy. That it is known already, from an earlier segment, changes nothing.
    pub fn add(&mut self, text: &PolicyText, place: &Place) -> Result<(), PolicyError> {
        if self.known.get(&text.policy).is_some_and(|known| known.text == *text) {
            return Ok(());
        }
        let wrong = |what| {
            let (place, policy) = (place.to_string(), text.policy);
            Err(PolicyError::Value { place, policy, what })
        };
        self.retire(text.policy);
        let size = size(text);
        if text.sources.iter().any(|source| source.text.len() > TEXT_MAX) {
            return wrong("a rule text beyond 256 KiB");
        }
        if self.texts + size > TEXTS_MAX {
            return wrong("which the texts of all policies go beyond 32 MiB");
        }
        if text.world.as_ref().is_some_and(|world| facts(world) > FACTS_MAX) {
            return wrong("more than 10,000 homes, arguments, variables and links");
        }
        if !matches!(text.mode.as_str(), "observe" | "enforce") {
            return wrong("a mode that is neither observe nor enforce");
        }
        self.texts += size;
        let (text, place) = (text.clone(), place.to_string());
        self.known.insert(text.policy, Known { text, place, pair: None, used: 0 });
        Ok(())
    }

    /// Forgets a policy.
    pub fn retire(&mut self, policy: u32) {
        if let Some(known) = self.known.remove(&policy) {
            self.texts -= size(&known.text);
        }
    }

    /// The policy of that number; `None` when the recording does not hold it, or not enough of it.
    pub fn get(&mut self, policy: u32) -> Result<Option<Pair>, PolicyError> {
        self.uses += 1;
        let Some(known) = self.known.get_mut(&policy) else { return Ok(None) };
        known.used = self.uses;
        if let Some(pair) = &known.pair {
            return Ok(Some(pair.clone()));
        }
        let Some(pair) = known.compile(self.instead.as_deref())? else { return Ok(None) };
        known.pair = Some(pair.clone());
        self.make_room(policy);
        Ok(Some(pair))
    }

    fn make_room(&mut self, keep: u32) {
        let bytes = |known: &Known| known.pair.as_ref().map_or(0, Pair::bytes);
        while self.known.values().map(bytes).sum::<usize>() > TABLES_MAX {
            let compiled = self
                .known
                .values_mut()
                .filter(|known| known.pair.is_some() && known.text.policy != keep);
            let Some(oldest) = compiled.min_by_key(|known| known.used) else { return };
            oldest.pair = None;
        }
    }
}

impl Pair {
    fn bytes(&self) -> usize {
        let both = [Some(&self.recorded), self.other.as_ref()];
        let tables = both.into_iter().flatten().flat_map(|rules| &rules.tables);
        tables.map(|table| size_of_val(table.cells.as_slice())).sum()
    }
}

impl Known {
    fn compile(&self, instead: Option<&Path>) -> Result<Option<Pair>, PolicyError> {
        let compile = |instead: Option<&Path>| {
            let loaded = rules::load_recorded(&self.text, instead)?;
            loaded.map(|loaded| Ok(Arc::new(rules::compile(&loaded)?))).transpose()
        };
        let failed = |source: RuleError| PolicyError::Rules {
            place: self.place.clone(),
            server: self.text.server.clone(),
            source: Box::new(source),
        };
        let Some(recorded) = compile(None).map_err(failed)? else { return Ok(None) };
        let other = instead.map(|rules| compile(Some(rules)));
        let other = other.transpose().map_err(failed)?.flatten();
        let every = (1 << kind::END) - 2;
        let partial = recorded.policy.record & every != every;
        Ok(Some(Pair { recorded, other, partial }))
    }
}

/// The policy that was last in force for a server, or for the only one that there is.
///
/// # Errors
/// When the recordings cannot be read, hold no such policy, or policies of several servers.
pub fn last_policy(paths: &[PathBuf], server: Option<&str>) -> Result<PolicyText, LastError> {
    let (mut last, mut names) = (None, BTreeSet::new());
    let mut take = |policy: PolicyText| {
        if names.len() < SERVERS_MAX {
            names.insert(policy.server.clone());
        }
        if server.is_none_or(|server| server == policy.server) {
            last = Some(policy);
        }
    };
    for recording in recordings(paths)? {
        let mut reader = Reader::open(&recording);
        while let Some(block) = reader.next_block()? {
            for line in block.lines() {
                let line = line?;
                if line.kind == Kind::Header {
                    line.header()?.header.policies.into_iter().for_each(&mut take);
                } else if line.name == b"policy"
                    && let Body::Policy { policy, .. } = line.event()?.body
                {
                    take(*policy);
                }
            }
        }
    }
    let known = || names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match server {
        None if names.len() != 1 => Err(LastError::Which(known())),
        server => last.ok_or_else(|| LastError::None(server.unwrap_or("?").to_owned(), known())),
    }
}

/// Why a recording has no policy to ask.
#[derive(Debug, Error)]
pub enum LastError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No policy of that server.
    #[error("the recording holds no policy of server {0}: it has those of {1}")]
    None(String, String),
    /// None or several.
    #[error("the recording holds policies of these servers, name one with --server: {0}")]
    Which(String),
}

fn size(text: &PolicyText) -> usize {
    200 + text.sources.iter().map(|source| source.text.len() + source.path.len()).sum::<usize>()
}

fn facts(world: &World) -> usize {
    [world.arguments.len(), world.own_homes.len(), world.other_homes.len()].iter().sum::<usize>()
        + world.values.values().map(|values| 1 + values.len()).sum::<usize>()
        + world.links.len()
}
