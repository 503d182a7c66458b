//! Several cases in one run of the monitor, because starting it is what takes the time.
//!
//! The actor runs each in a process of its own (`actor batch`). On lsm the rules are enforced, and
//! what they forbid is refused. On the tracepoint backend, which answers by killing the whole
//! tree, they are observed: everything works, and what they forbid is recorded with the verdict
//! that it would have got.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Event, Events, Lab, Mode, Running};

/// Cases by name, each with the actor's steps.
#[derive(Default)]
pub struct Cases(String);

impl Cases {
    /// No cases yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a case. Words that hold spaces stand in single quotes.
    pub fn add(&mut self, name: &str, steps: impl fmt::Display) -> &mut Self {
        self.0.push_str(&format!("{name} {steps}\n"));
        self
    }

    /// Runs them without the monitor and returns the actor's line for each.
    pub fn alone(&self, lab: &Lab) -> Result<BTreeMap<String, String>> {
        let file = lab.file("cases", &self.0)?;
        Ok(results(&lab.actor_alone(["batch".as_ref(), file.as_os_str()])?))
    }

    /// Runs them under the rules, in enforce where the backend can refuse.
    pub fn run(&self, lab: &Lab) -> Result<Batch> {
        self.run_in(lab, mode_of(lab))
    }

    /// Runs them in a mode.
    pub fn run_in(&self, lab: &Lab, mode: Mode) -> Result<Batch> {
        self.run_with(lab, mode, |_| Ok(()))
    }

    /// [`Cases::run`], and does something meanwhile.
    pub fn run_beside(
        &self,
        lab: &Lab,
        act: impl FnOnce(&mut Running) -> Result<()>,
    ) -> Result<Batch> {
        self.run_with(lab, mode_of(lab), act)
    }

    fn run_with(
        &self,
        lab: &Lab,
        mode: Mode,
        act: impl FnOnce(&mut Running) -> Result<()>,
    ) -> Result<Batch> {
        let file = lab.file("cases", &self.0)?;
        let mut running = lab.run(mode).start_actor(["batch".as_ref(), file.as_os_str()])?;
        act(&mut running)?;
        let outcome = running.finish()?;
        outcome.events.header().with_context(|| outcome.stderr.clone())?;
        let said = results(&outcome.stdout);
        let enforcing = mode == Mode::Enforce;
        Ok(Batch { enforcing, events: outcome.events, said, stderr: outcome.stderr })
    }
}

fn mode_of(lab: &Lab) -> Mode {
    match lab.backend() {
        Backend::Lsm => Mode::Enforce,
        Backend::Tracepoint => Mode::Observe,
    }
}

fn results(stdout: &str) -> BTreeMap<String, String> {
    let split = stdout.lines().filter_map(|line| line.split_once(' '));
    split.map(|(name, result)| (name.to_owned(), result.to_owned())).collect()
}

/// What came of the cases.
pub struct Batch {
    /// Whether verdicts were carried out.
    pub enforcing: bool,
    /// What was recorded.
    pub events: Events,
    said: BTreeMap<String, String>,
    stderr: String,
}

impl Batch {
    /// The actor's line for a case.
    pub fn line(&self, name: &str) -> &str {
        self.said.get(name).map_or("no result", String::as_str)
    }

    /// That a case was let through.
    pub fn worked(&self, name: &str) -> Result<()> {
        ensure!(self.line(name).starts_with("ok"), "{name}: {}\n{self}", self.line(name));
        Ok(())
    }

    /// That a case was refused, if this is what the backend does.
    pub fn refused(&self, name: &str) -> Result<()> {
        let line = self.line(name);
        let expected = if self.enforcing { "denied" } else { "ok" };
        ensure!(line.starts_with(expected), "{name}: {line}\n{self}");
        Ok(())
    }

    /// The violation of a type and category about something, with the verdict `deny`.
    pub fn denied(&self, kind: &str, category: &str, subject: impl AsRef<Path>) -> Result<&Event> {
        let subject = subject.as_ref().to_string_lossy();
        let found = self.events.violations().find(|event| {
            let right = event.kind() == kind && event.text("category") == category;
            right && event.names(&subject) && self.is_denied(event)
        });
        found.with_context(|| format!("no {kind} violation ({category}) of {subject}\n{self}"))
    }

    /// Whether an event has the verdict `deny`, carried out or not.
    pub fn is_denied(&self, event: &Event) -> bool {
        event.text(if self.enforcing { "verdict" } else { "would_be" }) == "deny"
    }

    /// That nothing about this was a violation.
    pub fn quiet_about(&self, subject: impl AsRef<Path>) -> Result<()> {
        let subject = subject.as_ref().to_string_lossy();
        let found = self.events.violations().find(|event| event.names(&subject));
        ensure!(found.is_none(), "a violation where none was expected\n{self}");
        Ok(())
    }
}

/// The violations and what was said, for the messages of failures.
impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, line) in &self.said {
            writeln!(f, "  {name}: {line}")?;
        }
        for event in self.events.violations() {
            writeln!(f, "  {event}")?;
        }
        let lines: Vec<&str> = self.stderr.lines().collect();
        write!(f, "stderr: {}", lines[lines.len().saturating_sub(20)..].join("\n  "))
    }
}
