//! From TOML to documents in which every entry knows its place.
//!
//! A text is walked as a tree of spanned values instead of being deserialised, so that one pass
//! finds all that is wrong with it. What the language will have but this version does not act on
//! is refused by name: a rule that is silently ignored protects nobody.

mod keys;
mod limits;
mod matches;
mod process;
mod reader;
mod sections;

use std::{ops::Range, sync::Arc};

use toml::de::{DeTable, DeValue};

pub(super) use keys::{Holds, INCLUDE_FILE, Key, LISTS, List, SERVER_FILE, SET_FILE, Shape};
use reader::Reader;
pub(super) use sections::{EVENT_NAMES, RECORD_ALL};

use super::{
    Finding, Mode, Resources, Severity, Source, SourceKind, address,
    pattern::{alternatives, pieces},
};

/// Version of the rule language.
pub const SCHEMA: u32 = 1;

/// A string and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub text: String,
    pub span: Range<usize>,
}

/// A program of `[exec.arguments]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// The pattern of its path.
    pub path: Entry,
    /// The vectors that it may have.
    pub vectors: Vec<Vector>,
}

/// Arguments that a program may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vector {
    /// A glob for each, without argv\[0\].
    pub elements: Vec<Entry>,
    /// `"..."` stands at the end: any number of any arguments may follow.
    pub open: bool,
    /// All of it.
    pub span: Range<usize>,
}

/// An entry of `[[match]]`: which processes are the server. Each of its lists that is not empty has
/// to hold something that fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// Patterns of the executable.
    pub exe: Vec<Entry>,
    /// Globs for any one argument.
    pub args: Vec<Entry>,
    /// Globs for the name of the systemd unit.
    pub unit: Vec<Entry>,
    /// Globs for the cgroup.
    pub cgroup: Vec<Entry>,
    /// All of it.
    pub span: Range<usize>,
}

