//! What rules say about the process that is started: `[env]` and `[resources]`.

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Entry, reader::Reader};
use crate::rules::Resources;

/// Reads `[env]`: names of variables.
pub fn pass(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<Entry> {
    let Some(table) = root.get("env").and_then(|value| reader.table(value, "env")) else {
        return Vec::new();
    };
    let Some(value) = table.get("pass") else { return Vec::new() };
    let names = reader.strings(value, "env.pass");
    for entry in &names {
        let named = !entry.text.is_empty() && !entry.text.contains(['=', '\0', '*', '$', ' ']);
        if !named {
            let help = "write names of environment variables, such as \"GITHUB_TOKEN\"".to_owned();
            let message = format!("{:?} cannot be the name of a variable", entry.text);
            reader.error(entry.span.clone(), message, Some(help));
        }
    }
    names
}

/// Reads `[resources]`.
pub fn resources(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Resources {
    let mut resources = Resources::default();
    let Some(table) = root.get("resources").and_then(|value| reader.table(value, "resources"))
    else {
        return resources;
    };
    let mut read = |key, parse: fn(&str) -> Option<u64>, help: &str| {
        let value = table.get(key)?;
        let parsed = written(value).and_then(|text| parse(&text));
        if parsed.is_none() {
            let message = format!("`resources.{key}` cannot be this");
            reader.error(value.span(), message, Some(help.to_owned()));
        }
        parsed
    };
    resources.memory = read("memory", bytes, "write 1 MiB or more, such as \"512M\" or \"1G\"");
    resources.pids = read("pids", pids, "write a number of processes and threads, such as 128");
    resources.cpu =
        read("cpu", percent, "write shares of one processor, such as \"50%\" or \"200%\"");
    resources
}

fn written(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(integer.as_str().to_owned()),
        _ => None,
    }
}

/// A number of bytes, with K, M, G or T for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    const SMALLEST: u64 = 1 << 20;
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let with_unit = |(unit, shift)| text.strip_suffix(unit).map(|digits| (digits, shift));
    let (digits, shift) = units.into_iter().find_map(with_unit).unwrap_or((text, 0));
    let number = number(digits)?.checked_mul(1 << shift)?;
    (SMALLEST..=1 << 50).contains(&number).then_some(number)
}

fn pids(text: &str) -> Option<u64> {
    number(text).filter(|number| (1..=1 << 22).contains(number))
}

fn percent(text: &str) -> Option<u64> {
    number(text.strip_suffix('%')?).filter(|number| (1..=1_000_000).contains(number))
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_units() {
        assert_eq!(bytes("1G"), Some(1 << 30));
        assert_eq!(bytes("1048576"), Some(1 << 20));
        for wrong in ["", "G", "1GG", "1.5G", "-1", "1023K", "1g", "9999999999T", " 1G"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        assert_eq!(percent("200%"), Some(200));
        for wrong in ["200", "0%", "%", "1.5%", "1000001%"] {
            assert_eq!(percent(wrong), None, "{wrong}");
        }
        assert_eq!((pids("128"), pids("0"), pids("1K")), (Some(128), None, None));
    }
}
