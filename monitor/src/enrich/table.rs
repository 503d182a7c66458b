//! The processes of the watched trees, as far as records tell: who runs what, and who started
//! whom. Bounded; an ended process stays for a while, because records of two rings and of other
//! CPUs may come late, and for as long as a process beneath it lives, because chains lead
//! through it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use monitor_common::{
    limits,
    record::{Target, flags},
};

use crate::event::{Ancestor, Body, Bytes, Event, Exec, Image, Known, Observed, Process};

/// How long an ended process is remembered.
const GRACE_NS: u64 = 2_000_000_000;
/// Processes remembered at most.
const PROCESSES_MAX: usize = limits::TAGS_MAX as usize;
/// Processes of a chain; in a longer one the middle is left out.
const CHAIN_MAX: usize = 32;
/// Arguments kept of each process, and bytes of each.
const ARGUMENTS_MAX: usize = 8;
const ARGUMENT_BYTES_MAX: usize = 256;

/// Identity of a process: a thread group number is used again, with its start it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Id {
    tgid: u32,
    start_ns: u64,
}

struct Entry {
    image: Arc<Image>,
    argv: Arc<[Bytes]>,
    parent: Option<Id>,
    /// Remembered processes that name this one as parent.
    children: u32,
    /// Ended, and its grace is over.
    gone: bool,
}

/// Bytes of the processes that a header holds at most.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// See the module.
#[derive(Default)]
pub struct Table {
    entries: HashMap<Id, Entry>,
    /// The latest start seen of a thread group number.
    starts: HashMap<u32, u64>,
    ended: VecDeque<(u64, Id)>,
}

impl Table {
    /// Fills in the program of a process, as it was before what its event tells. Of a process that
    /// is not known what the event itself says is taken.
    pub(super) fn recognise(&mut self, process: &mut Process) {
        let id = Id { tgid: process.tgid, start_ns: process.start_ns };
        if !self.entries.contains_key(&id) {
            let parent = self.by_number(process.ppid).filter(|parent| *parent != id);
            self.insert(id, parent);
            let known = self.entries.get_mut(&id).filter(|entry| entry.image.exe.is_empty());
            if let Some(entry) = known {
                entry.image = process.image.clone();
            }
        }
        if let Some(entry) = self.entries.get(&id) {
            process.image = entry.image.clone();
        }
    }

    /// Takes over what an event tells about processes, without telling the event what is known.
    pub fn learn(&mut self, event: &Event) {
        let Some(observed) = &event.observed else { return };
        if matches!(event.body, Body::Exec(_) | Body::Fork { .. } | Body::Exit { .. }) {
            self.recognise(&mut observed.process.clone());
            self.apply(event);
        }
    }

    /// What is known, oldest first, for the header of a segment. Beyond a bound the youngest are
    /// left out.
    pub fn known(&self) -> Vec<Known> {
        let ended: HashSet<Id> = self.ended.iter().map(|(_, id)| *id).collect();
        let mut all: Vec<(&Id, &Entry)> = self.entries.iter().collect();
        all.sort_by_key(|(id, _)| (id.start_ns, id.tgid));
        let mut bytes = 0;
        all.into_iter()
            .map(|(id, entry)| Known {
                tgid: id.tgid,
                start_ns: id.start_ns,
                parent: entry.parent.map(|parent| (parent.tgid, parent.start_ns)),
                exe: entry.image.exe.clone(),
                cwd: entry.image.cwd.clone(),
                argv: entry.argv.to_vec(),
                ended: entry.gone || ended.contains(id),
            })
            .take_while(|known| {
                let texts = known.argv.iter().chain([&known.exe, &known.cwd]);
                bytes += 100 + texts.map(|text| text.as_bytes().len()).sum::<usize>();
                bytes <= HEADER_BYTES_MAX
            })
            .collect()
    }

    /// The inverse of [`Table::known`].
    pub fn of_known(known: &[Known]) -> Self {
        let mut table = Self::default();
        for Known { tgid, start_ns, parent, exe, cwd, argv, ended } in known {
            let id = Id { tgid: *tgid, start_ns: *start_ns };
            table.insert(id, parent.map(|(tgid, start_ns)| Id { tgid, start_ns }));
            if let Some(entry) = table.entries.get_mut(&id) {
                entry.image = Arc::new(Image { exe: exe.clone(), cwd: cwd.clone() });
                entry.argv = argv.iter().take(ARGUMENTS_MAX).cloned().collect();
            }
            if *ended {
                table.ended.push_back((0, id));
            }
        }
        table
    }

