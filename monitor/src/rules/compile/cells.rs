//! States to [`Cell`]s: each state is put at the first position where its own cells meet none that
//! are taken, so that states with few cells lie interleaved.

use std::collections::HashMap;

use monitor_common::automaton::{ABSORBING, CLASS_CELLS, Cell, DEAD, OWNED, START};

use super::Automaton;

/// Number of the state that nothing leaves.
pub const DEAD_STATE: u32 = 0;
/// Number of the state before the first byte.
pub const START_STATE: u32 = 1;

/// A state: what it accepts, and where it leads by byte classes.
#[derive(Debug, Default)]
pub struct Moves {
    /// Class bits of what ends here.
    pub accept: u32,
    /// The state after bytes of all other classes.
    pub other: u32,
    /// Class and state after its bytes, in the order of classes.
    pub by_class: Vec<(u8, u32)>,
}

/// Lays states out, which have the numbers in which they come.
pub fn lay_out(class: &[u8; 256], states: &[Moves]) -> Automaton {
    let positions = positions(states);
    let last = positions.iter().copied().max().unwrap_or(START);
    let widest = class.iter().copied().max().unwrap_or_default();
    // All that a state may look at is the table's own.
    let length = last as usize + usize::from(widest) + 1;
    let mut cells = vec![Cell::default(); length];
    for (cell, bytes) in cells.iter_mut().zip(class.chunks(size_of::<Cell>())) {
        let half =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        let (low, high) = bytes.split_at(size_of::<u32>());
        *cell = Cell { next: half(low), owner: half(high) };
    }
    for (number, (state, at)) in (0..).zip(states.iter().zip(&positions)) {
        let position = |number: u32| positions[number as usize];
        let stays = state.other == number && state.by_class.is_empty();
        let absorbing = if stays { ABSORBING } else { 0 };
        cells[*at as usize] = Cell { next: position(state.other), owner: state.accept | absorbing };
        for (class, next) in &state.by_class {
            cells[*at as usize + usize::from(*class)] =
                Cell { next: position(*next), owner: at | OWNED };
        }
    }
    let mut digest = blake3::Hasher::new();
    for Cell { next, owner } in &cells {
        digest.update(&next.to_le_bytes()).update(&owner.to_le_bytes());
    }
    Automaton { cells, states: states.len(), digest: *digest.finalize().as_bytes() }
}

/// Where each state stands: those with most cells are put first, as they fit in the fewest places.
fn positions(states: &[Moves]) -> Vec<u32> {
    let mut order: Vec<usize> = (START_STATE as usize + 1..states.len()).collect();
    order.sort_by_key(|number| std::cmp::Reverse(states[*number].by_class.len()));
    let mut taken = Taken::default();
    let mut positions = vec![0; states.len()];
    for (number, at) in [(DEAD_STATE, DEAD), (START_STATE, START)] {
        if let Some(state) = states.get(number as usize) {
            taken.take(at as usize, state);
            positions[number as usize] = at;
        }
    }
    for number in order {
        let at = taken.place(&states[number]);
        positions[number] = at as u32;
    }
    positions
}

/// Positions that are taken.
struct Taken {
    cells: Vec<bool>,
    /// Where to look for states with cells of these classes: nothing before is free for them.
    from: HashMap<Vec<u8>, usize>,
}

impl Default for Taken {
    fn default() -> Self {
        Self { cells: vec![true; CLASS_CELLS as usize], from: HashMap::new() }
    }
}

impl Taken {
    fn place(&mut self, state: &Moves) -> usize {
        let classes: Vec<u8> = state.by_class.iter().map(|(class, _)| *class).collect();
        let is_free = |at: usize| !self.cells.get(at).copied().unwrap_or_default();
        let fits = |at: &usize| {
            is_free(*at) && classes.iter().all(|class| is_free(at + usize::from(*class)))
        };
        let from = self.from.get(&classes).copied().unwrap_or_default();
        let at = (from..).find(fits).expect("the cells behind the last are free");
        self.from.insert(classes, at + 1);
        self.take(at, state);
        at
    }

    fn take(&mut self, at: usize, state: &Moves) {
        let own = state.by_class.iter().map(|(class, _)| at + usize::from(*class));
        for at in own.chain([at]) {
            if at >= self.cells.len() {
                self.cells.resize(at + 1, false);
            }
            self.cells[at] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::automaton::step_exactly;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Classes of bytes, beside that of all others.
    const CLASSES: u8 = 9;
    const STATES: u32 = 40;

    /// States that lead anywhere, but for the first, which nothing leaves.
    fn states() -> impl Strategy<Value = Vec<Moves>> {
        let next = vec((1..=CLASSES, 0..STATES), 0..5);
        let state = (any::<u16>(), 0..STATES, next).prop_map(|(accept, other, mut by_class)| {
            by_class.sort_unstable();
            by_class.dedup_by_key(|(class, _)| *class);
            by_class.retain(|(_, next)| *next != other);
            Moves { accept: u32::from(accept), other, by_class }
        });
        vec(state, STATES as usize).prop_map(|mut states| {
            states[DEAD_STATE as usize] = Moves::default();
            states
        })
    }

    proptest! {
        #[test]
        fn every_byte_leads_where_its_state_says(states in states()) {
            let class: [u8; 256] = std::array::from_fn(|byte| byte as u8 % (CLASSES + 1));
            let table = lay_out(&class, &states);
            let positions = positions(&states);
            for (state, at) in states.iter().zip(&positions) {
                let own = table.cells[*at as usize];
                prop_assert_eq!(own.accept(), state.accept);
                let stays = states.len() as u32 > state.other && positions[state.other as usize] == *at;
                prop_assert_eq!(own.owner & ABSORBING != 0, stays && state.by_class.is_empty());
                for byte in 0..=u8::MAX {
                    let of_class = |(of, _): &&(u8, u32)| *of == class[usize::from(byte)];
                    let next = state.by_class.iter().find(of_class).map_or(state.other, |(_, next)| *next);
                    let step =
                        step_exactly(table.cells.as_slice(), 0, u64::from(*at), u64::from(byte), 1);
                    prop_assert_eq!(step.state, u64::from(positions[next as usize]));
                }
            }
        }
    }
}
