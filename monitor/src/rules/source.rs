//! Rule texts and places in them.

use std::{ops::Range, sync::Arc};

use crate::event::SourceText;

/// What a rule text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// `servers/NAME.toml`.
    Server,
    /// `servers/NAME.d/*.toml`, which goes on where the server's own file ends.
    DropIn,
    /// Lines that a person has granted for a while; they stand in no directory.
    Grant,
    /// `includes/NAME.toml`.
    Include,
    /// `sets/NAME.toml`.
    Set,
}

impl SourceKind {
    /// The word in recordings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::DropIn => "drop-in",
            Self::Grant => "grant",
            Self::Include => "include",
            Self::Set => "set",
        }
    }

    /// The folder of a rules directory that holds such texts; drop-ins stand in one by the name of
    /// their server in there.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Server | Self::DropIn => "servers",
            Self::Grant => "grants",
            Self::Include => "includes",
            Self::Set => "sets",
        }
    }
}

/// One rule text in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is.
    pub kind: SourceKind,
    /// Its name, without directory and ending.
    pub name: String,
    /// The file as people find it; `built-in/...` for the copy inside the binary.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// Line of a byte, from 1.
    pub fn line(&self, byte: usize) -> u32 {
        let before = self.text.as_bytes().get(..byte).unwrap_or(self.text.as_bytes());
        let newlines = before.iter().filter(|b| **b == b'\n').count();
        u32::try_from(newlines).map_or(u32::MAX, |newlines| newlines.saturating_add(1))
    }
}

impl From<&Source> for SourceText {
    fn from(source: &Source) -> Self {
        Self {
            kind: source.kind.name().to_owned(),
            name: source.name.clone(),
            path: source.path.clone(),
            text: source.text.clone(),
        }
    }
}

/// Where an entry stands.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The text.
    pub source: Arc<Source>,
    /// Bytes of the entry within it.
    pub span: Range<usize>,
    /// The list that holds it, such as `files.read` or `sets.secrets`.
    pub list: String,
    /// The entry as written, without quotes.
    pub written: String,
}
