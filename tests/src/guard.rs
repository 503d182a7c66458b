//! Techniques by the dozen: the same ones against what the rules allow and against what they
//! forbid, in one run of the monitor.
//!
//! Every technique is first done without the monitor, where both twins have to work: that proves
//! the technique. Then both are done under the rules. On lsm, in enforce, the allowed twin works
//! and the forbidden one is refused and recorded. On the tracepoint backend, which answers by
//! killing the whole tree, the rules are in observe: both work, and the forbidden one is recorded
//! with the verdict that it would have got.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Backend, Event, Events, Lab, Mode};

/// One way to do something.
#[derive(Clone, Copy)]
pub struct Technique {
    name: &'static str,
    event: &'static str,
    steps: &'static str,
    optional: bool,
    unseen: Option<&'static str>,
}

/// A technique by its name, the type of event that it makes, and the `actor`'s steps, in which
///
/// - `{file}`, `{dir}`, `{name}` stand for the twin's file, its directory and its name in there,
/// - `{parent}` and `{base}` for the directory's own parent and name,
/// - `{scratch}` for a directory of the twin's own that may be written, with a file `own`,
/// - `{home}` and `{actor}` for the fixture HOME and the actor.
pub const fn technique(name: &'static str, event: &'static str, steps: &'static str) -> Technique {
    Technique { name, event, steps, optional: false, unseen: None }
}

impl Technique {
    /// Not every kernel can do it: where it fails without the monitor, it is left out.
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// The tracepoint backend does not judge it, for this reason, which the documentation names.
    pub const fn unseen(self, reason: &'static str) -> Self {
        Self { unseen: Some(reason), ..self }
    }
}

/// Rules, and two places in the fixture HOME of which they forbid one.
pub struct Guard<'a> {
    /// The rules' sections.
    pub policy: &'a str,
    /// The allowed place, beneath HOME.
    pub allowed: &'a str,
    /// The forbidden place, beneath HOME.
    pub forbidden: &'a str,
    /// Categories that violations of these rules have.
    pub categories: &'a [&'a str],
    /// Puts into a twin's directory what the techniques need besides `file`.
    pub furnish: fn(&Lab, &Path) -> Result<()>,
    /// Verdicts are enforced on the tracepoint backend too: it can refuse this.
    pub refuses: bool,
}

/// What there is of one technique against one place.
struct Twin<'a> {
    technique: &'a Technique,
    forbidden: bool,
    label: String,
    dir: PathBuf,
    scratch: PathBuf,
    inodes: Vec<u64>,
}

