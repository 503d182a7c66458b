//! From what a server did to rules that allow it: least privilege, and yet the same tomorrow.
//!
//! ```text
//! Access -> Places (which variable) -> shape (which names are made up) -> Tree (which directories)
//!        -> Learned: entries of lists, each with its count and an example -> write (TOML)
//! ```
//!
//! Bounded: what does not fit is folded into the directory above it, or counted and said.

mod estimate;
mod network;
mod places;
mod shape;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::collections::BTreeMap;

pub use estimate::Estimate;
pub use network::Peer;
pub use places::Places;
use tree::Tree;
pub use write::{new_file, write};

/// Distinct addresses and sockets, and distinct entries that are held back.
const ENTRIES_MAX: usize = 4096;
/// Bytes of an example.
const EXAMPLE_MAX: usize = 120;

/// Lists of rules that are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// `files.read`
    Read,
    /// `files.write`
    Write,
    /// `exec.allow`
    Exec,
    /// `network.connect`
    Connect,
    /// `network.listen`
    Listen,
    /// `network.unix`
    Unix,
}

impl List {
    /// All of them, in the order of a rule file.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Exec, Self::Connect, Self::Listen, Self::Unix];

    /// Section and key.
    pub const fn key(self) -> (&'static str, &'static str) {
        match self {
            Self::Read => ("files", "read"),
            Self::Write => ("files", "write"),
            Self::Exec => ("exec", "allow"),
            Self::Connect => ("network", "connect"),
            Self::Listen => ("network", "listen"),
            Self::Unix => ("network", "unix"),
        }
    }
}

/// How often, in which stretches of activity, and what it looked like first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Times.
    pub count: u64,
    /// The stretch, while there is only one.
    pub only: Option<u32>,
    /// What was accessed first, and by whom.
    pub example: String,
}

impl Seen {
    fn new(stretch: u32, example: &dyn Fn() -> String) -> Self {
        let mut example = example();
        if let Some((end, _)) = example.char_indices().nth(EXAMPLE_MAX) {
            example.truncate(end);
            example.push('…');
        }
        Self { count: 1, only: Some(stretch), example }
    }

    fn again(&mut self, stretch: u32) {
        self.count += 1;
        if self.only != Some(stretch) {
            self.only = None;
        }
    }

    fn join(&mut self, other: &Self) {
        self.count += other.count;
        if self.only != other.only {
            self.only = None;
        }
    }
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its list.
    pub list: List,
    /// As it is written.
    pub text: String,
    /// What it rests on.
    pub seen: Seen,
}

/// What was done and is not learned, because a person should say so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Why: `secrets`, `refused`, …
    pub why: &'static str,
    /// What was asked.
    pub access: &'static str,
    /// The entry that would allow it, or what it was.
    pub text: String,
}

/// Collects.
#[derive(Default)]
pub struct Learner {
    trees: BTreeMap<(List, String), Tree>,
    others: BTreeMap<(List, String), Seen>,
    held: BTreeMap<Held, Seen>,
    stretch: u32,
    /// Accesses that the includes allow already.
    pub covered: u64,
    /// Accesses that are not in the rules, because there were too many different ones.
    pub dropped: u64,
}

impl Learner {
    /// What follows comes after a pause.
    pub fn next_stretch(&mut self) {
        self.stretch += 1;
    }

    /// A path that no rule allows yet.
    pub fn path(&mut self, list: List, path: &[u8], places: &Places, example: &dyn Fn() -> String) {
        let placed = places.place(path);
        let names = placed.names();
        let key = (list, placed.root.text.clone());
        let tree = self.trees.entry(key).or_insert_with(|| Tree::new(list, placed.root.kind));
        if !tree.insert(&names, self.stretch, example) {
            self.dropped += 1;
        }
    }

    /// An AF_UNIX socket without a file.
    pub fn abstract_socket(&mut self, list: List, name: &[u8], example: &dyn Fn() -> String) {
        self.other(list, shape::component(name, false), example);
    }

