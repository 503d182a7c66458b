//! The rules that recorded events were judged by, compiled again from what the recording holds,
//! and other rules in their place. Compiled when first needed; those that have not been needed for
//! longest are given up when together they grow too large.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use monitor_common::{automaton::Row, record::kind};
use thiserror::Error;

use super::{Rules, blocks::Place};
use crate::{
    event::{PolicyText, World},
    rules::{self, Bindings, Loaded, Mode, RuleError, SearchPath, Source, SourceKind},
};

/// Bytes of one rule text, and of all that are known at one time.
const TEXT_MAX: usize = 256 << 10;
const TEXTS_MAX: usize = 32 << 20;
/// Homes, arguments, variables and links of one policy.
const FACTS_MAX: usize = 10_000;
/// Bytes of tables that are kept.
const TABLES_MAX: usize = 64 << 20;

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
        tables.map(|table| table.rows.len() * size_of::<Row>()).sum()
    }
}

impl Known {
    fn compile(&self, instead: Option<&Path>) -> Result<Option<Pair>, PolicyError> {
        let Some(world) = &self.text.world else { return Ok(None) };
        let bindings = Bindings::of_world(world);
        let texts = self.texts();
        let compile = |search: SearchPath, mode: Option<Mode>| {
            let mut loaded = rules::load(&search, Some(&self.text.server), &bindings)?;
            loaded.mode = mode.unwrap_or(loaded.mode);
            Ok((Arc::new(rules::compile(&loaded)?), loaded))
        };
        let failed = |source: RuleError| PolicyError::Rules {
            place: self.place.clone(),
            server: self.text.server.clone(),
            source: Box::new(source),
        };
        let mode = if self.text.mode == "enforce" { Mode::Enforce } else { Mode::Observe };
        let (recorded, _): (Rules, Loaded) =
            compile(SearchPath::recorded(texts.clone()), Some(mode)).map_err(failed)?;
        let other = instead.map(|rules| compile(SearchPath::instead_of(rules, texts), None));
        let other = other.transpose().map_err(failed)?.map(|(rules, _)| rules);
        let every = (1 << kind::END) - 2;
        let partial = recorded.policy.record & every != every;
        Ok(Some(Pair { recorded, other, partial }))
    }

    fn texts(&self) -> Vec<Arc<Source>> {
        let kinds = [SourceKind::Server, SourceKind::Include, SourceKind::Set];
        let source = |kind, text: &crate::event::SourceText| {
            let crate::event::SourceText { name, path, text, .. } = text.clone();
            Arc::new(Source { kind, name, path, text })
        };
        let sources = self.text.sources.iter();
        sources
            .filter_map(|text| {
                let kind = kinds.into_iter().find(|kind| kind.name() == text.kind)?;
                Some(source(kind, text))
            })
            .collect()
    }
}

fn size(text: &PolicyText) -> usize {
    200 + text.sources.iter().map(|source| source.text.len() + source.path.len()).sum::<usize>()
}

fn facts(world: &World) -> usize {
    [world.arguments.len(), world.own_homes.len(), world.other_homes.len()].iter().sum::<usize>()
        + world.values.values().map(|values| 1 + values.len()).sum::<usize>()
        + world.links.len()
}
