//! The files of one instance: what was read, what was changed, and what became of it.

use std::{collections::HashMap, iter};

use monitor_common::record::{change, did};

use super::{Budget, Seen, set_names};
use crate::{
    event::{Bytes, File},
    report::model::{Actor, Capped, ChangedFile, Effect, Fate, ReadDirectory, Span},
};

/// Changed files that are told, and directories that were read from, and names in each.
const CHANGED_MAX: usize = 2000;
const DIRECTORIES_MAX: usize = 60;
const NAMES_MAX: usize = 40;

/// An open that changes the file.
pub(super) const WRITES: u32 =
    did::WRITE | did::CREATE | did::TRUNCATE | did::APPEND | did::TEMPORARY;

/// What was done to a file, by bit: the changes of [`change`], then those of an open.
const OPENED_TO_WRITE: u32 = 1 << 16;
const CREATED: u32 =
    1 << change::CREATE | 1 << change::MKDIR | 1 << change::MKNOD | 1 << change::SYMLINK | 1 << 17;
const CREATED_BY_OPEN: u32 = 1 << 17;
const RENAMED_HERE: u32 = 1 << 18;
const LINKED_HERE: u32 = 1 << 19;
const GONE: u32 = 1 << change::UNLINK | 1 << change::RMDIR | 1 << change::RENAME;
const ATTRIBUTES: u32 =
    1 << change::CHMOD | 1 << change::CHOWN | 1 << change::XATTR | 1 << change::TIMES;

/// See the module.
#[derive(Default)]
pub(super) struct Files {
    entries: HashMap<Bytes, Entry>,
    /// Opens to read, and changes, of files without room.
    reads_beyond: u64,
    changes_beyond: u64,
}

struct Entry {
    sets: u32,
    reads: u64,
    change: Option<Box<Change>>,
}

struct Change {
    done: u32,
    /// The first that took effect made it; the last took it away.
    is_new: Option<bool>,
    is_gone: bool,
    count: u64,
    refused: u64,
    other: Option<Bytes>,
    span: Span,
    actor: Actor,
}

impl Files {
    /// A file opened to read.
    pub(super) fn read(&mut self, seen: &Seen<'_>, file: &File, budget: &mut Budget) {
        if seen.effect == Effect::Refused {
            return;
        }
        match self.entry(seen, &file.path, budget) {
            Some(entry) => {
                entry.reads += 1;
                entry.sets |= seen.sets(file.sets);
            }
            None => self.reads_beyond += 1,
        }
    }

    /// A file opened to be written.
    pub(super) fn write(&mut self, seen: &Seen<'_>, file: &File, access: u32, budget: &mut Budget) {
        let created = if access & did::CREATE != 0 { CREATED_BY_OPEN } else { 0 };
        let truncated = if access & did::TRUNCATE != 0 { 1 << change::TRUNCATE } else { 0 };
        let bits = OPENED_TO_WRITE | created | truncated;
        self.changed(seen, &file.path, file.sets, bits, None, budget);
    }

    /// A file changed by another call.
    pub(super) fn change(
        &mut self,
        seen: &Seen<'_>,
        op: u8,
        file: &File,
        second: &Bytes,
        budget: &mut Budget,
    ) {
        let other = Some(second).filter(|second| !second.is_empty());
        self.changed(seen, &file.path, file.sets, 1 << op, other, budget);
        let there = match op {
            change::RENAME => RENAMED_HERE,
            change::LINK => LINKED_HERE,
            _ => return,
        };
        if let Some(other) = other {
            self.changed(seen, other, file.sets, there, Some(&file.path), budget);
        }
    }

    fn changed(
        &mut self,
        seen: &Seen<'_>,
        path: &Bytes,
        sets: u32,
        bits: u32,
        other: Option<&Bytes>,
        budget: &mut Budget,
    ) {
        let room = other.map_or(0, |other| other.as_bytes().len());
        let (actor, sets) = (seen.actor(), seen.sets(sets));
        let Some(entry) = self.entry(seen, path, budget) else {
            self.changes_beyond += 1;
            return;
        };
        entry.sets |= sets;
        let fresh = || {
            let span = Span { from: seen.time, to: seen.time };
            Box::new(Change {
                done: 0,
                is_new: None,
                is_gone: false,
                count: 0,
                refused: 0,
                other: None,
                span,
                actor,
            })
        };
        let known = entry.change.get_or_insert_with(fresh);
        known.count += 1;
        known.span.to = known.span.to.max(seen.time);
        if seen.effect == Effect::Refused {
            known.refused += 1;
            return;
        }
        known.done |= bits;
        let arrives = bits & (CREATED | RENAMED_HERE | LINKED_HERE) != 0;
        known.is_new.get_or_insert(arrives);
        known.is_gone = bits & GONE != 0;
        if known.other.is_none() && budget.take(room) {
            known.other = other.cloned();
        }
    }

