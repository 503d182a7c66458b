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

use monitor_common::automaton::{ABSORBING, BYTE_CLASSES, ByteClasses, NUL_CLASS, Row};

use super::{
    Automaton,
    nodes::{Bytes, Id, Kind, Loop, NAME, Nodes, Step, contains},
};

/// Rows that 16-bit row numbers can tell apart.
pub const ROWS_MAX: usize = 65_535;
/// Nodes looked at in all states together, so that hopeless patterns fail soon.
const WORK_MAX: usize = 20_000_000;

/// Why patterns do not fit into a table.
#[derive(Debug, thiserror::Error)]
pub enum TooLarge {
    #[error("the patterns need more than {ROWS_MAX} states")]
    Rows,
    #[error("the patterns tell {0} kinds of bytes apart, more than {BYTE_CLASSES}")]
    Classes(usize),
}

/// Builds the table of patterns with their class bits.
pub fn build(
    patterns: &[(Vec<Step>, u32)],
    kind: Kind,
    rows_max: usize,
) -> Result<Automaton, TooLarge> {
    if patterns.is_empty() {
        let classes = ByteClasses { class: [0; 256] };
        return Ok(Automaton { rows: Vec::new(), classes, digest: [0; 32] });
    }
    let (nodes, start) = Nodes::of(patterns, kind);
    let (class, columns) = byte_classes(&nodes);
    if columns > BYTE_CLASSES {
        return Err(TooLarge::Classes(columns));
    }
    let mut table = Table::new(&nodes, kind, class, columns, rows_max);
    table.fill(start)?;
    Ok(table.lay_out())
}

/// A class for each byte, so that bytes of one class are in the same sets of the graph, and the
/// number of classes. NUL is in a class of its own.
fn byte_classes(nodes: &Nodes) -> ([u8; 256], usize) {
    let mut sets: BTreeSet<Bytes> = BTreeSet::from([NAME]);
    sets.extend(nodes.nodes.iter().flat_map(|node| node.edges.iter().map(|(bytes, _)| *bytes)));
    let mut numbers: HashMap<Vec<bool>, u8> = HashMap::new();
    let mut class = [NUL_CLASS as u8; 256];
    for byte in 1..=u8::MAX {
        let fresh = u8::try_from(numbers.len() + 1).unwrap_or(u8::MAX);
        let within = sets.iter().map(|set| contains(set, byte)).collect();
        class[usize::from(byte)] = *numbers.entry(within).or_insert(fresh);
    }
    (class, numbers.len() + 1)
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
    class: [u8; 256],
    /// Byte classes of each set of bytes.
    classes_of: HashMap<Bytes, Vec<u8>>,
    columns: usize,
    states: Vec<State>,
    numbers: HashMap<State, u16>,
    next: Vec<u16>,
    work: usize,
    rows_max: usize,
}

impl<'a> Table<'a> {
    fn new(
        graph: &'a Nodes,
        kind: Kind,
        class: [u8; 256],
        columns: usize,
        rows_max: usize,
    ) -> Self {
        let mut classes_of = HashMap::new();
        for (bytes, _) in graph.nodes.iter().flat_map(|node| &node.edges) {
            classes_of.entry(*bytes).or_insert_with(|| {
                let within = (0..=u8::MAX).filter(|byte| contains(bytes, *byte));
                let of: BTreeSet<u8> = within.map(|byte| class[usize::from(byte)]).collect();
                of.into_iter().collect()
            });
        }
        let dead = State::default();
        let numbers = HashMap::from([(dead.clone(), 0)]);
        let states = vec![dead];
        Self {
            graph,
            kind,
            class,
            classes_of,
            columns,
            states,
            numbers,
            next: Vec::new(),
            work: 0,
            rows_max,
        }
    }

    fn fill(&mut self, start: Id) -> Result<(), TooLarge> {
        // The start gets a row of its own even when nothing can match.
        let first = self.state(0, &[start]);
        self.numbers.insert(first.clone(), 1);
        self.states.push(first);
        self.next.resize(self.columns, 0);
        let slash = usize::from(self.class[usize::from(b'/')]);
        let mut done = 1;
        while let Some(state) = self.states.get(done).cloned() {
            let own_number = u16::try_from(done).map_err(|_| TooLarge::Rows)?;
            done += 1;
            self.work += state.nodes.len() + 1;
            let Next { always, text, names, by_class } = self.follow(&state);
            // Bytes that no node asks for in particular all lead to the same state.
            let within = [always.as_slice(), &text].concat();
            let all = [within.as_slice(), &names].concat();
            let other = self.number(state.certain, &all)?;
            for (column, own) in by_class.into_iter().enumerate() {
                let next = match column {
                    // Behind the end of a path nothing changes.
                    NUL_CLASS if self.kind == Kind::Paths => own_number,
                    NUL_CLASS => self.number(state.certain, &[always.as_slice(), &own].concat())?,
                    _ if column == slash => {
                        self.number(state.certain, &[within.as_slice(), &own].concat())?
                    }
                    _ if own.is_empty() => other,
                    _ => self.number(state.certain, &[all.as_slice(), &own].concat())?,
                };
                self.next.push(next);
            }
        }
        Ok(())
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
                for class in &self.classes_of[bytes] {
                    by_class[usize::from(*class)].push(*next);
                }
            }
        }
        Next { always, text, names, by_class }
    }

    fn number(&mut self, certain: u32, followed: &[Id]) -> Result<u16, TooLarge> {
        self.work += followed.len();
        let state = self.state(certain, followed);
        if let Some(number) = self.numbers.get(&state) {
            return Ok(*number);
        }
        if self.states.len() >= self.rows_max || self.work > WORK_MAX {
            return Err(TooLarge::Rows);
        }
        let number = u16::try_from(self.states.len()).map_err(|_| TooLarge::Rows)?;
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

    fn lay_out(&self) -> Automaton {
        let mut rows = Vec::with_capacity(self.states.len());
        let mut bytes = Vec::with_capacity(self.states.len() * size_of::<Row>());
        for (number, (state, cells)) in
            self.states.iter().zip(self.next.chunks(self.columns)).enumerate()
        {
            let mut row = Row { next: [0; BYTE_CLASSES], accept: state.accept, flags: 0 };
            row.next[..cells.len()].copy_from_slice(cells);
            if cells.iter().all(|next| usize::from(*next) == number) {
                row.flags = ABSORBING;
            }
            bytes.extend(row.accept.to_le_bytes());
            bytes.extend(row.flags.to_le_bytes());
            bytes.extend(row.next.iter().flat_map(|next| next.to_le_bytes()));
            rows.push(row);
        }
        bytes.extend(self.class);
        let digest = *blake3::hash(&bytes).as_bytes();
        Automaton { rows, classes: ByteClasses { class: self.class }, digest }
    }
}
