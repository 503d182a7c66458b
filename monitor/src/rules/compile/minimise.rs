//! Joins states that no path can tell apart (Moore's partition refinement).

use std::collections::HashMap;

use super::automaton::States;

/// Cells of a table beyond which it is left as it is: minimising saves memory, and above this
/// size it costs more time than a reload should take.
const CELLS_MAX: usize = 400_000;

/// The same table with fewer rows. Row 0 stays dead and row 1 the start.
pub fn minimise(states: States) -> States {
    if states.next.len() > CELLS_MAX {
        return states;
    }
    let blocks = partition(&states);
    renumber(&states, &blocks)
}

/// A block for each state; states of one block are equal.
fn partition(states: &States) -> Vec<u32> {
    let mut ids = HashMap::new();
    let mut blocks: Vec<u32> = states.accept.iter().map(|accept| id(&mut ids, *accept)).collect();
    let mut count = ids.len();
    loop {
        let mut ids: HashMap<Vec<u32>, u32> = HashMap::new();
        let refined: Vec<u32> = states
            .next
            .chunks(states.columns)
            .zip(&blocks)
            .map(|(cells, block)| {
                let follow = cells.iter().map(|next| blocks[*next as usize]);
                id(&mut ids, std::iter::once(*block).chain(follow).collect())
            })
            .collect();
        let unchanged = ids.len() == count;
        count = ids.len();
        blocks = refined;
        if unchanged {
            return blocks;
        }
    }
}

fn id<K: std::hash::Hash + Eq>(ids: &mut HashMap<K, u32>, key: K) -> u32 {
    let next = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    *ids.entry(key).or_insert(next)
}

fn renumber(states: &States, blocks: &[u32]) -> States {
    let dead = blocks[0];
    let mut numbers: HashMap<u32, u32> = HashMap::from([(dead, 0)]);
    let mut members = vec![0, 1];
    if blocks[1] == dead {
        // Nothing can match: the start is a dead state of its own.
        numbers.insert(u32::MAX, 1);
    } else {
        numbers.insert(blocks[1], 1);
    }
    for (state, block) in blocks.iter().enumerate() {
        let fresh = u32::try_from(members.len()).unwrap_or(u32::MAX);
        numbers.entry(*block).or_insert_with(|| {
            members.push(state);
            fresh
        });
    }
    let number = |next: &u32| numbers[&blocks[*next as usize]];
    let row =
        |state: &usize| states.next[state * states.columns..][..states.columns].iter().map(number);
    States {
        accept: members.iter().map(|state| states.accept[*state]).collect(),
        next: members.iter().flat_map(row).collect(),
        columns: states.columns,
    }
}
