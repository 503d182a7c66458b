//! Which inodes carry the sets' labels: members with a literal beginning that exist now. Labels
//! make a set hold under other names too: hard links, bind mounts, other mount namespaces.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use monitor_common::policy::{Label, class};

use super::{
    load::PathRule,
    pattern::{Component, name_matches},
};

/// Directory entries that one pattern may make us look at.
const LOOKS_MAX: usize = 20_000;
/// Files beneath one of the sets' directories that are looked at for other names: a cache full of
/// them does not keep us from looking at keys.
const WALKED_MAX: usize = 5_000;
/// File systems whose inodes are made up as they are asked for.
const VIRTUAL: [&str; 2] = ["/proc", "/sys"];

/// Labels for the members of the sets, in the order of their paths. Of the directories of others no
/// files with several names are looked for: there may be many of them.
pub fn of_sets(own: &[PathRule], others: &[PathRule]) -> Vec<(PathBuf, Label)> {
    let mut labels = BTreeMap::new();
    add_members(&mut labels, others);
    let trees = add_members(&mut labels, own);
    for (path, bits) in trees {
        let (mut looks, mut found) = (WALKED_MAX, Vec::new());
        linked(&path, &mut looks, &mut found);
        for file in found {
            labels.entry(file).or_default().own |= bits;
        }
    }
    labels.into_iter().collect()
}

/// Adds the members that rules name; those that are whole directories, with the bits of what lies
/// beneath.
fn add_members(
    labels: &mut BTreeMap<PathBuf, Label>,
    rules: &[PathRule],
) -> BTreeMap<PathBuf, u32> {
    let mut trees: BTreeMap<PathBuf, u32> = BTreeMap::new();
    for rule in rules {
        let (pattern, bits) = (&rule.pattern, rule.class & class::SETS);
        if bits == 0 || rule.is_link || pattern.is_floating() || pattern.is_abstract() {
            continue;
        }
        let start = PathBuf::from(OsStr::from_bytes(&pattern.prefix));
        if pattern.prefix.is_empty() || VIRTUAL.iter().any(|place| start.starts_with(place)) {
            continue;
        }
        let mut looks = LOOKS_MAX;
        let (names, tree) = match pattern.rest.split_last() {
            Some((Component::Recursive, names)) => (names, true),
            _ => (pattern.rest.as_slice(), false),
        };
        for path in members(start, names, &mut looks) {
            if tree {
                *trees.entry(path.clone()).or_default() |= bits;
            }
            let label = labels.entry(path).or_default();
            label.own |= bits;
            if tree {
                label.beneath |= bits;
            }
        }
    }
    trees
}

/// Files beneath `directory` that have more than one name: under another one, no directory above
/// says what they are.
fn linked(directory: &Path, looks: &mut usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if *looks == 0 {
            return;
        }
        *looks -= 1;
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            linked(&entry.path(), looks, found);
        } else if metadata.is_file() && metadata.nlink() > 1 {
            found.push(entry.path());
        }
    }
}

/// Existing paths beneath `start` that the components lead to.
fn members(start: PathBuf, components: &[Component], looks: &mut usize) -> Vec<PathBuf> {
    let Some((component, rest)) = components.split_first() else {
        return fs::canonicalize(start).into_iter().collect();
    };
    // `**` in the middle: the members are too many to find, the path alone decides.
    let Component::Name(pieces) = component else { return Vec::new() };
    let Ok(entries) = fs::read_dir(&start) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        if *looks == 0 {
            break;
        }
        *looks -= 1;
        if name_matches(pieces, entry.file_name().as_bytes()) {
            found.extend(members(start.join(entry.file_name()), rest, looks));
        }
    }
    found
}
