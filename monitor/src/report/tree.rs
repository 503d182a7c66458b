//! The process tree as rows, with what many processes have in common told once.

use std::collections::HashMap;

use super::model::ProcessText;

/// Levels that are drawn; what is deeper stands at the last.
const DEPTH_MAX: usize = 40;
/// Childless siblings of one program that are told one by one.
const ALIKE_MAX: usize = 3;

/// A row.
pub(super) struct Row<'a> {
    /// Lines that lead to it, in box-drawing characters.
    pub rails: String,
    pub process: &'a ProcessText,
    /// Further processes that did alike.
    pub alike: u64,
}

/// The rows of a tree, in the order in which processes started.
pub(super) fn rows(processes: &[ProcessText]) -> Vec<Row<'_>> {
    let mut children: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
    for (number, process) in processes.iter().enumerate() {
        children.entry(process.parent).or_default().push(number);
    }
    let roots = children.remove(&None).unwrap_or_default();
    let mut rows = Vec::new();
    // A stack, not recursion: a hostile tree is as deep as it likes.
    let mut waiting: Vec<(usize, usize, String, bool)> =
        roots.into_iter().rev().map(|root| (root, 0, String::new(), true)).collect();
    let mut alike: HashMap<usize, u64> = HashMap::new();
    while let Some((number, depth, prefix, is_last)) = waiting.pop() {
        let rail = match (depth, is_last) {
            (0, _) => "",
            (_, true) => "└─ ",
            (_, false) => "├─ ",
        };
        let rails = format!("{prefix}{rail}");
        let folded = alike.remove(&number).unwrap_or(0);
        rows.push(Row { rails, process: &processes[number], alike: folded });
        let own = children.remove(&Some(number)).unwrap_or_default();
        let own = fold(processes, own, &children, &mut alike);
        let below = match (depth, is_last) {
            (0, _) => String::new(),
            (DEPTH_MAX.., _) => prefix,
            (_, true) => format!("{prefix}   "),
            (_, false) => format!("{prefix}│  "),
        };
        let count = own.len();
        let next = own.into_iter().enumerate().rev();
        waiting.extend(next.map(|(at, child)| (child, depth + 1, below.clone(), at + 1 == count)));
    }
    rows
}

/// Leaves out childless siblings that run the same and broke nothing, and counts them.
fn fold(
    processes: &[ProcessText],
    own: Vec<usize>,
    children: &HashMap<Option<usize>, Vec<usize>>,
    alike: &mut HashMap<usize, u64>,
) -> Vec<usize> {
    let mut groups: HashMap<(&[u8], Option<u32>), Vec<usize>> = HashMap::new();
    for number in &own {
        let process = &processes[*number];
        if process.violations == 0 && !children.contains_key(&Some(*number)) {
            let key = (process.exe.as_bytes(), process.status);
            groups.entry(key).or_default().push(*number);
        }
    }
    let mut gone = Vec::new();
    for group in groups.into_values().filter(|group| group.len() > ALIKE_MAX) {
        alike.insert(group[0], group.len() as u64 - 1);
        gone.extend_from_slice(&group[1..]);
    }
    own.into_iter().filter(|number| !gone.contains(number)).collect()
}
