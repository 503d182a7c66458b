//! `[limits]`: from which counts on detectors speak.

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::{LimitEntry, reader::Reader};
use crate::detect::{
    COUNT_MAX, PARAMETERS, Parameter, Unit, WINDOW_MAX_MS, WINDOW_MIN_MS, duration, parse_duration,
};

/// Tables of `[limits]`, and a key of each.
const TABLES: [(&str, &str); 7] = [
    ("mass_read", "`files`"),
    ("breadth", "`files`"),
    ("mass_write", "`files`"),
    ("exec_burst", "`max`"),
    ("connect_burst", "`hosts`, `private`, `ports`"),
    ("exfiltration", "`window`"),
    ("dns_burst", "`bytes`"),
];

/// Reads `[limits]`.
pub fn limits(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<LimitEntry> {
    let Some(table) = root.get("limits").and_then(|value| reader.table(value, "limits")) else {
        return Vec::new();
    };
    let mut entries = Vec::new();
    for (name, keys) in TABLES {
        let Some(value) = table.get(name) else { continue };
        let section = format!("limits.{name}");
        let Some(own) = reader.table(value, &section) else { continue };
        if own.is_empty() {
            let help = Some(format!("state {keys} or leave it out"));
            reader.error(value.span(), format!("`{section}` states nothing"), help);
        }
        let of_table = PARAMETERS.iter().enumerate().filter(|(_, it)| it.table == name);
        for (parameter, it) in of_table {
            let Some(stated) = own.get(it.key) else { continue };
            if let Some(value) = number(reader, stated, it) {
                entries.push(LimitEntry { parameter, value, span: stated.span() });
            }
        }
    }
    entries
}

fn number(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>, it: &Parameter) -> Option<u64> {
    let name = format!("limits.{}.{}", it.table, it.key);
    let (found, range) = match it.unit {
        Unit::Count => {
            let integer = value.get_ref().as_integer().map(|integer| integer.as_str());
            let found = integer.and_then(|text| text.replace('_', "").parse::<u64>().ok());
            (found.filter(|it| (2..=COUNT_MAX).contains(it)), format!("from 2 to {COUNT_MAX}"))
        }
        Unit::Time => {
            let found = value.get_ref().as_str().and_then(parse_duration);
            let range = format!(
                "a time such as \"10s\" or \"1h\", from {} to {}",
                duration(WINDOW_MIN_MS),
                duration(WINDOW_MAX_MS)
            );
            (found.filter(|it| (WINDOW_MIN_MS..=WINDOW_MAX_MS).contains(it)), range)
        }
    };
    if found.is_none() {
        let help = match it.unit {
            Unit::Count => Some(format!(
                "a detector is switched off by `response.detectors = {{ {} = \"allow\" }}`",
                if it.table == "breadth" { "mass_read" } else { it.table }
            )),
            Unit::Time => Some("the units are ms, s, m, h and d".to_owned()),
        };
        reader.error(value.span(), format!("`{name}` must be {range}"), help);
    }
    found
}
