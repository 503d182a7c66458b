//! What was touched beneath one root, as a tree of names, and when a directory stands for all that
//! is in it.
//!
//! | beneath | a directory stands for its contents when |
//! | --- | --- |
//! | what the person gave to the server | two files were read in it, three written |
//! | home, temporary files | it is no directory that programs share, and two entries lie beneath it |
//! | the rest of the disk | it lies deep enough to be one program's, and four entries lie beneath it |
//!
//! Programs and sockets are never put together.

use std::collections::BTreeMap;

use super::{List, Seen, joined, places::Kind};

/// Names of one tree, and of one directory.
const NODES_MAX: usize = 20_000;
const NAMES_MAX: usize = 512;

/// Directories that programs share: what stands for all of them says too much.
const SHARED: [&str; 10] = [
    ".cache",
    ".config",
    ".local",
    "share",
    "state",
    "lib",
    "Documents",
    "Desktop",
    "Downloads",
    "projects",
];
/// Top directories in which a program's own lie one deeper than elsewhere.
const DEEP: [&str; 9] = ["usr", "home", "root", "var", "opt", "srv", "mnt", "media", "sys"];

/// See the module.
pub struct Tree {
    list: List,
    kind: Kind,
    root: Node,
    nodes: usize,
}

#[derive(Default)]
struct Node {
    names: BTreeMap<String, Node>,
    seen: Option<Seen>,
    /// Stands for all that is beneath it: there was too much to keep.
    whole: bool,
}

impl Tree {
    /// Nothing was seen yet.
    pub fn new(list: List, kind: Kind) -> Self {
        Self { list, kind, root: Node::default(), nodes: 1 }
    }

    /// Counts a path; `false` when there is no room for it.
    pub fn insert(&mut self, names: &[String], stretch: u32, example: &dyn Fn() -> String) -> bool {
        let mut node = &mut self.root;
        for (depth, name) in names.iter().enumerate() {
            if node.whole {
                break;
            }
            let full = self.nodes >= NODES_MAX || node.names.len() >= NAMES_MAX;
            if full && !node.names.contains_key(name) {
                if !may_stand(self.list, self.kind, &names[..depth]) {
                    return false;
                }
                node.fold();
                break;
            }
            self.nodes += usize::from(!node.names.contains_key(name));
            node = node.names.entry(name.clone()).or_default();
        }
        match &mut node.seen {
            Some(seen) => seen.again(stretch),
            None => node.seen = Some(Seen::new(stretch, example)),
        }
        true
    }

    /// Entries with their counts, `without` what was seen in one stretch only.
    pub fn rules(&self, root: &str, without: Option<u32>) -> Vec<(String, Seen)> {
        let mut all = Vec::new();
        self.walk(&self.root, &mut Vec::new(), without, &mut |names, seen, whole| {
            let end = if whole { "/**" } else { "" };
            all.push((entry(root, names, end), seen));
        });
        all
    }

    /// The finest entries.
    pub fn leaves(&self, root: &str) -> Vec<(String, Seen)> {
        let mut all = Vec::new();
        self.root.each(&mut Vec::new(), &mut |names, node| {
            if let Some(seen) = &node.seen {
                let end = if node.whole { "/**" } else { "" };
                all.push((entry(root, names, end), seen.clone()));
            }
        });
        all
    }

    fn walk(
        &self,
        node: &Node,
        names: &mut Vec<String>,
        without: Option<u32>,
        emit: &mut dyn FnMut(&[String], Seen, bool),
    ) {
        let (distinct, seen) = node.sum(without);
        let Some(seen) = seen else { return };
        let stands = may_stand(self.list, self.kind, names) && distinct >= self.enough();
        if node.whole || stands {
            return emit(names, seen, true);
        }
        if let Some(own) = node.seen.as_ref().filter(|seen| counts(seen, without)) {
            emit(names, own.clone(), false);
        }
        for (name, child) in &node.names {
            names.push(name.clone());
            self.walk(child, names, without, emit);
            names.pop();
        }
    }

    /// Distinct entries beneath a directory that make it stand for all of them.
    fn enough(&self) -> usize {
        match (self.kind, self.list) {
            (Kind::Work, List::Write) => 3,
            (Kind::System, _) => 4,
            _ => 2,
        }
    }
}

/// Whether a directory may ever stand for its contents.
fn may_stand(list: List, kind: Kind, names: &[String]) -> bool {
    if !matches!(list, List::Read | List::Write) {
        return false;
    }
    let own = names.iter().skip_while(|name| SHARED.contains(&name.as_str())).count();
    // A name without a letter says nothing about whose it is.
    let is_named = |name: &String| name.bytes().any(|byte| byte.is_ascii_alphanumeric());
    match kind {
        Kind::Work => true,
        Kind::Home => own >= 1 && names.last().is_some_and(is_named),
        Kind::Temporary => names.iter().any(is_named),
        Kind::System => {
            let first = names.first().map_or("", String::as_str);
            let least = if DEEP.contains(&first) { 3 } else { 2 };
            !matches!(first, "proc" | "dev") && names.len() >= least
        }
    }
}

fn counts(seen: &Seen, without: Option<u32>) -> bool {
    without.is_none() || seen.only != without
}

fn entry(root: &str, names: &[String], end: &str) -> String {
    let text = format!("{root}{}{end}", joined(names));
    if text.is_empty() { "/".to_owned() } else { text }
}

impl Node {
    /// Number of distinct entries at and beneath it, and what was seen of them together.
    fn sum(&self, without: Option<u32>) -> (usize, Option<Seen>) {
        let mut sum = self.seen.clone().filter(|seen| counts(seen, without));
        let mut distinct = usize::from(sum.is_some());
        for node in self.names.values() {
            let (more, seen) = node.sum(without);
            distinct += more;
            match (&mut sum, seen) {
                (Some(sum), Some(seen)) => sum.join(&seen),
                (None, seen) => sum = seen,
                _ => {}
            }
        }
        (distinct, sum)
    }

    /// Forgets what is beneath it.
    fn fold(&mut self) {
        self.seen = self.sum(None).1;
        self.names.clear();
        self.whole = true;
    }

    fn each(&self, names: &mut Vec<String>, f: &mut dyn FnMut(&[String], &Self)) {
        f(names, self);
        for (name, node) in &self.names {
            names.push(name.clone());
            node.each(names, f);
            names.pop();
        }
    }
}