    fn entry(&mut self, seen: &Seen<'_>, path: &Bytes, budget: &mut Budget) -> Option<&mut Entry> {
        if !self.entries.contains_key(path) {
            // With room for who may come to change it.
            let exe = seen.observed.process.image.exe.as_bytes().len();
            if !budget.take(path.as_bytes().len() + exe) {
                return None;
            }
            self.entries.insert(path.clone(), Entry { sets: 0, reads: 0, change: None });
        }
        self.entries.get_mut(path)
    }

    /// What was changed, and what was read by directory.
    pub(super) fn finish(self) -> (Capped<ChangedFile>, Capped<ReadDirectory>) {
        let mut changed = Capped { items: Vec::new(), more: self.changes_beyond };
        let mut read = Vec::new();
        for (path, entry) in self.entries {
            if entry.reads != 0 {
                read.push((path.clone(), entry.reads));
            }
            if let Some(change) = entry.change {
                changed.items.push(told(path, entry.sets, *change));
            }
        }
        let changed = changed.sorted(CHANGED_MAX, |a, b| {
            let plain = |file: &ChangedFile| file.sets.is_empty();
            (plain(a), a.fate, &a.path).cmp(&(plain(b), b.fate, &b.path))
        });
        (changed, directories(read, self.reads_beyond))
    }
}

fn told(path: Bytes, sets: u32, change: Change) -> ChangedFile {
    let Change { done, is_new, is_gone, count, refused, other, span, actor } = change;
    let fate = match is_new {
        None => Fate::Untouched,
        Some(true) if is_gone => Fate::Temporary,
        Some(true) if done & (CREATED | LINKED_HERE) != 0 || done & RENAMED_HERE != 0 => {
            Fate::Created
        }
        _ if is_gone => Fate::Deleted,
        _ if done & !(ATTRIBUTES | 1 << change::LINK) == 0 => Fate::Attributes,
        _ => Fate::Changed,
    };
    let names = [
        (OPENED_TO_WRITE, "opened to write"),
        (CREATED_BY_OPEN, "created"),
        (RENAMED_HERE, "renamed to here"),
        (LINKED_HERE, "linked to here"),
    ];
    let ops = (1..change::NAMES.len()).map(|op| (1 << op, change::NAMES[op]));
    let done = ops.chain(names).filter(|(bit, _)| done & bit != 0).map(|(_, name)| name).collect();
    ChangedFile { path, fate, done, other, sets: set_names(sets), count, refused, span, actor }
}

/// Directories with the files that were read beneath them: deep ones are counted into those above
/// them until few are left.
fn directories(files: Vec<(Bytes, u64)>, beyond: u64) -> Capped<ReadDirectory> {
    let mut groups: HashMap<Vec<u8>, Vec<(Bytes, u64)>> = HashMap::new();
    for file in files {
        groups.entry(parent(file.0.as_bytes()).to_vec()).or_default().push(file);
    }
    while groups.len() > DIRECTORIES_MAX {
        let deepest = groups.keys().map(|name| depth(name)).max().unwrap_or(0);
        if deepest <= 1 {
            break;
        }
        let deep: Vec<_> = groups.keys().filter(|name| depth(name) == deepest).cloned().collect();
        for name in deep {
            let files = groups.remove(&name).unwrap_or_default();
            groups.entry(parent(&name).to_vec()).or_default().extend(files);
        }
    }
    let items: Vec<_> = groups.into_iter().map(directory).collect();
    let most = DIRECTORIES_MAX;
    Capped { items, more: beyond }.sorted(most, |a, b| {
        (a.is_system, std::cmp::Reverse(a.files), &a.directory).cmp(&(
            b.is_system,
            std::cmp::Reverse(b.files),
            &b.directory,
        ))
    })
}

fn directory((name, mut files): (Vec<u8>, Vec<(Bytes, u64)>)) -> ReadDirectory {
    files.sort();
    let count = files.len();
    let opens = files.iter().map(|(_, opens)| opens).sum();
    let shown: Vec<Bytes> = files.into_iter().take(NAMES_MAX).map(|(path, _)| path).collect();
    let more = (count - shown.len()) as u64;
    ReadDirectory {
        is_system: is_system(&name),
        directory: Bytes::from(name.as_slice()),
        files: count as u64,
        opens,
        names: Capped { items: shown, more },
    }
}

/// Where programs keep what they are made of: read by every program, by the thousand.
fn is_system(directory: &[u8]) -> bool {
    const ROOTS: [&[u8]; 9] =
        [b"usr", b"lib", b"lib64", b"bin", b"sbin", b"etc", b"proc", b"sys", b"dev"];
    let mut parts = directory.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    ROOTS.contains(&first)
        || iter::once(first)
            .chain(parts)
            .any(|part| part == b"node_modules" || part == b"site-packages")
}

fn depth(path: &[u8]) -> usize {
    memchr::memchr_iter(b'/', path).count()
}

fn parent(path: &[u8]) -> &[u8] {
    match memchr::memrchr(b'/', path) {
        Some(0) | None => b"/",
        Some(end) => &path[..end],
    }
}
