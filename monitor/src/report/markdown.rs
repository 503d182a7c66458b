//! The report as Markdown, for tickets and mails.

use std::{fmt, io};

use askama::{Template, filters::Escaper};

use super::{
    filters,
    model::{Instance, Location, Report},
    story::{self, Numbered},
    words::grouped,
};
use crate::event::printable;

/// Entries of each list, as the template takes them; all of them are in the other forms.
const LIST_MAX: u64 = 40;

/// Writes the report.
///
/// # Errors
/// When `out` cannot be written.
pub fn markdown(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let instances = report.instances.items.iter().map(|instance| {
        let (story, more) = story::of(instance);
        (instance, story, more)
    });
    Page { report, instances: instances.collect() }.write_into(out)
}

#[derive(Template)]
#[template(path = "report.md")]
struct Page<'a> {
    report: &'a Report,
    instances: Vec<(&'a Instance, Vec<Numbered<'a>>, u64)>,
}

impl Page<'_> {
    fn title(&self) -> String {
        filters::title(self.report)
    }

    fn place(&self, place: &Location) -> String {
        filters::place(self.report, place)
    }

    /// What a list of this length does not say.
    fn more(&self, length: u64) -> String {
        match length.saturating_sub(LIST_MAX) {
            0 => String::new(),
            more => format!("- and {} more\n", grouped(more)),
        }
    }
}

/// Escapes what Markdown and the HTML within it would take for their own, after what would
/// mislead a reader is made visible.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Escaper for Plain {
    fn write_escaped_str<W: fmt::Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        for c in printable(string).chars() {
            match c {
                '<' => dest.write_str("&lt;")?,
                '>' => dest.write_str("&gt;")?,
                '&' => dest.write_str("&amp;")?,
                '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '!'
                | '|' | '~' | '@' => {
                    dest.write_char('\\')?;
                    dest.write_char(c)?;
                }
                _ => dest.write_char(c)?,
            }
        }
        Ok(())
    }
}
