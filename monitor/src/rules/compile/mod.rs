//! From rules to the tables that the kernel walks. Pure: what is read from the machine has been
//! read by [`super::load()`], so the same [`Loaded`] always gives the same bytes.

mod automaton;
mod cells;
pub(super) mod network;
mod nodes;
mod shared;

use std::{path::PathBuf, sync::Arc};

use monitor_common::{
    automaton::{Cell, accepts_vector, classify},
    network::{AddressRules, canonical, canonical_local},
    policy::{Label, Policy, access, class, mode, set},
};

pub(super) use self::automaton::TooLarge;
use self::nodes::{Kind, Step, match_steps, steps, vector_steps};
pub use self::shared::Tables;
use super::{
    Finding, Loaded, Mode, RuleError, Severity, Source,
    load::{AddressRule, NameRule, PathRule, VectorRule},
    pattern::{Component, Pattern, Piece},
    source::Origin,
};
use crate::detect::Limits;

/// Patterns of the sets that begin with a path. This table and [`SETS_FLOATING`] are the same for
/// every server of a user, and so in the kernel once.
const SETS: usize = 0;
/// Patterns of the rules.
const RULES: usize = 1;
/// Patterns of the sets that begin with `**/`, apart because they multiply with those that do not.
const SETS_FLOATING: usize = 2;
/// States up to which the rules' floating patterns share a table with the others.
const JOINED_STATES_MAX: usize = 8192;

/// One table of [`monitor_common::automaton`]; of no patterns by default.
#[derive(Clone, Default)]
pub struct Automaton {
    /// Empty when no pattern is in this table.
    pub cells: Vec<Cell>,
    /// Its states, which the cells are laid out for.
    pub states: usize,
    /// BLAKE3 over the cells: tables of equal content can be shared.
    pub digest: [u8; 32],
}

/// One policy as the kernel gets it.
#[derive(Clone)]
pub struct Compiled {
    /// The policy; `tables`, `network` and `id` are 0 and filled in when it is installed.
    pub policy: Policy,
    /// Exactly [`monitor_common::policy::TABLES`] tables, in the order of [`Policy::tables`]; absent ones have no cells.
    pub tables: Vec<Arc<Automaton>>,
    /// Programs with the arguments that they may have; no cells when no rule names any.
    pub arguments: Automaton,
    /// Prefix length of the address (0 to 128), address, port rules.
    pub addresses: Vec<(u8, [u8; 16], AddressRules)>,
    /// Members of the sets that exist now, whoever it is that asks for them.
    pub labels: Vec<(PathBuf, Label)>,
    /// Homes of other people: to be labelled only where the same programs watch nobody else, whose
    /// own one of them may be.
    pub labels_of_homes: Vec<(PathBuf, Label)>,
    /// Of its detectors.
    pub limits: Arc<Limits>,
    pub(super) rules: Arc<Rules>,
}

/// What [`Compiled::blame`] and explanations look up.
pub(super) struct Rules {
    pub paths: Vec<PathRule>,
    pub vectors: Vec<VectorRule>,
    pub addresses: Vec<AddressRule>,
    pub names: Vec<NameRule>,
    pub unlisted: [Option<Arc<Origin>>; access::COUNT],
    pub sources: Vec<Arc<Source>>,
}

/// Compiles rules.
///
/// # Errors
/// Findings that name the patterns when a table grows beyond its bounds.
pub fn compile(loaded: &Loaded) -> Result<Compiled, RuleError> {
    compile_among(&mut Tables::default(), loaded)
}

/// The same beside other policies: tables of equal patterns are there once, and are not built again.
///
/// # Errors
/// As [`compile()`].
pub fn compile_among(known: &mut Tables, loaded: &Loaded) -> Result<Compiled, RuleError> {
    let tables = match tables(known, loaded, FloatingRules::WithRules) {
        Ok(tables) => tables,
        Err(_) => tables(known, loaded, FloatingRules::WithSets)
            .map_err(|(table, error)| too_large(loaded, table, &error))?,
    };
    let addresses = network::table(&loaded.addresses).map_err(|worst| {
        RuleError::Findings(vec![Finding {
            severity: Severity::Error,
            message: worst.to_string(),
            help: Some("join port ranges, or write fewer of them".to_owned()),
            source: worst.origin.source.clone(),
            span: worst.origin.span.clone(),
        }])
    })?;
    Ok(Compiled {
        policy: policy(loaded),
        tables,
        arguments: arguments(loaded)?,
        addresses,
        labels: loaded.labels.clone(),
        labels_of_homes: loaded.labels_of_homes.clone(),
        limits: Arc::new(Limits { enforce: loaded.mode == Mode::Enforce, ..loaded.limits.clone() }),
        rules: Arc::new(Rules {
            paths: loaded.paths.clone(),
            vectors: loaded.vectors.clone(),
            addresses: loaded.addresses.clone(),
            names: loaded.names.clone(),
            unlisted: loaded.unlisted_origins.clone(),
            sources: loaded.sources.clone(),
        }),
    })
}

