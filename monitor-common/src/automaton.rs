//! Globs in the kernel: one table walk gives every rule class that a path falls in.
//!
//! A table is a run of [`Row`]s. Row 0 is the dead state, row 1 the start. A path is eaten eight
//! bytes a step; the NULs behind its end change nothing. The cost grows with the length of the path
//! and not with the number of patterns; a table stops early in a state that it can no longer leave.
//!
//! Programs with their arguments have tables of their own, in which NUL is a byte like others: see
//! [`accepts_vector`].

use crate::wire;

/// Most byte classes that a table can tell apart: NUL, every printable ASCII character and some of
/// the bytes beyond. The built-in sets alone need 60 to 70, depending on names of homes.
pub const BYTE_CLASSES: usize = 124;
/// Class of NUL, which leads every state to itself.
pub const NUL_CLASS: usize = 0;
/// Cells of a [`Row`]; a power of two.
const CELLS: usize = 128;
/// Row of the state that no input leaves and that accepts nothing.
pub const DEAD: u64 = 0;
/// Row of the state before the first byte.
pub const START: u64 = 1;
/// [`Row::flags`]: every input stays in this state.
pub const ABSORBING: u32 = 1;

/// One state.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Row {
    /// Next state, as row number within the table, by byte class.
    pub next: [u16; BYTE_CLASSES],
    /// Bits of [`crate::policy::class`] that a path ending here falls in.
    pub accept: u32,
    /// [`ABSORBING`] or 0.
    pub flags: u32,
}

impl Row {
    /// Next state on a byte of a class. By a mask instead of a check, which the kernel's side would
    /// pay for at every byte; no table has classes from [`BYTE_CLASSES`] on.
    #[inline(always)]
    fn after(&self, class: u8) -> u64 {
        const { assert!(size_of::<Self>() == CELLS * 2 && CELLS.is_power_of_two()) };
        let cells = core::ptr::from_ref(self).cast::<u16>();
        // SAFETY: a row is CELLS cells long, the last ones being the other fields.
        unsafe { *cells.add(class as usize & (CELLS - 1)) as u64 }
    }
}

/// Byte to byte class, each below [`BYTE_CLASSES`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ByteClasses {
    /// Class of each byte.
    pub class: [u8; 256],
}

wire!(Row = 256, ByteClasses = 256);

/// Where the rows of all tables stand: a BPF array in the kernel, a slice in userspace.
pub trait Rows {
    /// The row at an absolute index, `None` past the end.
    fn row(&self, index: u64) -> Option<&Row>;
}

impl Rows for [Row] {
    fn row(&self, index: u64) -> Option<&Row> {
        self.get(index as usize)
    }
}

/// State after a step, and whether the walk is over.
pub struct Step {
    /// Row number within the table.
    pub state: u64,
    /// The path has ended or the state cannot change any more.
    pub done: bool,
}

/// Eats up to eight bytes of a path (`word`, little-endian, the rest NUL) from `state` of the
/// table that begins at row `base`.
#[inline(always)]
pub fn step<R: Rows + ?Sized>(
    rows: &R,
    base: u64,
    classes: &ByteClasses,
    mut state: u64,
    word: u64,
) -> Step {
    let mut eaten = 0;
    while eaten < 8 {
        let byte = (word >> (8 * eaten)) as u8;
        let Some(row) = rows.row(base.wrapping_add(state)) else {
            return Step { state: DEAD, done: true };
        };
        state = row.after(classes.class[byte as usize]);
        eaten += 1;
    }
    let ended = word >> 56 == 0;
    let done = match rows.row(base.wrapping_add(state)) {
        Some(row) => ended || row.flags & ABSORBING != 0,
        None => true,
    };
    Step { state, done }
}

/// The same for a table in which NUL is a byte like others: eats the first `count` bytes of a word
/// (all, if there are more).
#[inline(always)]
pub fn step_exactly<R: Rows + ?Sized>(
    rows: &R,
    base: u64,
    classes: &ByteClasses,
    mut state: u64,
    word: u64,
    count: u64,
) -> Step {
    let mut eaten = 0;
    while eaten < 8 {
        if eaten >= count {
            return Step { state, done: true };
        }
        let byte = (word >> (8 * eaten)) as u8;
        let Some(row) = rows.row(base.wrapping_add(state)) else {
            return Step { state: DEAD, done: true };
        };
        state = row.after(classes.class[byte as usize]);
        eaten += 1;
    }
    let row = rows.row(base.wrapping_add(state));
    Step { state, done: row.is_none_or(|row| row.flags & ABSORBING != 0) }
}

/// Whether a program may have these arguments, by the same steps as the kernel takes: `vector` is
/// its path and all of its arguments with argv\[0\], each ended by NUL.
pub fn accepts_vector<R: Rows + ?Sized>(
    rows: &R,
    base: u64,
    classes: &ByteClasses,
    vector: &[u8],
) -> bool {
    let mut state = START;
    for chunk in vector.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let count = chunk.len() as u64;
        let next = step_exactly(rows, base, classes, state, u64::from_le_bytes(word), count);
        state = next.state;
    }
    rows.row(base.wrapping_add(state)).is_some_and(|row| row.accept != 0)
}

/// Classes of a path, by the same steps as the kernel takes.
pub fn classify<R: Rows + ?Sized>(rows: &R, base: u64, classes: &ByteClasses, path: &[u8]) -> u32 {
    let mut state = START;
    for chunk in path.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let next = step(rows, base, classes, state, u64::from_le_bytes(word));
        state = next.state;
        if next.done {
            break;
        }
    }
    rows.row(base.wrapping_add(state)).map_or(0, |row| row.accept)
}