impl Guard<'_> {
    /// Does all techniques and compares; the error lists everything that was not as it should be.
    pub fn check(&self, lab: &Lab, techniques: &[Technique]) -> Result<()> {
        lab.policy(self.policy)?;
        let twins = self.furnish_all(lab, techniques)?;
        let cases = self.write_cases(lab, &twins)?;
        let plain = results(&lab.actor_alone(["batch".as_ref(), cases.as_os_str()])?);
        let possible = possible(techniques, &plain)?;

        let twins = self.furnish_all(lab, &possible)?;
        let cases = self.write_cases(lab, &twins)?;
        let enforcing = self.refuses || lab.backend() == Backend::Lsm;
        let mode = if enforcing { Mode::Enforce } else { Mode::Observe };
        let outcome = lab
            .run(mode)
            .actor(["batch".as_ref(), cases.as_os_str()])
            .context("under the rules")?;
        let said = results(&outcome.stdout);
        let mut wrong = String::new();
        for twin in &twins {
            let line = said.get(&twin.label).map_or("no result", String::as_str);
            if let Err(error) = self.judge(lab, twin, enforcing, line, &outcome.events) {
                writeln!(wrong, "  {}: {error} ({line})", twin.label)?;
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} on {}:\n{wrong}{}",
            mode,
            lab.backend(),
            tail(&outcome.stderr)
        );
        Ok(())
    }

    fn furnish_all<'t>(&self, lab: &Lab, techniques: &'t [Technique]) -> Result<Vec<Twin<'t>>> {
        let mut twins = Vec::new();
        for place in [self.allowed, self.forbidden, SCRATCH] {
            let place = lab.path(place);
            if place.exists() {
                fs::remove_dir_all(&place)?;
            }
        }
        for technique in techniques {
            for (side, place) in [("allowed", self.allowed), ("forbidden", self.forbidden)] {
                let label = format!("{}.{side}", technique.name);
                let file = lab.file(format!("{place}/{}/file", technique.name), "content\n")?;
                let dir = lab.path(format!("{place}/{}", technique.name));
                let own = lab.file(format!("{SCRATCH}/{label}/own"), "own\n")?;
                (self.furnish)(lab, &dir)?;
                let scratch = own.parent().context("has a parent")?.to_owned();
                let inodes = vec![fs::metadata(&file)?.ino(), fs::metadata(&dir)?.ino()];
                let forbidden = side == "forbidden";
                twins.push(Twin { technique, forbidden, label, dir, scratch, inodes });
            }
        }
        Ok(twins)
    }

    fn write_cases(&self, lab: &Lab, twins: &[Twin<'_>]) -> Result<PathBuf> {
        let mut text = String::new();
        for twin in twins {
            let (parent, base) = (twin.dir.parent(), twin.dir.file_name());
            let steps = twin
                .technique
                .steps
                .replace("{file}", &format!("{}/file", twin.dir.display()))
                .replace("{dir}", &twin.dir.to_string_lossy())
                .replace("{name}", "file")
                .replace("{parent}", &parent.context("has a parent")?.to_string_lossy())
                .replace("{base}", &base.context("has a name")?.to_string_lossy())
                .replace("{scratch}", &twin.scratch.to_string_lossy())
                .replace("{home}", &lab.home().to_string_lossy())
                .replace("{side}", if twin.forbidden { "forbidden" } else { "allowed" })
                .replace("{actor}", &lab.actor()?.to_string_lossy());
            writeln!(text, "{} {steps}", twin.label)?;
        }
        lab.file("cases", text)
    }

    fn judge(
        &self,
        lab: &Lab,
        twin: &Twin<'_>,
        enforcing: bool,
        line: &str,
        events: &Events,
    ) -> Result<()> {
        let refused = line.starts_with("denied");
        let about: Vec<&Event> = events.violations().filter(|event| twin.concerns(event)).collect();
        let Some(reason) = twin.technique.unseen.filter(|_| lab.backend() == Backend::Tracepoint)
        else {
            if twin.forbidden {
                ensure!(
                    refused == enforcing,
                    "{}",
                    if refused { "refused" } else { "not refused" }
                );
                return self.find(&about, twin.technique.event, enforcing);
            }
            ensure!(line.starts_with("ok"), "the allowed twin failed");
            ensure!(about.is_empty(), "the allowed twin is a violation: {}", about[0]);
            return Ok(());
        };
        ensure!(about.is_empty(), "judged after all, though {reason}: {}", about[0]);
        Ok(())
    }

    fn find(&self, about: &[&Event], kind: &str, enforcing: bool) -> Result<()> {
        let verdict = if enforcing { "verdict" } else { "would_be" };
        let found = about.iter().any(|event| {
            kind.split('|').any(|kind| kind == event.kind())
                && self.categories.contains(&event.text("category"))
                && event.text(verdict) == "deny"
        });
        if !found {
            let listed =
                about.iter().fold(String::new(), |text, event| format!("{text}\n    {event}"));
            bail!("no {kind} violation of {:?} with {verdict} deny{listed}", self.categories);
        }
        Ok(())
    }
}

impl Twin<'_> {
    /// Whether an event is about this twin's places, or its file under another name.
    fn concerns(&self, event: &Event) -> bool {
        let named = ["path", "second"].iter().any(|field| {
            let path = Path::new(event.text(field));
            path.starts_with(&self.dir) || path.starts_with(&self.scratch)
        });
        let same = event.number("ino").is_some_and(|ino| self.inodes.contains(&ino));
        named || (self.forbidden && same)
    }
}

const SCRATCH: &str = "scratch";

/// For guards whose directories need nothing but `file`.
pub fn unfurnished(_: &Lab, _: &Path) -> Result<()> {
    Ok(())
}

/// The lines of `actor batch` by the cases' names.
pub fn results(stdout: &str) -> BTreeMap<String, String> {
    let split = stdout.lines().filter_map(|line| line.split_once(' '));
    split.map(|(name, result)| (name.to_owned(), result.to_owned())).collect()
}

/// The techniques that work without the monitor, all unless they are optional.
fn possible(techniques: &[Technique], plain: &BTreeMap<String, String>) -> Result<Vec<Technique>> {
    let mut kept = Vec::new();
    for technique in techniques {
        let lines = ["allowed", "forbidden"].map(|side| {
            let line = plain.get(&format!("{}.{side}", technique.name));
            line.map_or("no result", String::as_str)
        });
        if lines.iter().all(|line| line.starts_with("ok")) {
            kept.push(*technique);
        } else if !technique.optional {
            bail!("{} does not work without the monitor: {lines:?}", technique.name);
        }
    }
    Ok(kept)
}

/// The end of what a run said, for the messages of failures.
fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().collect();
    let first = lines.len().saturating_sub(20);
    format!("stderr: {}", lines[first..].join("\n        "))
}
