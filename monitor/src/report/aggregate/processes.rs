//! The processes of one instance.

use std::collections::{HashMap, HashSet};

use monitor_common::record::Target;

use super::{Budget, Seen, timeline::Lane};
use crate::{
    event::{Bytes, Exec},
    report::model::{Capped, Moment, ProcessText, Relation, Span},
};

/// Arguments kept of a process, and bytes of each.
const ARGUMENTS_MAX: usize = 24;
const ARGUMENT_BYTES_MAX: usize = 512;
/// Generations that are looked at between two processes.
const DEPTH_MAX: usize = 64;
/// Processes that are told.
const TOLD_MAX: usize = 3000;
/// Processes without room that are told apart in order to be counted.
const BEYOND_MAX: usize = 200_000;

/// A thread group number is used again, with its start it is not.
type Id = (u32, u64);

/// See the module.
#[derive(Default)]
pub(super) struct Processes {
    nodes: Vec<ProcessText>,
    index: HashMap<Id, u32>,
    /// The latest of a thread group number.
    latest: HashMap<u32, u32>,
    /// Processes without room: what they did stands in the other tables all the same.
    beyond: HashSet<Id>,
}

impl Processes {
    /// The process of an event; made when it is new and has room.
    pub(super) fn acting(&mut self, seen: &Seen<'_>, budget: &mut Budget) -> Option<u32> {
        let process = &seen.observed.process;
        let parent = self.latest.get(&process.ppid).copied();
        let node = self.insert((process.tgid, process.start_ns), parent, seen.time, budget)?;
        let known = &mut self.nodes[node as usize];
        known.span.to = known.span.to.max(seen.time);
        known.uid = process.uid;
        if known.exe.is_empty() {
            known.exe = process.image.exe.clone();
        }
        Some(node)
    }

    /// Its child.
    pub(super) fn fork(&mut self, seen: &Seen<'_>, child: &Target, budget: &mut Budget) {
        let id = (child.tgid, child.start_ns);
        if self.index.contains_key(&id) {
            return;
        }
        let Some(node) = self.insert(id, seen.node, seen.time, budget) else { return };
        if let Some(parent) = seen.node {
            let (exe, argv) = self.image(parent);
            let child = &mut self.nodes[node as usize];
            (child.exe, child.argv) = (exe, argv);
        }
    }

    fn image(&self, node: u32) -> (Bytes, Vec<Bytes>) {
        let node = &self.nodes[node as usize];
        (node.exe.clone(), node.argv.clone())
    }

    /// Its new image. Without room for the arguments they are left out.
    pub(super) fn exec(&mut self, node: Option<u32>, exec: &Exec, budget: &mut Budget) {
        let Some(node) = node else { return };
        let known = &mut self.nodes[node as usize];
        let exe = if exec.interpreter.is_empty() { &exec.file.path } else { &exec.interpreter };
        let argv = arguments(&exec.argv);
        let has_room = budget.take(exe.as_bytes().len() + size(&argv));
        known.exe = exe.clone();
        known.argv = if has_room { argv } else { Vec::new() };
        known.execs += 1;
    }

    /// Its end.
    pub(super) fn exit(&mut self, node: Option<u32>, status: u32) {
        if let Some(node) = node {
            self.nodes[node as usize].status = Some(status);
        }
    }

    /// Counts what it did.
    pub(super) fn count(&mut self, node: Option<u32>, lane: Lane) {
        let Some(known) = node.map(|node| &mut self.nodes[node as usize]) else { return };
        match lane {
            Lane::Processes => {}
            Lane::Reads => known.reads += 1,
            Lane::Writes => known.writes += 1,
            Lane::Contacts => known.contacts += 1,
            Lane::Violations => known.violations += 1,
        }
    }

    /// How `other` stands to `node`.
    pub(super) fn relation(&self, node: Option<u32>, other: Option<u32>) -> Relation {
        match (node, other) {
            (Some(node), Some(other)) if node == other => Relation::SameProcess,
            (Some(node), Some(other)) if self.is_beneath(other, node) => Relation::Descendant,
            (Some(node), Some(other)) if self.is_beneath(node, other) => Relation::Ancestor,
            _ => Relation::SameTree,
        }
    }

    fn is_beneath(&self, node: u32, above: u32) -> bool {
        let parent = |node: &usize| self.nodes[*node].parent;
        std::iter::successors(parent(&(node as usize)), parent)
            .take(DEPTH_MAX)
            .any(|parent| parent == above as usize)
    }

    /// The processes, parents before children. Of very many those that matter are kept, with the
    /// way that leads to them.
    pub(super) fn finish(self) -> Capped<ProcessText> {
        let Self { nodes, beyond, .. } = self;
        let more = beyond.len() as u64;
        if nodes.len() <= TOLD_MAX {
            return Capped { items: nodes, more };
        }
        let mut kept = vec![false; nodes.len()];
        let mut room = TOLD_MAX;
        for wanted in [|node: &ProcessText| node.violations + node.contacts != 0, |_: &_| true] {
            for (number, _) in nodes.iter().enumerate().filter(|(_, node)| wanted(node)) {
                let way = std::iter::successors(Some(number), |number| nodes[*number].parent);
                let way: Vec<usize> = way.take_while(|number| !kept[*number]).collect();
                if way.len() <= room {
                    room -= way.len();
                    way.iter().for_each(|number| kept[*number] = true);
                }
            }
        }
        let mut places = vec![0; nodes.len()];
        let mut list = Capped { items: Vec::new(), more };
        for (number, mut node) in nodes.into_iter().enumerate() {
            if kept[number] {
                node.parent = node.parent.map(|parent| places[parent]);
                places[number] = list.items.len();
                list.items.push(node);
            } else {
                list.more += 1;
            }
        }
        list
    }

    fn insert(
        &mut self,
        id: Id,
        parent: Option<u32>,
        time: Moment,
        budget: &mut Budget,
    ) -> Option<u32> {
        if let Some(&node) = self.index.get(&id) {
            return Some(node);
        }
        let inherited = parent.map_or(0, |parent| {
            let parent = &self.nodes[parent as usize];
            parent.exe.as_bytes().len() + size(&parent.argv)
        });
        if !budget.take(inherited) {
            if self.beyond.len() < BEYOND_MAX {
                self.beyond.insert(id);
            }
            return None;
        }
        let node = self.nodes.len() as u32;
        self.index.insert(id, node);
        self.latest.insert(id.0, node);
        self.nodes.push(ProcessText {
            tgid: id.0,
            start_ns: id.1,
            parent: parent.map(|parent| parent as usize),
            exe: Bytes::default(),
            argv: Vec::new(),
            uid: 0,
            span: Span { from: time, to: time },
            status: None,
            execs: 0,
            reads: 0,
            writes: 0,
            contacts: 0,
            violations: 0,
        });
        Some(node)
    }
}

fn size(argv: &[Bytes]) -> usize {
    argv.iter().map(|argument| argument.as_bytes().len() + 16).sum()
}

/// The first arguments, each cut to a bound.
pub(super) fn arguments(argv: &[Bytes]) -> Vec<Bytes> {
    let short = |argument: &Bytes| {
        let bytes = argument.as_bytes();
        Bytes::from(&bytes[..bytes.len().min(ARGUMENT_BYTES_MAX)])
    };
    argv.iter().take(ARGUMENTS_MAX).map(short).collect()
}
