//! Patterns as a graph of nodes: what is left to be matched.
//!
//! Patterns are put into a tree by what they begin with, then nodes with the same future become
//! one, from the leaves up. Both matter: the shared beginnings keep the sets of nodes small that
//! stand for a state ([`super::automaton`]), the shared ends keep the number of states small.
//!
//! What is matched is a path, or a path with arguments behind it ([`Kind`]).

use std::collections::{BTreeMap, HashMap};

use super::super::pattern::{Component, Pattern, Piece};

/// A set of bytes.
pub type Bytes = [u64; 4];

/// What a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Paths, in which there is no NUL.
    Paths,
    /// A program's path, argv\[0\] and arguments, each ended by NUL.
    Vectors,
}

impl Kind {
    /// What `**` in a path stays at.
    fn beneath(self) -> Loop {
        match self {
            Self::Paths => Loop::Any,
            Self::Vectors => Loop::Text,
        }
    }
}

/// All bytes that can be in the name of a file.
pub const NAME: Bytes = of_name([u64::MAX; 4]);
/// What ends a string.
const END: u8 = 0;

const fn of_name(mut bytes: Bytes) -> Bytes {
    bytes[0] &= !(1 << b'/' | 1 << END);
    bytes
}

/// A set of one byte.
pub fn only(byte: u8) -> Bytes {
    let mut bytes = [0; 4];
    bytes[usize::from(byte >> 6)] |= 1 << (byte & 63);
    bytes
}

/// Whether a byte is in a set.
pub fn contains(bytes: &Bytes, byte: u8) -> bool {
    bytes[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
}

/// Number of a node.
pub type Id = u32;

/// Bytes that leave a node where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loop {
    /// None.
    Never,
    /// Those of one component: within `*`.
    Name,
    /// Those of one string: within `**`, where another string may follow.
    Text,
    /// All: within `**`, or the arguments that `...` stands for.
    Any,
}

/// What is left to be matched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Bytes that are eaten on the spot.
    pub stay: Loop,
    /// Class bits of a path that ends here.
    pub accept: u32,
    /// Nodes that are reached without a byte.
    pub skip: Vec<Id>,
    /// Nodes that are reached by a byte of a set.
    pub edges: Vec<(Bytes, Id)>,
}

/// The graph.
#[derive(Default)]
pub struct Nodes {
    /// All nodes; those that one leads to come before it.
    pub nodes: Vec<Node>,
    /// Of each node: class bits that can still be reached.
    pub reach: Vec<u32>,
    /// Of each node: all nodes that it is without a byte, itself among them.
    pub closure: Vec<Vec<Id>>,
    numbers: HashMap<Node, Id>,
}

/// One step of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// One byte of a set.
    Byte(Bytes),
    /// Bytes of one component.
    Star,
    /// Any number of components.
    Recursive,
    /// Bytes of one string.
    Text,
    /// Everything.
    Rest,
}

/// A node of the tree of beginnings.
struct Branch {
    by: Step,
    accept: u32,
    next: BTreeMap<Step, usize>,
}

impl Nodes {
    /// The graph of patterns with their class bits, and the node where it begins.
    pub fn of(patterns: &[(Vec<Step>, u32)], kind: Kind) -> (Self, Id) {
        let tree = tree(patterns);
        let mut nodes = Self::default();
        // A branch stands before those that follow it: from the back, all that it leads to is
        // there already.
        let mut ids = vec![0; tree.len()];
        for (i, branch) in tree.iter().enumerate().rev() {
            ids[i] = nodes.branch(branch, &ids, kind.beneath());
        }
        let start = ids[0];
        nodes.numbers = HashMap::new();
        (nodes, start)
    }

    fn branch(&mut self, branch: &Branch, ids: &[Id], beneath: Loop) -> Id {
        let stay = match branch.by {
            Step::Byte(_) | Step::Recursive => Loop::Never,
            Step::Star => Loop::Name,
            Step::Text => Loop::Text,
            Step::Rest => Loop::Any,
        };
        let mut node = Node { stay, accept: branch.accept, skip: Vec::new(), edges: Vec::new() };
        for (step, next) in &branch.next {
            let next = ids[*next];
            match step {
                Step::Byte(bytes) => node.edges.push((*bytes, next)),
                Step::Star | Step::Text | Step::Rest => node.skip.push(next),
                // Nothing, or a slash and anything.
                Step::Recursive => {
                    let inside =
                        Node { stay: beneath, accept: 0, skip: vec![next], edges: Vec::new() };
                    node.skip.push(next);
                    node.edges.push((only(b'/'), self.number(inside)));
                }
            }
        }
        self.number(node)
    }