    /// Takes over what an event tells about processes.
    pub(super) fn apply(&mut self, event: &Event) {
        let Some(Observed { process, .. }) = &event.observed else { return };
        let id = Id { tgid: process.tgid, start_ns: process.start_ns };
        match &event.body {
            Body::Fork { child: Target { tgid, start_ns, .. } } => {
                self.insert(Id { tgid: *tgid, start_ns: *start_ns }, Some(id));
            }
            Body::Exec(exec) if !refused(event) => self.exec(id, exec),
            Body::Exit { .. } => self.ended.push_back((event.boot_ns, id)),
            _ => {}
        }
        self.forget(event.boot_ns);
    }

    /// From the root of the tree to the process.
    pub(super) fn chain(&self, process: &Process) -> Vec<Ancestor> {
        let mut id = Some(Id { tgid: process.tgid, start_ns: process.start_ns });
        let mut chain = Vec::new();
        while let Some((known, entry)) = id.and_then(|id| Some((id, self.entries.get(&id)?))) {
            chain.push(Ancestor {
                tgid: known.tgid,
                start_ns: known.start_ns,
                exe: entry.image.exe.clone(),
                argv: entry.argv.to_vec(),
            });
            if chain.len() > CHAIN_MAX {
                chain.remove(CHAIN_MAX / 2);
            }
            id = entry.parent;
        }
        chain.reverse();
        chain
    }

    fn by_number(&self, tgid: u32) -> Option<Id> {
        self.starts.get(&tgid).map(|&start_ns| Id { tgid, start_ns })
    }

    /// A process starts as a copy of its parent.
    fn insert(&mut self, id: Id, parent: Option<Id>) {
        if self.entries.contains_key(&id) || self.entries.len() >= PROCESSES_MAX {
            return;
        }
        let parent = parent.filter(|parent| self.entries.contains_key(parent));
        let (image, argv) = match parent.and_then(|parent| self.entries.get_mut(&parent)) {
            Some(entry) => {
                entry.children += 1;
                (entry.image.clone(), entry.argv.clone())
            }
            None => Default::default(),
        };
        self.starts.insert(id.tgid, id.start_ns);
        self.entries.insert(id, Entry { image, argv, parent, children: 0, gone: false });
    }

    fn exec(&mut self, id: Id, exec: &Exec) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let exe = if exec.interpreter.is_empty() { &exec.file.path } else { &exec.interpreter };
        entry.image = Arc::new(Image { exe: exe.clone(), cwd: exec.cwd.clone() });
        let short = |argument: &Bytes| {
            let bytes = argument.as_bytes();
            Bytes::from(&bytes[..bytes.len().min(ARGUMENT_BYTES_MAX)])
        };
        entry.argv = exec.argv.iter().take(ARGUMENTS_MAX).map(short).collect();
    }

    fn forget(&mut self, now_ns: u64) {
        while let Some(&(ended_ns, id)) = self.ended.front() {
            let crowded = self.entries.len() >= PROCESSES_MAX;
            if ended_ns.saturating_add(GRACE_NS) > now_ns && !crowded {
                return;
            }
            self.ended.pop_front();
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.gone = true;
                self.remove_with_parents(id);
            }
        }
    }

    /// Removes a process that is gone and leads nowhere, then those above it that were only kept
    /// for its sake.
    fn remove_with_parents(&mut self, mut id: Id) {
        while self.entries.get(&id).is_some_and(|entry| entry.gone && entry.children == 0) {
            let Some(entry) = self.entries.remove(&id) else { return };
            if self.starts.get(&id.tgid) == Some(&id.start_ns) {
                self.starts.remove(&id.tgid);
            }
            let Some(parent) = entry.parent else { return };
            if let Some(above) = self.entries.get_mut(&parent) {
                above.children -= 1;
            }
            id = parent;
        }
    }
}

/// An exec that was refused, or has only been judged so far, leaves the process as it was.
fn refused(event: &Event) -> bool {
    let observed = event.observed.as_ref();
    let only_judged = observed.is_some_and(|observed| observed.flags & flags::CHECK != 0);
    only_judged || event.violation.as_ref().is_some_and(|it| it.is_refused())
}

#[cfg(test)]
mod tests {
    use monitor_common::record::enforced;

    use super::*;
    use crate::event::tests::sample;

    fn event(tgid: u32, boot_ns: u64, body: Body) -> Event {
        let mut event = sample(b"/x");
        let observed = event.observed.as_mut().unwrap();
        observed.process.tgid = tgid;
        observed.process.start_ns = u64::from(tgid);
        event.violation = None;
        Event { boot_ns, body, ..event }
    }

    fn fork(tgid: u32, child: u32) -> Event {
        let child = Target { tgid: child, start_ns: u64::from(child), instance: 1 };
        event(tgid, 1, Body::Fork { child })
    }

