//! Takes spanned values apart and collects what is wrong with them.

use std::{ops::Range, sync::Arc};

use serde_spanned::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{
    Entry, SCHEMA,
    keys::{Key, Shape},
    type_name,
};
use crate::rules::{Finding, Severity, Source, error::nearest};

pub struct Reader<'a> {
    pub source: &'a Arc<Source>,
    findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    pub fn new(source: &'a Arc<Source>) -> Self {
        Self { source, findings: Vec::new() }
    }

    /// The top table; `None` when the text is not TOML.
    pub fn parse(&mut self) -> Option<Spanned<DeTable<'a>>> {
        let (table, errors) = DeTable::parse_recoverable(&self.source.text);
        for error in &errors {
            self.error(error.span().unwrap_or(0..0), error.message().trim().to_owned(), None);
        }
        errors.is_empty().then_some(table)
    }

    pub fn finish<T>(self, value: T) -> Result<T, Vec<Finding>> {
        if self.findings.is_empty() { Ok(value) } else { Err(self.findings) }
    }

    pub fn error(&mut self, span: Range<usize>, message: String, help: Option<String>) {
        let source = self.source.clone();
        self.findings.push(Finding { severity: Severity::Error, message, help, source, span });
    }

    /// Refuses keys that the language does not know, in a table of a shape and all beneath it.
    pub fn keys(&mut self, table: &DeTable<'_>, section: &str, name: &str, shape: &Shape) {
        let Some(known) = shape.keys(name) else { return };
        for (key, value) in table {
            let written = key.get_ref().as_ref();
            let Some((_, found)) = known.iter().find(|(name, _)| *name == written) else {
                self.unknown(key, section, &known);
                continue;
            };
            let Some(Key { name, shape, .. }) = found else { continue };
            let tables = |value: &Spanned<DeValue<'_>>| value.get_ref().as_table().is_some();
            match value.get_ref() {
                DeValue::Table(inner) => {
                    let section =
                        format!("{section}{}{name}", if section.is_empty() { "" } else { "." });
                    self.keys(inner, &section, name, shape);
                }
                DeValue::Array(all) => {
                    for inner in all.iter().filter(|value| tables(value)) {
                        let inner = inner.get_ref().as_table();
                        inner
                            .into_iter()
                            .for_each(|it| self.keys(it, &format!("[{name}]"), name, shape));
                    }
                }
                _ => {}
            }
        }
    }

    fn unknown(
        &mut self,
        key: &Spanned<DeString<'_>>,
        section: &str,
        known: &[(&'static str, Option<&'static Key>)],
    ) {
        let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let written = key.get_ref();
        let help = match nearest(written, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys here are {}", quoted(&names)),
        };
        self.error(key.span(), format!("unknown key `{written}`{place}"), Some(help));
    }

    /// Requires `schema = 1`.
    pub fn schema(&mut self, table: &DeTable<'_>) {
        let Some(value) = table.get("schema") else {
            let help = format!("begin the file with `schema = {SCHEMA}`");
            self.error(0..0, "the file has no `schema`".to_owned(), Some(help));
            return;
        };
        let number = value.get_ref().as_integer().map(|integer| integer.as_str());
        if number != Some(SCHEMA.to_string().as_str()) {
            let message = format!("this version reads schema {SCHEMA} only");
            self.error(value.span(), message, Some(format!("write `schema = {SCHEMA}`")));
        }
    }

    /// Requires that the text calls itself what its file is called.
    pub fn own_name(&mut self, table: &DeTable<'_>, key: &str) {
        let expected = &self.source.name;
        let help = Some(format!("write `{key} = \"{expected}\"`"));
        match table.get(key) {
            None => self.error(0..0, format!("the file has no `{key}`"), help),
            Some(value) => {
                if let Some(entry) = self.string(value, key)
                    && entry.text != *expected
                {
                    let message =
                        format!("`{key}` is {:?}, but the file is {expected}.toml", entry.text);
                    self.error(entry.span, message, help);
                }
            }
        }
    }

    pub fn table<'v, 't>(
        &mut self,
        value: &'v Spanned<DeValue<'t>>,
        name: &str,
    ) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.mismatch(value, name, "a table", None);
        }
        table
    }

    pub fn string(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<Entry> {
        match value.get_ref().as_str() {
            Some(text) => Some(Entry { text: text.to_owned(), span: value.span() }),
            None => {
                self.mismatch(value, name, "a string", None);
                None
            }
        }
    }

    pub fn strings(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Vec<Entry> {
        let Some(array) = value.get_ref().as_array() else {
            let help = value.get_ref().as_str().map(|text| format!("write [{text:?}]"));
            self.mismatch(value, name, "a list of strings", help);
            return Vec::new();
        };
        array.iter().filter_map(|value| self.string(value, &format!("{name}[]"))).collect()
    }

    /// The number of a word among `names`.
    pub fn word(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        names: &[&str],
    ) -> Option<usize> {
        let entry = self.string(value, name)?;
        let found = names.iter().position(|candidate| *candidate == entry.text);
        if found.is_none() {
            let help = match nearest(&entry.text, names.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("write one of {}", quoted(names)),
            };
            self.error(entry.span, format!("`{name}` cannot be {:?}", entry.text), Some(help));
        }
        found
    }

    fn mismatch(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        wanted: &str,
        help: Option<String>,
    ) {
        let message = format!("`{name}` must be {wanted}, not {}", type_name(value.get_ref()));
        self.error(value.span(), message, help);
    }
}

pub fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
