//! Learned rules as TOML, into a new file or between what a person has written.

use toml_edit::{Array, DocumentMut, Item, Table, TomlError, Value, value};

use super::{Entry, Learned, List};
use crate::event::printable;

/// A file that includes building blocks and denies what it does not list.
pub fn new_file(server: &str, includes: &[&str]) -> String {
    let mut file = DocumentMut::new();
    file["schema"] = value(1);
    file["server"] = value(server);
    file["include"] = value(includes.iter().copied().collect::<Array>());
    let response = file.entry("response").or_insert_with(toml_edit::table);
    response["mode"] = value("observe");
    let mut unlisted = toml_edit::InlineTable::new();
    for class in ["read", "write", "exec", "connect", "listen", "unix"] {
        unlisted.insert(class, "deny".into());
    }
    response["unlisted"] = value(unlisted);
    response["sets"] = value(toml_edit::InlineTable::from_iter([("secrets", "kill-tree")]));
    file.to_string()
}

/// Puts learned entries into the text of a file; all that stands there stays. `head`: what a new
/// file says about where it is from, nothing for one that is extended.
///
/// # Errors
/// When the text is no TOML.
pub fn write(text: &str, learned: &Learned, head: &[String]) -> Result<String, TomlError> {
    let is_new = !head.is_empty();
    let mut file: DocumentMut = text.parse()?;
    for list in List::ALL {
        let entries: Vec<&Entry> = learned.entries.iter().filter(|e| e.list == list).collect();
        if !entries.is_empty() {
            extend(&mut file, list, &entries);
        }
    }
    if is_new {
        for (position, section) in (1..).zip(["files", "exec", "network", "response"]) {
            if let Some(Item::Table(table)) = file.get_mut(section) {
                table.set_position(Some(position));
            }
        }
    }
    let mut out: String = head.iter().map(|line| format!("# {}\n", printable(line))).collect();
    out.push_str(&file.to_string());
    out.push_str(&held_back(learned));
    Ok(out)
}

fn extend(file: &mut DocumentMut, list: List, entries: &[&Entry]) {
    let (section, key) = list.key();
    let table = file.entry(section).or_insert_with(|| Item::Table(Table::new()));
    let Some(table) = table.as_table_like_mut() else { return };
    let array = table.entry(key).or_insert_with(|| value(Array::new()));
    let Some(array) = array.as_array_mut() else { return };
    for Entry { text, seen, .. } in entries {
        let times = if seen.count == 1 { "once".into() } else { format!("{} times", seen.count) };
        let comment = format!("{times}, first {}", seen.example);
        let mut value = Value::from(text.as_str());
        value.decor_mut().set_prefix(format!("\n    # {}\n    ", printable(&comment)));
        array.push_formatted(value);
    }
    array.set_trailing_comma(true);
    array.set_trailing("\n");
}

/// What a person should decide, as comments at the end.
fn held_back(learned: &Learned) -> String {
    if learned.held.is_empty() {
        return String::new();
    }
    let mut text =
        "\n# Held back. Nothing of this is allowed; a member of a set is allowed by naming it \
                    in\n# files.allow_secret.\n"
            .to_owned();
    for (held, seen) in &learned.held {
        let times = if seen.count == 1 { "once".into() } else { format!("{} times", seen.count) };
        let quoted = Value::from(held.text.as_str()).to_string();
        let line = format!(
            "{}: {} {}, {times}, first {}",
            held.why,
            held.access,
            quoted.trim(),
            seen.example
        );
        text.push_str(&format!("# {}\n", printable(&line)));
    }
    text
}
