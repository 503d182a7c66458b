//! Patterns to one table, by subset construction: a state is the set of [`super::nodes`] that a path may
//! be in.
//!
//! A general regular expression compiler builds the same tables and takes ten times as long,
//! because it cannot know what holds for paths: once a path is beneath `/a/**`, it stays there.
//! The class bits that are certain to the end are kept as bits of the state, and nodes that could
//! only give these bits once more are dropped. So `**/a/**` and `**/b/**` do not double the states
//! of all other patterns.
//!
//! States are numbered in the order in which a walk from the start first meets them: equal
//! patterns always give equal bytes.

use std::collections::{BTreeSet, HashMap};

use monitor_common::automaton::{NUL_CLASS, OTHER_CLASS};

use super::{
    Automaton,
    cells::{self, Moves},
    nodes::{Bytes, Id, Kind, Loop, NAME, Nodes, Step, contains},
};

/// States of one table, at most.
pub const STATES_MAX: usize = 65_535;
/// Nodes looked at in all states together, so that hopeless patterns fail soon.
const WORK_MAX: usize = 20_000_000;

/// Why patterns do not fit into a table.
#[derive(Debug, thiserror::Error)]
pub enum TooLarge {
    #[error("the patterns need more than {STATES_MAX} states")]
    States,
    #[error("the patterns tell nearly all bytes apart")]
    Classes,
}

/// Builds the table of patterns with their class bits.
pub fn build(
    patterns: &[(Vec<Step>, u32)],
    kind: Kind,
    states_max: usize,
) -> Result<Automaton, TooLarge> {
    if patterns.is_empty() {
        return Ok(Automaton::default());
    }
    let (nodes, start) = Nodes::of(patterns, kind);
    let class = byte_classes(&nodes)?;
    let mut table = Table::new(&nodes, kind, &class, states_max);
    table.fill(start)?;
    Ok(cells::lay_out(&class, &table.moves))
}

/// A class for each byte, so that bytes of one class are in the same sets of the graph.
fn byte_classes(nodes: &Nodes) -> Result<[u8; 256], TooLarge> {
    let mut sets: BTreeSet<Bytes> = BTreeSet::from([NAME]);
    sets.extend(nodes.nodes.iter().flat_map(|node| node.edges.iter().map(|(bytes, _)| *bytes)));
    let in_names_alone = sets.iter().map(|set| *set == NAME).collect();
    let mut numbers: HashMap<Vec<bool>, u8> = HashMap::from([(in_names_alone, OTHER_CLASS)]);
    let mut class = [NUL_CLASS; 256];
    for byte in 1..=u8::MAX {
        let fresh =
            u8::try_from(numbers.len()).ok().and_then(|others| others.checked_add(NUL_CLASS));
        let within = sets.iter().map(|set| contains(set, byte)).collect();
        let number = numbers.get(&within).copied().or(fresh).ok_or(TooLarge::Classes)?;
        numbers.insert(within, number);
        class[usize::from(byte)] = number;
    }
    Ok(class)
}

/// A state: what makes it differ from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    /// Class bits of a path that ends here.
    accept: u32,
    /// Those of them that no further byte can take away.
    certain: u32,
    /// Nodes from which more can come.
    nodes: Vec<Id>,
}

/// What follows a state.
struct Next {
    /// On every byte.
    always: Vec<Id>,
    /// On every byte but NUL.
    text: Vec<Id>,
    /// On every byte but NUL and `/`.
    names: Vec<Id>,
    /// On those of each class.
    by_class: Vec<Vec<Id>>,
}

struct Table<'a> {
    graph: &'a Nodes,
    kind: Kind,
    slash: u8,
    /// Byte classes of each set of bytes.
    classes_of: HashMap<Bytes, Vec<u8>>,
    columns: usize,
    states: Vec<State>,
    numbers: HashMap<State, u32>,
    moves: Vec<Moves>,
    work: usize,
    states_max: usize,
}

impl<'a> Table<'a> {
    fn new(graph: &'a Nodes, kind: Kind, class: &[u8; 256], states_max: usize) -> Self {
        let mut classes_of = HashMap::new();
        for (bytes, _) in graph.nodes.iter().flat_map(|node| &node.edges) {
            classes_of.entry(*bytes).or_insert_with(|| {
                let within = (0..=u8::MAX).filter(|byte| contains(bytes, *byte));
                let of: BTreeSet<u8> = within.map(|byte| class[usize::from(byte)]).collect();
                of.into_iter().collect()
            });
        }
        let dead = State::default();
        Self {
            graph,
            kind,
            slash: class[usize::from(b'/')],
            classes_of,
            columns: class.iter().fold(0, |most, class| most.max(usize::from(*class) + 1)),
            numbers: HashMap::from([(dead.clone(), cells::DEAD_STATE)]),
            states: vec![dead],
            moves: vec![Moves::default()],
            work: 0,
            states_max,
        }
    }