/// A server's rules or an include.
#[derive(Clone, Debug)]
pub struct Document {
    pub(super) source: Arc<Source>,
    pub(super) include: Vec<Entry>,
    pub(super) lists: Vec<(&'static List, Entry)>,
    pub(super) limits: Vec<LimitEntry>,
    pub(super) programs: Vec<Program>,
    /// `[env] pass`.
    pub(super) pass: Vec<Entry>,
    pub(super) resources: Resources,
    pub(super) matches: Vec<Match>,
    pub(super) response: Response,
    /// Event kinds to record, as bits; `None` when not said.
    pub(super) record: Option<u64>,
}

/// `[response]`: verdicts with the place of their key.
#[derive(Clone, Debug, Default)]
pub(super) struct Response {
    pub mode: Option<Mode>,
    pub unlisted: Vec<(usize, u8, Range<usize>)>,
    pub sets: Vec<(usize, u8)>,
    pub detectors: Vec<(usize, u8, Range<usize>)>,
}

/// One value of `[limits]`.
#[derive(Clone, Debug)]
pub(super) struct LimitEntry {
    /// Number of the [`crate::detect::PARAMETERS`].
    pub parameter: usize,
    pub value: u64,
    pub span: Range<usize>,
}

/// A built-in set.
#[derive(Clone, Debug)]
pub(super) struct SetDocument {
    pub source: Arc<Source>,
    pub set: usize,
    pub access: u8,
    pub paths: Vec<Entry>,
    pub addresses: Vec<Entry>,
}

/// Parses the rules of server `name`. Pure: reads no file and never panics.
///
/// # Errors
/// All that is wrong with the text.
pub fn parse_server(text: &str, name: &str) -> Result<Document, Vec<Finding>> {
    let kind = SourceKind::Server;
    let path = format!("{}/{name}.toml", kind.folder());
    checked(&Arc::new(Source { kind, name: name.to_owned(), path, text: text.to_owned() }))
}

/// Parses a text and its entries as they are written, before variables have values.
pub(super) fn checked(source: &Arc<Source>) -> Result<Document, Vec<Finding>> {
    let document = document(source)?;
    let of_lists =
        document.lists.iter().filter_map(|(list, entry)| entry_finding(source, list, entry));
    let programs = document.programs.iter();
    let of_programs = programs.filter_map(|program| pattern_finding(source, &program.path));
    let findings: Vec<Finding> = of_lists.chain(of_programs).collect();
    if findings.is_empty() { Ok(document) } else { Err(findings) }
}

fn entry_finding(source: &Arc<Source>, list: &List, entry: &Entry) -> Option<Finding> {
    if list.is_pattern(&entry.text) {
        return pattern_finding(source, entry);
    }
    if address::variable(&entry.text).is_some() {
        return None;
    }
    let error = address::parse(&entry.text, list.purpose()).err()?;
    Some(wrong(source, entry, error.to_string(), error.help()))
}

fn pattern_finding(source: &Arc<Source>, entry: &Entry) -> Option<Finding> {
    let error = pieces(&entry.text).and_then(|pieces| alternatives(&pieces)).err()?;
    Some(wrong(source, entry, error.to_string(), error.help(&entry.text)))
}

fn wrong(source: &Arc<Source>, entry: &Entry, message: String, help: Option<String>) -> Finding {
    let (source, span) = (source.clone(), entry.span.clone());
    Finding { severity: Severity::Error, message, help, source, span }
}

/// Parses a server or an include.
pub(super) fn document(source: &Arc<Source>) -> Result<Document, Vec<Finding>> {
    let mut reader = Reader::new(source);
    let mut document = Document {
        source: source.clone(),
        include: Vec::new(),
        lists: Vec::new(),
        limits: Vec::new(),
        programs: Vec::new(),
        pass: Vec::new(),
        resources: Resources::default(),
        matches: Vec::new(),
        response: Response::default(),
        record: None,
    };
    if let Some(table) = reader.parse() {
        let server = source.kind != SourceKind::Include;
        let known = if server { &SERVER_FILE } else { &INCLUDE_FILE };
        reader.keys(table.get_ref(), "", "", known);
        reader.schema(table.get_ref());
        if server {
            // A drop-in stands in the folder of its server, and need not name it.
            if source.kind == SourceKind::Server {
                reader.own_name(table.get_ref(), "server");
            } else if let Some(value) = table.get_ref().get("server") {
                reader.string(value, "server");
            }
            sections::response(&mut reader, table.get_ref(), &mut document.response);
            document.record = sections::record(&mut reader, table.get_ref());
            document.matches = matches::matches(&mut reader, table.get_ref());
            document.resources = process::resources(&mut reader, table.get_ref());
        }
        if let Some(value) = table.get_ref().get("description") {
            reader.string(value, "description");
        }
        if let Some(value) = table.get_ref().get("include") {
            document.include = reader.strings(value, "include");
        }
        lists(&mut reader, table.get_ref(), &mut document);
        document.limits = limits::limits(&mut reader, table.get_ref());
        document.programs = sections::programs(&mut reader, table.get_ref());
        document.pass = process::pass(&mut reader, table.get_ref());
    }
    reader.finish(document)
}

fn lists(reader: &mut Reader<'_>, root: &DeTable<'_>, document: &mut Document) {
    for sections in LISTS.chunk_by(|one, other| one.table == other.table) {
        let name = sections[0].table;
        let Some(table) = root.get(name).and_then(|value| reader.table(value, name)) else {
            continue;
        };
        for list in sections {
            if let Some(value) = table.get(list.key) {
                let entries = reader.strings(value, &list.name());
                document.lists.extend(entries.into_iter().map(|entry| (list, entry)));
            }
        }
    }
}

/// Parses a built-in set.
pub(super) fn set(source: &Arc<Source>) -> Result<SetDocument, Vec<Finding>> {
    let mut reader = Reader::new(source);
    let mut document = SetDocument {
        source: source.clone(),
        set: 0,
        access: 0,
        paths: Vec::new(),
        addresses: Vec::new(),
    };
    if let Some(table) = reader.parse() {
        let table = table.get_ref();
        reader.keys(table, "", "", &SET_FILE);
        reader.schema(table);
        reader.own_name(table, "set");
        document.set = sections::set_number(&mut reader);
        document.access = sections::set_access(&mut reader, table);
        if let Some(value) = table.get("paths") {
            document.paths = reader.strings(value, "paths");
        }
        if let Some(value) = table.get("addresses") {
            document.addresses = reader.strings(value, "addresses");
        }
        if let Some(value) = table.get("description") {
            reader.string(value, "description");
        }
    }
    reader.finish(document)
}

/// How a value's type is called in messages.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
