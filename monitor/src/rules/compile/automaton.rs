//! Patterns to one table: regular expressions to a DFA to rows.
//!
//! All patterns of equal classes are joined into one expression, so that their states merge; the
//! DFA then tells only the combinations of classes apart. States are numbered in the order in
//! which a walk from the start first meets them: equal patterns always give equal bytes.

use std::collections::{BTreeMap, HashMap};

use monitor_common::automaton::{ABSORBING, BYTE_CLASSES, ByteClasses, Row};
use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start, syntax},
};

use super::{
    super::pattern::{Pattern, Regex},
    Automaton,
    minimise::minimise,
};

/// Rows that 16-bit row numbers can tell apart.
const ROWS_MAX: usize = 65_535;
/// Bytes that the expressions may take as an NFA, far more than 10,000 patterns need.
const NFA_BYTES_MAX: usize = 16 << 20;
/// Bytes that the building of the DFA may take besides the DFA itself.
const DETERMINIZE_BYTES_MAX: usize = 64 << 20;

/// Why patterns do not fit into a table.
#[derive(Debug, thiserror::Error)]
pub enum TooLarge {
    #[error("the patterns need more than {ROWS_MAX} states")]
    Rows,
    #[error("the patterns tell {0} kinds of bytes apart, more than {BYTE_CLASSES}")]
    Classes(usize),
}

/// The states of a table before it is laid out: row 0 is dead, row 1 the start.
pub struct States {
    /// Class bits of paths that end in each state.
    pub accept: Vec<u32>,
    /// Next state by state and column.
    pub next: Vec<u32>,
    /// Columns a state.
    pub columns: usize,
}

/// Builds the table of patterns with their class bits.
pub fn build(patterns: &[(&Pattern, u32)]) -> Result<Automaton, TooLarge> {
    if patterns.is_empty() {
        return Ok(Automaton {
            rows: Vec::new(),
            classes: ByteClasses { class: [0; 256] },
            digest: [0; 32],
        });
    }
    let (expressions, classes) = join(patterns);
    let dfa = determinise(&expressions)?;
    let (states, byte_classes) = walk(&dfa, &classes)?;
    if states.accept.len() > ROWS_MAX {
        return Err(TooLarge::Rows);
    }
    let states = minimise(states);
    let (states, byte_classes) = merge_columns(&states, &byte_classes);
    if states.columns > BYTE_CLASSES {
        return Err(TooLarge::Classes(states.columns));
    }
    Ok(lay_out(&states, byte_classes))
}

/// One expression for each combination of classes, and those combinations.
fn join(patterns: &[(&Pattern, u32)]) -> (Vec<String>, Vec<u32>) {
    let mut by_regex: BTreeMap<Regex, u32> = BTreeMap::new();
    for (pattern, class) in patterns {
        *by_regex.entry(pattern.regex()).or_default() |= class;
    }
    let mut by_class: BTreeMap<u32, Vec<Regex>> = BTreeMap::new();
    for (regex, class) in by_regex {
        by_class.entry(class).or_default().push(regex);
    }
    (by_class.values().map(|all| joined(all)).collect(), by_class.keys().copied().collect())
}

/// All paths of several expressions. Trees share one tail: if each had its own, a path that has
/// passed `**/a/**` and one that has also passed `**/b/**` would be in different states, and
/// the states would double with every such pattern.
fn joined(all: &[Regex]) -> String {
    const OPEN: &str = "(?:/.*)?";
    let cores = |floating: bool, tree: bool| {
        let own = all.iter().filter(|regex| regex.floating == floating && regex.tree == tree);
        own.map(|regex| regex.core.as_str()).collect::<Vec<_>>().join("|")
    };
    let has = |floating, tree| all.iter().any(|r| r.floating == floating && r.tree == tree);
    let either = |tree: bool| {
        let mut ways = Vec::new();
        if has(false, tree) {
            ways.push(format!("(?:{})", cores(false, tree)));
        }
        if has(true, tree) {
            ways.push(format!("{OPEN}(?:{})", cores(true, tree)));
        }
        (!ways.is_empty()).then(|| format!("(?:{})", ways.join("|")))
    };
    let trees = either(true).map(|trees| format!("{trees}{OPEN}"));
    let ways: Vec<String> = trees.into_iter().chain(either(false)).collect();
    format!("^(?:{})$", ways.join("|"))
}

fn determinise(expressions: &[String]) -> Result<dense::DFA<Vec<u32>>, TooLarge> {
    let syntax = syntax::Config::new().unicode(false).utf8(false).dot_matches_new_line(true);
    // The expressions are our own and valid: only a size limit can stop any of this.
    let nfa = thompson::Compiler::new()
        .syntax(syntax)
        .configure(thompson::Config::new().utf8(false).nfa_size_limit(Some(NFA_BYTES_MAX)))
        .build_many(expressions)
        .map_err(|_| TooLarge::Rows)?;
    // A state takes four bytes a column; the columns are the byte classes and the end, rounded up.
    let columns = nfa.byte_classes().alphabet_len().next_power_of_two();
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(MatchKind::All)
        .accelerate(false)
        .dfa_size_limit(Some(4 * columns * (ROWS_MAX + ROWS_MAX / 16)))
        .determinize_size_limit(Some(DETERMINIZE_BYTES_MAX));
    dense::Builder::new().configure(config).build_from_nfa(&nfa).map_err(|_| TooLarge::Rows)
}

