//! Memory that a table may fill, in bytes: names of watched processes are as long as they like.

/// What is left for a table.
pub(super) struct Budget {
    left: usize,
}

/// What an entry costs beside its names.
const ENTRY: usize = 256;

impl Budget {
    pub(super) const fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    /// Takes room for an entry with names of this length; `false` when there is none.
    pub(super) fn take(&mut self, names: usize) -> bool {
        let cost = ENTRY + names;
        let has_room = self.left >= cost;
        self.left -= if has_room { cost } else { 0 };
        has_room
    }
}
