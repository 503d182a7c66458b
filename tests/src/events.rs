//! Recorded lines, and what tests ask of them.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// One line of the recording.
#[derive(Clone, Debug)]
pub struct Event(Value);

impl Event {
    /// The event's type: `open`, `exec`, `alert`.
    pub fn kind(&self) -> &str {
        self.text("type")
    }

    /// The field with this name; `process.comm` reaches into an object.
    pub fn field(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.0, |value, name| value.get(name))
    }

    /// A string field, empty if it is absent.
    pub fn text(&self, path: &str) -> &str {
        self.field(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number field.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.field(path).and_then(Value::as_u64)
    }

    /// Whether a list field holds this string.
    pub fn lists(&self, path: &str, wanted: &str) -> bool {
        let list = self.field(path).and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|item| item == wanted))
    }

    /// The verdict: `allow` where none is written.
    pub fn verdict(&self) -> &str {
        self.field("verdict").and_then(Value::as_str).unwrap_or("allow")
    }

    /// Whether something was not allowed. Alerts only repeat a violation for people.
    pub fn is_violation(&self) -> bool {
        let would_be = self.field("would_be").is_some_and(|value| !value.is_null());
        self.kind() != "alert" && (self.verdict() != "allow" || would_be)
    }

    /// Whether this is about a file or an address: its path, second path, origin, name or address.
    pub fn names(&self, subject: &str) -> bool {
        ["path", "interpreter", "second", "origin", "name", "address"]
            .iter()
            .any(|field| self.text(field) == subject)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The lines of one recording.
#[derive(Clone, Debug, Default)]
pub struct Events(Vec<Event>);

impl Events {
    /// Reads a recording; a file that does not exist holds no events, and a last line that is
    /// still being written is left out.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |(index, line)| {
            let parsed = serde_json::from_str(line);
            parsed.map(Event).with_context(|| format!("{}:{}", path.display(), index + 1))
        };
        Ok(Self(whole.lines().enumerate().map(parse).collect::<Result<_>>()?))
    }

    /// Every line, the segment's header too.
    pub fn all(&self) -> &[Event] {
        &self.0
    }

    /// The first line of the segment.
    pub fn header(&self) -> Result<&Event> {
        self.0.first().context("nothing was recorded")
    }

    /// The events of a type.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Event> {
        self.0.iter().filter(move |event| event.kind() == kind)
    }

    /// The events that were not allowed.
    pub fn violations(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().filter(|event| event.is_violation())
    }

    /// The first violation of this type and category about this path or address.
    pub fn violation(
        &self,
        kind: &str,
        category: &str,
        subject: impl AsRef<Path>,
    ) -> Result<&Event> {
        let subject = subject.as_ref().to_string_lossy();
        self.violations()
            .find(|event| {
                event.kind() == kind && event.text("category") == category && event.names(&subject)
            })
            .with_context(|| format!("no {kind} violation ({category}) of {subject} in\n{self}"))
    }

    /// The first event of this type about this path or address, allowed or not.
    pub fn event(&self, kind: &str, subject: impl AsRef<Path>) -> Result<&Event> {
        let subject = subject.as_ref().to_string_lossy();
        let mut events = self.0.iter();
        events
            .find(|event| event.kind() == kind && event.names(&subject))
            .with_context(|| format!("no {kind} of {subject} in\n{self}"))
    }

    /// That the event is there and was allowed: the twin of [`Events::violation`].
    pub fn allowed(&self, kind: &str, subject: impl AsRef<Path>) -> Result<&Event> {
        let event = self.event(kind, subject)?;
        ensure!(!event.is_violation(), "not allowed: {event}");
        Ok(event)
    }

    /// That the run was recorded and nothing in it was a violation.
    pub fn assert_quiet(&self) -> Result<()> {
        self.header()?;
        if let Some(event) = self.violations().next() {
            bail!("a violation where none was expected: {event}");
        }
        Ok(())
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} events:", self.0.len())?;
        // The header holds all rules' text: only what follows helps a reader.
        self.0.iter().skip(1).try_for_each(|event| writeln!(f, "  {event}"))
    }
}