    /// An address that no rule allows yet.
    pub fn address(
        &mut self,
        list: List,
        peer: &Peer<'_>,
        places: &Places,
        example: &dyn Fn() -> String,
    ) {
        self.other(list, peer.entry(list, places), example);
    }

    fn other(&mut self, list: List, text: String, example: &dyn Fn() -> String) {
        let full = self.others.len() >= ENTRIES_MAX;
        self.dropped +=
            u64::from(!count(&mut self.others, (list, text), full, self.stretch, example));
    }

    /// Something that is not learned. `path` is put as the entry that would allow it.
    pub fn hold(
        &mut self,
        why: &'static str,
        access: &'static str,
        path: &[u8],
        places: &Places,
        example: &dyn Fn() -> String,
    ) {
        let placed = places.place(path);
        let text = format!("{}{}", placed.root.text, joined(&placed.names()));
        let full = self.held.len() >= ENTRIES_MAX;
        let key = Held { why, access, text };
        self.dropped += u64::from(!count(&mut self.held, key, full, self.stretch, example));
    }

    /// The rules.
    pub fn learned(&self) -> Learned {
        let held = self.held.iter().map(|(held, seen)| (held.clone(), seen.clone())).collect();
        Learned { entries: self.entries(None), held, estimate: Estimate::of(self) }
    }

    /// The entries, `without` what was seen in one stretch only.
    fn entries(&self, without: Option<u32>) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        for ((list, root), tree) in &self.trees {
            let rules = tree.rules(root, without);
            all.extend(rules.into_iter().map(|(text, seen)| Entry { list: *list, text, seen }));
        }
        let others =
            self.others.iter().filter(|(_, seen)| without.is_none() || seen.only != without);
        all.extend(others.map(|((list, text), seen)| Entry {
            list: *list,
            text: text.clone(),
            seen: seen.clone(),
        }));
        // What may be written may be read.
        let writes: Vec<String> =
            all.iter().filter(|e| e.list == List::Write).map(|e| e.text.clone()).collect();
        all.retain(|e| e.list != List::Read || !writes.iter().any(|write| covers(write, &e.text)));
        all.sort_by(|a, b| (a.list, &a.text).cmp(&(b.list, &b.text)));
        all
    }

    /// What was seen in one stretch only: the stretch, the list, the finest entry.
    fn singles(&self) -> Vec<(u32, List, String)> {
        let of_trees = self.trees.iter().flat_map(|((list, root), tree)| {
            let leaves = tree.leaves(root).into_iter();
            leaves.filter_map(|(text, seen)| Some((seen.only?, *list, text)))
        });
        let others = self.others.iter();
        of_trees
            .chain(
                others.filter_map(|((list, text), seen)| Some((seen.only?, *list, text.clone()))),
            )
            .collect()
    }
}

/// Counts a key; `false` when it is new and there is no room.
fn count<K: Ord>(
    map: &mut BTreeMap<K, Seen>,
    key: K,
    full: bool,
    stretch: u32,
    example: &dyn Fn() -> String,
) -> bool {
    match map.get_mut(&key) {
        Some(seen) => seen.again(stretch),
        None if full => return false,
        None => drop(map.insert(key, Seen::new(stretch, example))),
    }
    true
}

/// What was learned.
#[derive(Clone, Debug)]
pub struct Learned {
    /// Entries by list and text.
    pub entries: Vec<Entry>,
    /// What was held back.
    pub held: Vec<(Held, Seen)>,
    /// What to expect of them.
    pub estimate: Estimate,
}

fn joined(names: &[String]) -> String {
    names.iter().map(|name| format!("/{name}")).collect()
}

/// Whether an entry that was learned covers another: the same, or beneath its `/**`.
fn covers(entry: &str, other: &str) -> bool {
    entry == other
        || entry.strip_suffix("/**").is_some_and(|directory| {
            other
                .strip_prefix(directory)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}
