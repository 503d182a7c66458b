//! The report as one HTML file that needs nothing else: no network, no fonts, no other files. Its
//! content security policy names its style and its script by their hashes and allows nothing
//! beside them, so that what a watched process put into a name is text and stays text.

use std::{fmt, io};

use askama::{Template, filters::Escaper};
use sha2::{Digest as _, Sha256};

use super::{
    draw::{self, Chart},
    filters,
    model::{Instance, Location, Report},
    story::{self, Numbered},
    tree::{self, Row},
};
use crate::event::{Bytes, printable};

const STYLE: &str = include_str!("../../templates/report.css");
const SCRIPT: &str = include_str!("../../templates/report.js");
/// Instances that are told in full; the rest is in the JSON form.
const INSTANCES_MAX: usize = 40;

/// Writes the report.
///
/// # Errors
/// When `out` cannot be written.
pub fn html(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let instances = report.instances.items.iter().take(INSTANCES_MAX).map(View::of).collect();
    let page = Page {
        report,
        instances,
        hidden: report.instances.len().saturating_sub(INSTANCES_MAX as u64),
        style: STYLE,
        script: SCRIPT,
        policy: policy(),
    };
    page.write_into(out)
}

/// Nothing but what stands in the file itself.
fn policy() -> String {
    let hash = |text: &str| base64(&Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    instances: Vec<View<'a>>,
    hidden: u64,
    style: &'static str,
    script: &'static str,
    policy: String,
}

/// An instance with what is drawn of it.
struct View<'a> {
    it: &'a Instance,
    chart: Chart,
    story: Vec<Numbered<'a>>,
    story_more: u64,
    rows: Vec<Row<'a>>,
}

impl<'a> View<'a> {
    fn of(instance: &'a Instance) -> Self {
        let (story, story_more) = story::of(instance);
        Self {
            it: instance,
            chart: draw::chart(&instance.timeline, &story),
            story,
            story_more,
            rows: tree::rows(&instance.processes.items),
        }
    }
}

impl Page<'_> {
    fn title(&self) -> String {
        filters::title(self.report)
    }

    fn place(&self, place: &Location) -> String {
        filters::place(self.report, place)
    }

    fn host(&self, instance: &Instance) -> &str {
        self.report.origins.get(instance.origin).map_or("", |origin| origin.host.as_str())
    }
}

/// Escapes for HTML, after what would mislead a reader is made visible.
#[derive(Clone, Copy)]
pub(super) struct Visible;

impl Default for Visible {
    fn default() -> Self {
        Self
    }
}

impl Escaper for Visible {
    fn write_escaped_str<W: fmt::Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        for c in printable(string).chars() {
            match c {
                '&' => dest.write_str("&amp;")?,
                '<' => dest.write_str("&lt;")?,
                '>' => dest.write_str("&gt;")?,
                '"' => dest.write_str("&quot;")?,
                '\'' => dest.write_str("&#39;")?,
                _ => dest.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A name of a watched process as markup: its last part stands out, escapes are marked, and lines
/// may break behind slashes.
pub(super) struct Name<'a>(pub &'a Bytes);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("<i class=none>no name</i>");
        }
        let shown = self.0.shown().to_string();
        let last = shown.trim_end_matches('/').rfind('/').filter(|_| shown.starts_with('/'));
        let (directory, last) = shown.split_at(last.map_or(0, |slash| slash + 1));
        f.write_str("<bdi class=name>")?;
        if !directory.is_empty() {
            f.write_str("<span class=dir>")?;
            marked(f, directory)?;
            f.write_str("</span>")?;
        }
        f.write_str("<b>")?;
        marked(f, last)?;
        f.write_str("</b></bdi>")
    }
}

/// Writes shown text, its escapes in an element of their own.
fn marked(f: &mut fmt::Formatter<'_>, shown: &str) -> fmt::Result {
    let mut rest = shown;
    while let Some(at) = rest.find(['\\', '/']) {
        Visible.write_escaped_str(&mut *f, &rest[..at])?;
        if rest[at..].starts_with('/') {
            f.write_str("/<wbr>")?;
            rest = &rest[at + 1..];
            continue;
        }
        let length = escape_length(&rest[at..]);
        f.write_str("<span class=esc>")?;
        Visible.write_escaped_str(&mut *f, &rest[at..at + length])?;
        f.write_str("</span>")?;
        rest = &rest[at + length..];
    }
    Visible.write_escaped_str(f, rest)
}

/// Length of the escape that shown text begins with: `\\`, `\xNN` or `\u{…}`.
fn escape_length(text: &str) -> usize {
    let length = match text.as_bytes().get(1) {
        Some(b'x') => 4,
        Some(b'u') => text.find('}').map_or(2, |end| end + 1),
        Some(_) => 2,
        None => 1,
    };
    length.min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_everybody_writes_it() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn names_are_text_whatever_stands_in_them() {
        let name = Bytes::from(b"/tmp/<img src=x>\xff/\"a'\x1b\\\xe2\x80\xae&.txt".as_slice());
        assert_eq!(
            Name(&name).to_string(),
            "<bdi class=name><span class=dir>/<wbr>tmp/<wbr>&lt;img src=x&gt;\
             <span class=esc>\\xff</span>/<wbr></span><b>&quot;a&#39;<span class=esc>\\x1b</span>\
             <span class=esc>\\\\</span><span class=esc>\\u{202e}</span>&amp;.txt</b></bdi>"
        );
    }
}