    fn number(&mut self, node: Node) -> Id {
        if let Some(id) = self.numbers.get(&node) {
            return *id;
        }
        let id = Id::try_from(self.nodes.len()).unwrap_or(Id::MAX);
        let next = node.skip.iter().chain(node.edges.iter().map(|(_, id)| id));
        let reach = next.fold(node.accept, |bits, id| bits | self.reach[*id as usize]);
        let mut closure: Vec<Id> =
            node.skip.iter().flat_map(|id| self.closure[*id as usize].iter().copied()).collect();
        closure.push(id);
        closure.sort_unstable();
        closure.dedup();
        self.reach.push(reach);
        self.closure.push(closure);
        self.numbers.insert(node.clone(), id);
        self.nodes.push(node);
        id
    }
}

fn tree(patterns: &[(Vec<Step>, u32)]) -> Vec<Branch> {
    let root = Branch { by: Step::Recursive, accept: 0, next: BTreeMap::new() };
    let mut tree = vec![root];
    for (steps, class) in patterns {
        let mut at = 0;
        for step in steps {
            let fresh = tree.len();
            let next = *tree[at].next.entry(*step).or_insert(fresh);
            if next == fresh {
                tree.push(Branch { by: *step, accept: 0, next: BTreeMap::new() });
            }
            at = next;
        }
        tree[at].accept |= class;
    }
    tree
}

/// The steps of a path's pattern.
pub fn steps(pattern: &Pattern) -> Vec<Step> {
    let mut steps: Vec<Step> = pattern.prefix.iter().copied().map(byte).collect();
    if pattern.prefix.is_empty() && pattern.rest.is_empty() {
        steps.push(byte(b'/'));
    }
    for (i, component) in pattern.rest.iter().enumerate() {
        let Component::Name(pieces) = component else {
            steps.push(Step::Recursive);
            continue;
        };
        if !(i == 0 && pattern.glued) {
            steps.push(byte(b'/'));
        }
        steps.extend(pieces.iter().map(step));
    }
    steps
}

/// The steps of a program's path with arguments.
pub fn vector_steps(path: &Pattern, arguments: &[Vec<Piece>], open: bool) -> Vec<Step> {
    let mut steps = steps(path);
    steps.extend([byte(END), Step::Text, byte(END)]);
    for argument in arguments {
        steps.extend(argument.iter().map(step));
        steps.push(byte(END));
    }
    if open {
        steps.push(Step::Rest);
    }
    steps
}

/// The steps of an executable, its cgroup, and one among its arguments.
pub fn match_steps(
    exe: Option<&Pattern>,
    cgroup: Option<&Pattern>,
    argument: Option<&[Piece]>,
) -> Vec<Step> {
    let mut all = Vec::new();
    for path in [exe, cgroup] {
        all.extend(path.map_or_else(|| vec![Step::Text], steps));
        all.push(byte(END));
    }
    if let Some(argument) = argument {
        // argv[0], and other arguments.
        all.extend([Step::Rest, byte(END)]);
        all.extend(argument.iter().map(step));
        all.push(byte(END));
    }
    all.push(Step::Rest);
    all
}

fn step(piece: &Piece) -> Step {
    match piece {
        Piece::Byte(own) => byte(*own),
        Piece::Star => Step::Star,
        Piece::DoubleStar => Step::Text,
        Piece::Class { negated, ranges } => Step::Byte(class(*negated, ranges)),
        _ => Step::Byte(NAME),
    }
}

fn byte(byte: u8) -> Step {
    Step::Byte(only(byte))
}

fn class(negated: bool, ranges: &[(u8, u8)]) -> Bytes {
    let mut bytes = [0; 4];
    for byte in ranges.iter().flat_map(|(low, high)| *low..=*high) {
        bytes[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    of_name(if negated { bytes.map(|word: u64| !word) } else { bytes })
}
