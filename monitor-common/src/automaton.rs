//! Globs in the kernel: one table walk gives every rule class that a path falls in.
//!
//! A table is a run of [`Cell`]s. The first [`CLASS_CELLS`] hold the class of each byte. A state is the
//! position of a cell that says what the state accepts and where bytes lead that it knows nothing
//! of; the cells of the bytes that lead elsewhere stand as far behind it as their class says. Most
//! states know one or two bytes, so the states lie interleaved, and each cell names the state that it
//! belongs to (row displacement, the "comb vector" of parser generators).
//!
//! A path is eaten eight bytes a step; the NULs behind its end change nothing. The cost grows with
//! the length of the path and not with the number of patterns; a table stops early in a state that
//! it can no longer leave.
//!
//! Programs with their arguments have tables of their own, in which NUL is a byte like others: see
//! [`accepts_vector`].

use crate::{policy::class, wire};

/// Cells before the states: a byte of them for each byte, its class.
pub const CLASS_CELLS: u32 = 256 / size_of::<Cell>() as u32;
/// Class of the bytes that no state knows anything of.
pub const OTHER_CLASS: u8 = 0;
/// Class of NUL.
pub const NUL_CLASS: u8 = 1;
/// The state that no input leaves and that accepts nothing.
pub const DEAD: u32 = CLASS_CELLS;
/// The state before the first byte.
pub const START: u32 = CLASS_CELLS + 1;
/// [`Cell::owner`]: the cell belongs to the state in the other bits.
pub const OWNED: u32 = 1 << 30;
/// [`Cell::owner`] of a state itself: every input stays in it.
pub const ABSORBING: u32 = 1 << 29;

const _: () = assert!(class::SETS & (OWNED | ABSORBING) == 0);

/// Where a byte leads, or a state itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Next state; of a state itself: where the bytes lead that have no cell.
    pub next: u32,
    /// [`OWNED`] and the state; of a state itself: bits of [`crate::policy::class`] that a path
    /// ending here falls in, and [`ABSORBING`] or not.
    pub owner: u32,
}

wire!(Cell = 8);

impl Cell {
    /// Of a state itself: the classes of a path that ends here.
    #[inline(always)]
    pub fn accept(self) -> u32 {
        self.owner & !ABSORBING
    }
}

/// The table of no patterns.
pub const NOTHING: [Cell; START as usize + 1] = {
    let mut cells = [Cell { next: 0, owner: 0 }; START as usize + 1];
    cells[DEAD as usize] = Cell { next: DEAD, owner: ABSORBING };
    cells[START as usize] = cells[DEAD as usize];
    cells
};

/// A table, or the map that holds all of them.
pub trait Cells {
    /// The cell at an index. What lies outside belongs to no state.
    fn cell(&self, index: u64) -> Cell;

    /// The class of a byte in the table at `base`.
    fn class(&self, base: u64, byte: u8) -> u8;
}

impl Cells for [Cell] {
    fn cell(&self, index: u64) -> Cell {
        self.get(index as usize).copied().unwrap_or_default()
    }

    fn class(&self, base: u64, byte: u8) -> u8 {
        let Cell { next, owner } = self.cell(base + byte as u64 / 8);
        let word = next as u64 | (owner as u64) << 32;
        word.to_le_bytes()[byte as usize % 8]
    }
}

/// State after a step.
pub struct Step {
    /// The state.
    pub state: u64,
    /// [`ABSORBING`] when the state cannot change any more, else 0; a number, because the kernel's
    /// verifier would follow each outcome of a question apart.
    pub stays: u32,
}

/// The state after one more byte.
#[inline(always)]
fn after<C: Cells + ?Sized>(cells: &C, base: u64, state: u64, byte: u8) -> u64 {
    let at = base.wrapping_add(state);
    let cell = cells.cell(at.wrapping_add(cells.class(base, byte) as u64));
    if cell.owner == state as u32 | OWNED {
        return cell.next as u64;
    }
    cells.cell(at).next as u64
}

/// Eats up to eight bytes of a path (`word`, little-endian, the rest NUL) from `state` of the
/// table that begins at `base`.
#[inline(always)]
pub fn step<C: Cells + ?Sized>(cells: &C, base: u64, mut state: u64, word: u64) -> Step {
    let mut eaten = 0;
    while eaten < 8 {
        state = after(cells, base, state, (word >> (8 * eaten)) as u8);
        eaten += 1;
    }
    Step { state, stays: stays(cells, base, state) }
}

/// The same for a table in which NUL is a byte like others: eats the first `count` bytes of a word
/// (all, if there are more).
#[inline(always)]
pub fn step_exactly<C: Cells + ?Sized>(
    cells: &C,
    base: u64,
    mut state: u64,
    word: u64,
    count: u64,
) -> Step {
    let mut eaten = 0;
    while eaten < 8 {
        if eaten >= count {
            return Step { state, stays: ABSORBING };
        }
        state = after(cells, base, state, (word >> (8 * eaten)) as u8);
        eaten += 1;
    }
    Step { state, stays: stays(cells, base, state) }
}

/// [`Step::stays`] of a state.
#[inline(always)]
pub fn stays<C: Cells + ?Sized>(cells: &C, base: u64, state: u64) -> u32 {
    cells.cell(base.wrapping_add(state)).owner & ABSORBING
}

/// Whether a program may have these arguments, by the same steps as the kernel takes: `vector` is
/// its path and all of its arguments with argv\[0\], each ended by NUL.
pub fn accepts_vector<C: Cells + ?Sized>(cells: &C, vector: &[u8]) -> bool {
    let mut state = START as u64;
    for chunk in vector.chunks(8) {
        state = step_exactly(cells, 0, state, word(chunk), chunk.len() as u64).state;
    }
    cells.cell(state).accept() != 0
}

/// Classes of a path, by the same steps as the kernel takes.
pub fn classify<C: Cells + ?Sized>(cells: &C, path: &[u8]) -> u32 {
    let mut state = START as u64;
    for chunk in path.chunks(8) {
        let next = step(cells, 0, state, word(chunk));
        state = next.state;
        if next.stays != 0 {
            break;
        }
    }
    cells.cell(state).accept()
}

/// Up to eight bytes as a step takes them.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}
