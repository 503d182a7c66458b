//! `[[match]]`: by what a server is known that somebody else has started.

use std::ops::Range;

use toml::de::DeTable;

use super::{Entry, Match, reader::Reader};
use crate::rules::pattern::{PatternError, Piece, pieces};

/// Variables that a process has before anything else is known of it.
const VARIABLES: [&str; 2] = ["HOME", "USER"];

/// Reads `[[match]]`.
pub fn matches(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<Match> {
    let Some(value) = root.get("match") else { return Vec::new() };
    let Some(array) = value.get_ref().as_array() else {
        let help = "write [[match]] above its keys".to_owned();
        reader.error(value.span(), "`match` must be a list of tables".to_owned(), Some(help));
        return Vec::new();
    };
    let mut matches = Vec::new();
    for value in array {
        let Some(table) = reader.table(value, "match[]") else { continue };
        let mut list = |key: &str| {
            let entries =
                table.get(key).map(|value| reader.strings(value, &format!("match.{key}")));
            let entries = entries.unwrap_or_default();
            entries.iter().for_each(|entry| check(reader, entry, key));
            entries
        };
        let (exe, args) = (list("exe"), list("args"));
        let (unit, cgroup) = (list("unit"), list("cgroup"));
        let entry = Match { exe, args, unit, cgroup, span: value.span() };
        if entry.is_empty() {
            let help = "name an executable, a unit or a cgroup".to_owned();
            reader.error(begin(&entry.span), "this fits every process".to_owned(), Some(help));
        }
        matches.push(entry);
    }
    matches
}

impl Match {
    fn is_empty(&self) -> bool {
        [&self.exe, &self.args, &self.unit, &self.cgroup].iter().all(|list| list.is_empty())
    }

    /// Whether only arguments are asked for, which whoever starts a program chooses.
    pub fn is_by_arguments_alone(&self) -> bool {
        !self.args.is_empty() && [&self.exe, &self.unit, &self.cgroup].iter().all(|l| l.is_empty())
    }

    /// What it asks for, whatever the order of entries.
    pub fn meaning(&self) -> [Vec<&str>; 4] {
        [&self.exe, &self.args, &self.unit, &self.cgroup].map(|list| {
            let mut texts: Vec<&str> = list.iter().map(|entry| entry.text.as_str()).collect();
            texts.sort_unstable();
            texts
        })
    }
}

/// The place of a table that stands over several lines.
fn begin(span: &Range<usize>) -> Range<usize> {
    span.start..span.start
}

/// Whether a glob is one.
fn check(reader: &mut Reader<'_>, entry: &Entry, key: &str) {
    let is_path = matches!(key, "exe" | "cgroup");
    let wrong = match pieces(&entry.text) {
        Err(error) => Some((error.to_string(), error.help(&entry.text))),
        Ok(_) if is_path && !entry.text.starts_with(['/', '*', '$', '{']) => {
            let error = PatternError::Relative;
            Some((error.to_string(), error.help(&entry.text)))
        }
        Ok(_) if entry.text.is_empty() => Some((PatternError::Empty.to_string(), None)),
        Ok(pieces) => pieces.iter().find_map(|piece| match piece {
            Piece::Variable(name) if !VARIABLES.contains(&name.as_str()) => Some((
                format!("`${{{name}}}` has no value before the server is known"),
                Some(format!("the variables here are ${{{}}}", VARIABLES.join("}, ${"))),
            )),
            _ => None,
        }),
    };
    if let Some((message, help)) = wrong {
        reader.error(entry.span.clone(), message, help);
    }
}