/// Numbers the reachable states. Columns are one for each class of the DFA.
fn walk(dfa: &dense::DFA<Vec<u32>>, classes: &[u32]) -> Result<(States, [u8; 256]), TooLarge> {
    let (byte_classes, representatives) = dfa_classes(dfa);
    let columns = representatives.len();
    let anchored = start::Config::new().anchored(Anchored::Yes);
    // Anchored starts exist, and no look-behind beyond the start is asked for.
    let Ok(first) = dfa.start_state(&anchored) else { return Err(TooLarge::Rows) };
    let mut numbers: HashMap<StateID, u32> = HashMap::from([(first, 1)]);
    let mut queue = vec![first];
    let mut states = States { accept: vec![0, 0], next: vec![0; 2 * columns], columns };
    let mut done = 0;
    while let Some(state) = queue.get(done).copied() {
        let row = (done + 1) * columns;
        done += 1;
        let end = dfa.next_eoi_state(state);
        if dfa.is_match_state(end) {
            let matched = (0..dfa.match_len(end)).map(|i| dfa.match_pattern(end, i).as_usize());
            states.accept[done] = matched.fold(0, |bits, pattern| bits | classes[pattern]);
        }
        for (column, byte) in representatives.iter().enumerate() {
            let next = dfa.next_state(state, *byte);
            if dfa.is_dead_state(next) {
                continue;
            }
            let fresh = u32::try_from(queue.len() + 1).map_err(|_| TooLarge::Rows)?;
            let number = *numbers.entry(next).or_insert_with(|| {
                queue.push(next);
                states.accept.push(0);
                states.next.resize(states.next.len() + columns, 0);
                fresh
            });
            states.next[row + column] = number;
        }
    }
    Ok((states, byte_classes))
}

/// Class of each byte in the DFA, and a byte of each class. NUL ends a path and has no say.
fn dfa_classes(dfa: &dense::DFA<Vec<u32>>) -> ([u8; 256], Vec<u8>) {
    let mut numbers: HashMap<u8, u8> = HashMap::new();
    let mut representatives = Vec::new();
    let mut class = [0; 256];
    for byte in 1..=u8::MAX {
        let of_dfa = dfa.byte_classes().get(byte);
        class[usize::from(byte)] = *numbers.entry(of_dfa).or_insert_with(|| {
            representatives.push(byte);
            u8::try_from(representatives.len() - 1).unwrap_or(u8::MAX)
        });
    }
    (class, representatives)
}

/// Joins columns that never differ.
fn merge_columns(states: &States, byte_classes: &[u8; 256]) -> (States, [u8; 256]) {
    let rows = states.accept.len();
    let mut numbers: HashMap<Vec<u32>, u8> = HashMap::new();
    let mut kept = Vec::new();
    let mut merged = Vec::new();
    for column in 0..states.columns {
        let cells: Vec<u32> =
            (0..rows).map(|row| states.next[row * states.columns + column]).collect();
        let number = *numbers.entry(cells).or_insert_with(|| {
            kept.push(column);
            u8::try_from(kept.len() - 1).unwrap_or(u8::MAX)
        });
        merged.push(number);
    }
    let cell = |row: usize, column: &usize| states.next[row * states.columns + column];
    let next = (0..rows).flat_map(|row| kept.iter().map(move |column| cell(row, column)));
    let joined =
        States { accept: states.accept.clone(), next: next.collect(), columns: kept.len() };
    let mut class = byte_classes.map(|of_dfa| merged[usize::from(of_dfa)]);
    class[0] = 0;
    (joined, class)
}

fn lay_out(states: &States, class: [u8; 256]) -> Automaton {
    let mut rows = Vec::with_capacity(states.accept.len());
    for (number, cells) in states.next.chunks(states.columns).enumerate() {
        let mut row = Row { accept: states.accept[number], flags: 0, next: [0; BYTE_CLASSES] };
        for (cell, next) in row.next.iter_mut().zip(cells) {
            *cell = u16::try_from(*next).unwrap_or(0);
        }
        let own = u32::try_from(number).unwrap_or(0);
        if cells.iter().all(|next| *next == own) {
            row.flags = ABSORBING;
        }
        rows.push(row);
    }
    let mut hasher = blake3::Hasher::new();
    for row in &rows {
        hasher.update(&row.accept.to_le_bytes()).update(&row.flags.to_le_bytes());
        row.next.iter().for_each(|next| {
            hasher.update(&next.to_le_bytes());
        });
    }
    hasher.update(&class);
    let digest = *hasher.finalize().as_bytes();
    Automaton { rows, classes: ByteClasses { class }, digest }
}
