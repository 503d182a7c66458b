//! Techniques by the dozen: the same ones against what the rules allow and against what they
//! forbid, in one run of the monitor.
//!
//! Every technique is first done without the monitor, where both twins have to work: that proves
//! the technique. Then both are done under the rules, as [`crate::cases`] says: the allowed twin
//! works, the forbidden one is recorded and, where the backend can, refused.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Backend, Event, Lab,
    cases::{Batch, Cases},
};

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

    /// The tracepoint backend does not judge it, for this reason; `docs/evasions.md` says so.
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
        let possible = possible(techniques, &cases(lab, &twins)?.alone(lab)?)?;
        let twins = self.furnish_all(lab, &possible)?;
        let batch = cases(lab, &twins)?.run(lab)?;
        let mut wrong = String::new();
        for twin in &twins {
            if let Err(error) = self.judge(lab, twin, &batch) {
                writeln!(wrong, "  {}: {error} ({})", twin.label, batch.line(&twin.label))?;
            }
        }
        ensure!(wrong.is_empty(), "on {}:\n{wrong}", lab.backend());
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

    fn judge(&self, lab: &Lab, twin: &Twin<'_>, batch: &Batch) -> Result<()> {
        let line = batch.line(&twin.label);
        let about: Vec<&Event> =
            batch.events.violations().filter(|event| twin.concerns(event)).collect();
        let blind = lab.backend() == Backend::Tracepoint;
        if let Some(reason) = twin.technique.unseen.filter(|_| blind) {
            ensure!(about.is_empty(), "judged after all, though {reason}: {}", about[0]);
        } else if twin.forbidden {
            let refused = line.starts_with("denied");
            ensure!(
                refused == batch.enforcing,
                "{}",
                if refused { "refused" } else { "let through" }
            );
            self.find(&about, twin.technique.event, batch)?;
        } else {
            ensure!(line.starts_with("ok"), "the allowed twin failed");
            ensure!(about.is_empty(), "the allowed twin is a violation: {}", about[0]);
        }
        Ok(())
    }

    fn find(&self, about: &[&Event], kind: &str, batch: &Batch) -> Result<()> {
        let found = about.iter().any(|event| {
            kind.split('|').any(|kind| kind == event.kind())
                && self.categories.contains(&event.text("category"))
                && batch.is_denied(event)
        });
        if !found {
            let listed =
                about.iter().fold(String::new(), |text, event| format!("{text}\n    {event}"));
            bail!("no {kind} violation of {:?} with verdict deny{listed}", self.categories);
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

fn cases(lab: &Lab, twins: &[Twin<'_>]) -> Result<Cases> {
    let (home, actor) = (lab.home(), lab.actor()?);
    let mut cases = Cases::new();
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
            .replace("{home}", &home.to_string_lossy())
            .replace("{actor}", &actor.to_string_lossy());
        cases.add(&twin.label, steps);
    }
    Ok(cases)
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