/// What the policy says beside its tables.
pub(super) fn policy(loaded: &Loaded) -> Policy {
    let mut policy = Policy {
        record: loaded.record,
        mode: match loaded.mode {
            Mode::Observe => mode::OBSERVE,
            Mode::Enforce => mode::ENFORCE,
        },
        unlisted: loaded.unlisted,
        names: u8::from(loaded.answers_dns),
        ..Policy::EMPTY
    };
    let counted = Limits { enforce: loaded.mode == Mode::Enforce, ..loaded.limits.clone() };
    if counted.kernel_counts_reads() {
        policy.reads = counted.reads();
    }
    let rulings = loaded.set_verdict.iter().zip(&loaded.set_access);
    for (set, (verdict, accesses)) in rulings.enumerate() {
        policy.rule_set(set, *accesses, *verdict);
    }
    if let Some(verdict) = loaded.env_secret {
        policy.rule_access(set::PROCESSES, access::READ.trailing_zeros() as usize, verdict);
    }
    policy
}

/// Which table holds the rules' patterns that begin with `**/`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FloatingRules {
    /// The rules' own, so that the sets' tables stay the same for all servers.
    WithRules,
    /// The sets' floating table, when they multiply too much with the rules.
    WithSets,
}

/// Builds the table of programs with their arguments.
fn arguments(loaded: &Loaded) -> Result<Automaton, RuleError> {
    let vectors = loaded.vectors.iter();
    let steps =
        vectors.map(|rule| (vector_steps(&rule.program, &rule.arguments, rule.open), class::NAMED));
    let patterns: Vec<_> = steps.collect();
    automaton::build(&patterns, Kind::Vectors, automaton::STATES_MAX).map_err(|error| {
        let findings = loaded.vectors.iter().take(3).map(|rule| Finding {
            severity: Severity::Error,
            message: format!("the arguments of programs take too much: {error}"),
            help: Some("write fewer vectors, or fewer `*` before other text".to_owned()),
            source: rule.origin.source.clone(),
            span: rule.origin.span.clone(),
        });
        RuleError::Findings(findings.collect())
    })
}

/// Processes that are a server, without alternatives; what is `None` may be anything.
pub(super) struct MatchRule {
    /// The executable.
    pub exe: Option<Pattern>,
    /// The cgroup.
    pub cgroup: Option<Pattern>,
    /// One of the arguments behind argv\[0\].
    pub argument: Option<Vec<Piece>>,
}

/// The table of such processes: it accepts `executable NUL cgroup NUL argv[0] NUL argument NUL ...`.
pub(super) fn match_table(rules: &[MatchRule]) -> Result<Automaton, TooLarge> {
    let steps = |rule: &MatchRule| {
        let argument = rule.argument.as_deref();
        match_steps(rule.exe.as_ref(), rule.cgroup.as_ref(), argument)
    };
    let patterns: Vec<_> = rules.iter().map(|rule| (steps(rule), class::NAMED)).collect();
    automaton::build(&patterns, Kind::Vectors, automaton::STATES_MAX)
}