    fn exec(tgid: u32, path: &str) -> Event {
        let Body::Open { mut file, .. } = sample(path.as_bytes()).body else { unreachable!() };
        file.labels = 0;
        let exec =
            Exec { file, interpreter: Bytes::default(), argv: vec![path.into()], cwd: "/".into() };
        event(tgid, 1, Body::Exec(Box::new(exec)))
    }

    fn seen(table: &mut Table, tgid: u32, ppid: u32) -> Process {
        let mut process = sample(b"/x").observed.unwrap().process;
        (process.tgid, process.ppid, process.start_ns) = (tgid, ppid, u64::from(tgid));
        process.image = Arc::default();
        table.recognise(&mut process);
        process
    }

    fn exes(table: &mut Table, tgid: u32) -> Vec<String> {
        let process = seen(table, tgid, 0);
        table.chain(&process).iter().map(|ancestor| ancestor.exe.to_text()).collect()
    }

    fn apply(table: &mut Table, events: &[Event]) {
        seen(table, 1, 0);
        events.iter().for_each(|event| table.apply(event));
    }

    /// A process of three generations, of which the middle one has ended.
    fn orphaned_grandchild() -> Table {
        let mut table = Table::default();
        let events = [
            exec(1, "/usr/bin/node"),
            fork(1, 2),
            exec(2, "/bin/sh"),
            fork(2, 3),
            event(2, 5, Body::Exit { status: 0 }),
        ];
        apply(&mut table, &events);
        table
    }

    #[test]
    fn a_chain_leads_from_the_root_through_processes_that_have_ended() {
        let mut table = orphaned_grandchild();
        for event in [exec(3, "/bin/cat"), event(1, 5 + 2 * GRACE_NS, Body::IoUring)] {
            table.apply(&event);
        }
        assert_eq!(exes(&mut table, 3), ["/usr/bin/node", "/bin/sh", "/bin/cat"]);
    }

    #[test]
    fn a_fork_runs_its_parents_program_and_a_refused_exec_changes_nothing() {
        let mut table = Table::default();
        let mut denied = exec(2, "/bin/evil");
        denied.violation = sample(b"").violation;
        denied.violation.as_mut().unwrap().answered = enforced::DENIED;
        apply(&mut table, &[exec(1, "/usr/bin/node"), fork(1, 2), denied]);
        assert_eq!(seen(&mut table, 2, 1).image.exe.to_text(), "/usr/bin/node");
        apply(&mut table, &[exec(2, "/bin/good")]);
        assert_eq!(seen(&mut table, 2, 1).image.exe.to_text(), "/bin/good");
    }

    #[test]
    fn an_ended_process_is_known_for_a_while_and_then_forgotten() {
        let mut table = Table::default();
        let end = event(2, 5, Body::Exit { status: 0 });
        apply(&mut table, &[exec(1, "/usr/bin/node"), fork(1, 2), end]);
        assert_eq!(exes(&mut table, 2).len(), 2);
        table.apply(&event(1, 6 + GRACE_NS, Body::IoUring));
        assert_eq!(table.entries.len(), 1);
        assert_eq!(table.starts.len(), 1);
    }

    #[test]
    fn a_process_whose_fork_was_lost_finds_its_parent_by_number() {
        let mut table = Table::default();
        apply(&mut table, &[exec(1, "/usr/bin/node")]);
        assert_eq!(seen(&mut table, 9, 1).image.exe.to_text(), "/usr/bin/node");
        assert_eq!(exes(&mut table, 9).len(), 2);
    }

    #[test]
    fn a_long_chain_keeps_its_root_and_its_end() {
        let mut table = Table::default();
        apply(&mut table, &[exec(1, "/root")]);
        (1..200).for_each(|tgid| table.apply(&fork(tgid, tgid + 1)));
        let process = seen(&mut table, 200, 0);
        let chain = table.chain(&process);
        assert_eq!(chain.len(), CHAIN_MAX);
        assert_eq!((chain[0].tgid, chain[CHAIN_MAX - 1].tgid), (1, 200));
    }

    #[test]
    fn what_a_header_holds_makes_the_same_table() {
        let table = orphaned_grandchild();
        let known = table.known();
        let mut again = Table::of_known(&known);
        assert_eq!(again.known(), known);
        assert_eq!(exes(&mut again, 3), ["/usr/bin/node", "/bin/sh", "/bin/sh"]);
        again.apply(&event(3, 6, Body::Exit { status: 0 }));
        again.apply(&event(1, 7 + GRACE_NS, Body::IoUring));
        assert_eq!(again.entries.len(), 1, "what had ended is forgotten with what it led to");
    }
}