    fn fill(&mut self, start: Id) -> Result<(), TooLarge> {
        // The start gets a state of its own even when nothing can match.
        let first = self.state(0, &[start]);
        self.numbers.insert(first.clone(), cells::START_STATE);
        self.states.push(first);
        while let Some(state) = self.states.get(self.moves.len()).cloned() {
            let moves = self.moves(&state)?;
            self.moves.push(moves);
        }
        Ok(())
    }

    /// Where a state leads; the states that it leads to are numbered.
    fn moves(&mut self, state: &State) -> Result<Moves, TooLarge> {
        let own_number = self.moves.len() as u32;
        self.work += state.nodes.len() + 1;
        let Next { always, text, names, by_class } = self.follow(state);
        // Bytes that no node asks for in particular all lead to the same state.
        let within = [always.as_slice(), &text].concat();
        let all = [within.as_slice(), &names].concat();
        let of_others = &by_class[usize::from(OTHER_CLASS)];
        let other = self.number(state.certain, &[all.as_slice(), of_others].concat())?;
        let mut moves = Moves { accept: state.accept, other, by_class: Vec::new() };
        for (class, own) in (0..=u8::MAX).zip(&by_class) {
            let next = match class {
                // Behind the end of a path nothing changes.
                NUL_CLASS if self.kind == Kind::Paths => own_number,
                NUL_CLASS => self.number(state.certain, &[always.as_slice(), own].concat())?,
                _ if class == self.slash => {
                    self.number(state.certain, &[within.as_slice(), own].concat())?
                }
                // Most of both are empty: by themselves, as comparing nothing with nothing is slow.
                _ if own.is_empty() && of_others.is_empty() || own == of_others => other,
                _ => self.number(state.certain, &[all.as_slice(), own].concat())?,
            };
            if next != other {
                moves.by_class.push((class, next));
            }
        }
        Ok(moves)
    }

    fn follow(&self, state: &State) -> Next {
        let (mut always, mut text, mut names) = (Vec::new(), Vec::new(), Vec::new());
        let mut by_class = vec![Vec::new(); self.columns];
        for id in &state.nodes {
            let node = &self.graph.nodes[*id as usize];
            match node.stay {
                Loop::Never => {}
                Loop::Name => names.push(*id),
                Loop::Text => text.push(*id),
                Loop::Any => always.push(*id),
            }
            for (bytes, next) in &node.edges {
                if *bytes == NAME {
                    names.push(*next);
                    continue;
                }
                for class in &self.classes_of[bytes] {
                    by_class[usize::from(*class)].push(*next);
                }
            }
        }
        Next { always, text, names, by_class }
    }

    fn number(&mut self, certain: u32, followed: &[Id]) -> Result<u32, TooLarge> {
        self.work += followed.len();
        let state = self.state(certain, followed);
        if let Some(number) = self.numbers.get(&state) {
            return Ok(*number);
        }
        if self.states.len() >= self.states_max || self.work > WORK_MAX {
            return Err(TooLarge::States);
        }
        let number = self.states.len() as u32;
        self.numbers.insert(state.clone(), number);
        self.states.push(state);
        Ok(number)
    }

    fn state(&self, mut certain: u32, followed: &[Id]) -> State {
        let graph = self.graph;
        let mut nodes: Vec<Id> =
            followed.iter().flat_map(|id| &graph.closure[*id as usize]).copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut accept = 0;
        for id in &nodes {
            let node = &graph.nodes[*id as usize];
            accept |= node.accept;
            if node.stay == Loop::Any {
                let around = &graph.closure[*id as usize];
                let bits = around.iter().map(|id| graph.nodes[*id as usize].accept);
                certain = bits.fold(certain, |all, bits| all | bits);
            }
        }
        nodes.retain(|id| {
            let node = &graph.nodes[*id as usize];
            let moves = node.stay != Loop::Never || !node.edges.is_empty();
            moves && graph.reach[*id as usize] & !certain != 0
        });
        State { accept: accept | certain, certain, nodes }
    }
}