/// Builds the tables, or says which of them grew too large.
fn tables(
    known: &mut Tables,
    loaded: &Loaded,
    floating: FloatingRules,
) -> Result<Vec<Arc<Automaton>>, (usize, TooLarge)> {
    let mut build = |table: usize| {
        let rules = loaded.paths.iter().filter(|rule| table_index(rule, floating) == table);
        let mut patterns: Vec<(Vec<Step>, u32)> =
            rules.map(|rule| (steps(&rule.pattern), rule.class)).collect();
        if table == SETS {
            patterns.extend(loaded.loaders.iter().map(|pattern| (steps(pattern), class::LOADER)));
        }
        let joined = table == RULES && floating == FloatingRules::WithRules;
        let states_max = if joined { JOINED_STATES_MAX } else { automaton::STATES_MAX };
        known.of_paths(&patterns, states_max).map_err(|error| (table, error))
    };
    // The rules first: they alone may have to be built in another way.
    let rules = build(RULES)?;
    Ok(vec![build(SETS)?, rules, build(SETS_FLOATING)?])
}

fn table_index(rule: &PathRule, floating: FloatingRules) -> usize {
    let is_set = rule.class & class::SETS != 0;
    match (is_set || floating == FloatingRules::WithSets, rule.pattern.is_floating()) {
        (true, true) => SETS_FLOATING,
        _ if is_set => SETS,
        _ => RULES,
    }
}

/// A finding at each of the patterns that cost most, as far as the text tells.
fn too_large(loaded: &Loaded, table: usize, error: &TooLarge) -> RuleError {
    let mut worst: Vec<&PathRule> = loaded
        .paths
        .iter()
        .filter(|rule| table_index(rule, FloatingRules::WithSets) == table)
        .collect();
    worst.sort_by_key(|rule| std::cmp::Reverse(cost(&rule.pattern)));
    let findings = worst.iter().take(3).map(|rule| Finding {
        severity: Severity::Error,
        message: format!("{error}; {:?} is among the largest patterns", rule.origin.written),
        help: Some("write fewer `**` and `*` before other text, or remove patterns".to_owned()),
        source: rule.origin.source.clone(),
        span: rule.origin.span.clone(),
    });
    RuleError::Findings(findings.collect())
}

/// Wildcards with something behind them multiply states; plain text only adds them.
fn cost(pattern: &Pattern) -> usize {
    let stars = |component: &Component| match component {
        Component::Recursive => 100,
        Component::Name(pieces) => pieces.iter().fold(0, |sum, piece| {
            sum + match piece {
                Piece::Star => 50,
                Piece::Any | Piece::Class { .. } => 5,
                _ => 1,
            }
        }),
    };
    pattern.prefix.len() + pattern.rest.iter().map(stars).sum::<usize>()
}

impl Compiled {
    /// Bits of [`class`] that a resolved path falls in. Abstract socket names begin with `@`.
    pub fn classify_path(&self, path: &[u8]) -> u32 {
        let present = self.tables.iter().filter(|table| !table.cells.is_empty());
        present.fold(0, |classes, table| classes | classify(table.cells.as_slice(), path))
    }

    /// Whether the rules name these arguments (without argv\[0\]) for a program.
    pub fn names_arguments<'a>(
        &self,
        program: &[u8],
        arguments: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        let cells = &self.arguments.cells;
        let mut vector = [program, b"\0\0"].concat();
        for argument in arguments {
            vector.extend([argument, b"\0"].concat());
        }
        !cells.is_empty() && accepts_vector(cells.as_slice(), &vector)
    }

    /// Whether a program is a dynamic loader, which may yet map the program that it was asked for.
    pub fn is_loader(&self, path: &[u8]) -> bool {
        self.classify_path(path) & class::LOADER != 0
    }

    /// Bits of [`class`] that a destination falls in.
    pub fn classify_address(&self, address: [u8; 16], port: u16, protocol: u8) -> u32 {
        self.classify_canonical(canonical(address), port, protocol)
    }

    /// Bits of [`class`] that a local address to listen on falls in.
    pub fn classify_local(&self, address: [u8; 16], port: u16, protocol: u8) -> u32 {
        self.classify_canonical(canonical_local(address), port, protocol)
    }

    fn classify_canonical(&self, address: [u8; 16], port: u16, protocol: u8) -> u32 {
        network::look_up(&self.addresses, u128::from_be_bytes(address))
            .map_or(0, |rules| monitor_common::network::classify(rules, port, protocol))
    }
}

#[cfg(test)]
pub(super) fn table_for_tests(patterns: &[(&Pattern, u32)]) -> Automaton {
    let patterns: Vec<_> =
        patterns.iter().map(|(pattern, class)| (steps(pattern), *class)).collect();
    automaton::build(&patterns, Kind::Paths, automaton::STATES_MAX).unwrap()
}
