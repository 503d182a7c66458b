//! Sections that are not lists of patterns: `[response]`, `[record]`, the head of a set.

use monitor_common::{
    policy::{access, detector, set, verdict},
    record::kind,
};
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Entry, Program, Response, Vector, keys::MODES, reader::Reader};
use crate::rules::Mode;

/// Event types by the bit of their kind, as written in `record.events` and in events.
const EVENTS: [(&str, u8); 16] = [
    ("exec", kind::EXEC),
    ("fork", kind::FORK),
    ("exit", kind::EXIT),
    ("open", kind::OPEN),
    ("change", kind::CHANGE),
    ("mount", kind::MOUNT),
    ("connect", kind::CONNECT),
    ("send", kind::SEND),
    ("bind", kind::BIND),
    ("listen", kind::LISTEN),
    ("unix", kind::UNIX),
    ("process", kind::PROCESS),
    ("io_uring", kind::IO_URING),
    ("bpf", kind::BPF),
    ("socket", kind::SOCKET),
    ("namespace", kind::NAMESPACE),
];

/// The words of [`EVENTS`].
pub static EVENT_NAMES: [&str; EVENTS.len()] = {
    let mut names = [""; EVENTS.len()];
    let mut at = 0;
    while at < EVENTS.len() {
        names[at] = EVENTS[at].0;
        at += 1;
    }
    names
};

/// Every kind.
pub const RECORD_ALL: u64 = (1 << kind::END) - 2;
/// What is recorded in any case: the process tree that every violation is explained with.
pub const RECORD_TREE: u64 = 1 << kind::EXEC | 1 << kind::FORK | 1 << kind::EXIT;

/// Reads `[response]`.
pub fn response(reader: &mut Reader<'_>, root: &DeTable<'_>, response: &mut Response) {
    let Some(table) = root.get("response").and_then(|value| reader.table(value, "response")) else {
        return;
    };
    if let Some(value) = table.get("mode") {
        response.mode = match reader.word(value, "response.mode", &MODES) {
            Some(0) => Some(Mode::Observe),
            Some(_) => Some(Mode::Enforce),
            None => None,
        };
    }
    if let Some(value) = table.get("unlisted") {
        verdicts(reader, value, "response.unlisted", &access::NAMES, |bit, verdict, value| {
            response.unlisted.push((bit, verdict, value.span()));
        });
    }
    if let Some(value) = table.get("sets") {
        verdicts(reader, value, "response.sets", &set::NAMES, |set, verdict, _| {
            response.sets.push((set, verdict));
        });
    }
    if let Some(value) = table.get("detectors") {
        let name = "response.detectors";
        verdicts(reader, value, name, &detector::NAMES, |detector, verdict, value| {
            response.detectors.push((detector, verdict, value.span()));
        });
    }
}

/// Reads `[exec.arguments]`.
pub fn programs(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<Program> {
    const NAME: &str = "exec.arguments";
    let exec = root.get("exec").and_then(|value| value.get_ref().as_table());
    let Some(value) = exec.and_then(|exec| exec.get("arguments")) else { return Vec::new() };
    let Some(table) = reader.table(value, NAME) else { return Vec::new() };
    let mut programs = Vec::new();
    for (key, value) in table {
        let path = Entry { text: key.get_ref().clone().into_owned(), span: key.span() };
        let Some(array) = value.get_ref().as_array().filter(|all| all.iter().all(is_list)) else {
            let help = "write one list for each vector of arguments: [[\"status\", \"...\"]]";
            let message = format!("`{NAME}.{}` must be a list of lists of strings", path.text);
            reader.error(value.span(), message, Some(help.to_owned()));
            continue;
        };
        if array.is_empty() {
            let help = "write [[]] for a program without arguments, [[\"...\"]] for any";
            let message = "no arguments are named, so that it can never run".to_owned();
            reader.error(value.span(), message, Some(help.to_owned()));
        }
        let vectors = array.iter().map(|value| vector(reader, value)).collect();
        programs.push(Program { path, vectors });
    }
    programs
}

fn is_list(value: &Spanned<DeValue<'_>>) -> bool {
    value.get_ref().is_array()
}

fn vector(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>) -> Vector {
    let mut elements = reader.strings(value, "exec.arguments[]");
    let open = elements.pop_if(|last| last.text == REST).is_some();
    for element in elements.iter().filter(|element| element.text == REST) {
        let help = "write `**` for one argument, whatever it is".to_owned();
        let message = "`...` stands only at the end".to_owned();
        reader.error(element.span.clone(), message, Some(help));
    }
    Vector { elements, open, span: value.span() }
}

/// Any number of any arguments.
const REST: &str = "...";

fn verdicts(
    reader: &mut Reader<'_>,
    value: &Spanned<DeValue<'_>>,
    name: &str,
    names: &[&str],
    mut take: impl FnMut(usize, u8, &Spanned<DeValue<'_>>),
) {
    let Some(table) = reader.table(value, name) else { return };
    for (key, value) in table {
        let Some(number) = names.iter().position(|name| *name == key.get_ref().as_ref()) else {
            continue;
        };
        let name = format!("{name}.{}", key.get_ref());
        if let Some(verdict) = reader.word(value, &name, &verdict::NAMES) {
            take(number, u8::try_from(verdict).unwrap_or(verdict::KILL_TREE), value);
        }
    }
}

/// Reads `[record]`.
pub fn record(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Option<u64> {
    let table = root.get("record").and_then(|value| reader.table(value, "record"))?;
    let value = table.get("events")?;
    if value.get_ref().is_str() {
        let words = ["all", "violations"];
        let word = reader.word(value, "record.events", &words)?;
        return Some(if word == 0 { RECORD_ALL } else { RECORD_TREE });
    }
    let Some(array) = value.get_ref().as_array() else {
        let message = "`record.events` must be \"all\", \"violations\" or a list of types";
        reader.error(value.span(), message.to_owned(), None);
        return None;
    };
    let mut kinds = RECORD_TREE;
    for value in array {
        if let Some(event) = reader.word(value, "record.events[]", &EVENT_NAMES) {
            kinds |= 1 << EVENTS[event].1;
        }
    }
    Some(kinds)
}

/// The number of the set that the file is about.
pub fn set_number(reader: &mut Reader<'_>) -> usize {
    let name = reader.source.name.as_str();
    set::NAMES.iter().position(|known| *known == name).unwrap_or_else(|| {
        let help = format!("the sets are {}", super::reader::quoted(&set::NAMES));
        reader.error(0..0, format!("there is no set `{name}`"), Some(help));
        0
    })
}

/// The accesses that the set speaks about.
pub fn set_access(reader: &mut Reader<'_>, table: &DeTable<'_>) -> u8 {
    let Some(value) = table.get("access") else {
        let help = "write `access = [\"read\", \"write\"]`".to_owned();
        reader.error(0..0, "the set has no `access`".to_owned(), Some(help));
        return 0;
    };
    let Some(array) = value.get_ref().as_array() else {
        reader.strings(value, "access");
        return 0;
    };
    let mut bits = 0;
    for value in array {
        if let Some(bit) = reader.word(value, "access[]", &access::NAMES) {
            bits |= 1 << bit;
        }
    }
    bits
}
