//! `mcp-monitor learn`: from recordings to a commented rule file.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{finish, rule_options::is_directory};
use crate::{
    event::printable,
    learn::{Lesson, Options, learn},
    rules::learn::{Estimate, write},
    segment::recordings,
};

/// Makes rules for a server from recordings of what it did.
///
/// Record the server at its work (`mcp-monitor run -- COMMAND`), then learn from the recording. The
/// rule file goes to standard output, each entry with its count and an example; what the built-in
/// sets protect and what was refused stands in it as comments only. Read it before it is enforced:
/// what the server did while it was recorded is what it will be allowed.
#[derive(Args)]
pub struct Arguments {
    /// Recordings: files, or directories of segments
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The server that the rules are for [default: the one that was recorded]
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Look for includes here first
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Extend this rule file instead; what stands in it stays
    #[arg(long, value_name = "FILE")]
    merge: Option<PathBuf>,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    finish(run(arguments).map(|()| 0))
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    is_directory(arguments.rules.as_deref())?;
    let recordings = recordings(&arguments.paths)?;
    if recordings.is_empty() {
        bail!("there are no recordings (*.jsonl, *.jsonl.zst) in what was named");
    }
    let mut options =
        Options { server: arguments.server.clone(), rules: arguments.rules.clone(), merge: None };
    if let Some(file) = &arguments.merge {
        let (text, server) = to_extend(file)?;
        options.server = options.server.or(Some(server));
        options.merge = Some((file.display().to_string(), text));
    }
    let lesson = learn(&recordings, &options)?;
    let head = match arguments.merge {
        Some(_) => Vec::new(),
        None => heading(&lesson),
    };
    let text = write(&lesson.base, &lesson.learned, &head).context("cannot extend the rules")?;
    match &arguments.merge {
        Some(file) => replace(file, &text)?,
        None => io::stdout().write_all(text.as_bytes()).context("cannot write")?,
    }
    say(&lesson, arguments.merge.as_deref());
    Ok(())
}

/// The text of a rule file, and the server that it is for.
fn to_extend(file: &Path) -> anyhow::Result<(String, String)> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let table: toml::Table =
        toml::from_str(&text).with_context(|| format!("{} is no TOML", file.display()))?;
    let server = table.get("server").and_then(toml::Value::as_str);
    let server = server.with_context(|| format!("{} names no server", file.display()))?;
    Ok((text, server.to_owned()))
}

/// Replaces a file as a whole, so that nobody reads half of it.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::canonicalize(file)?;
    let beside = file.with_extension("toml.new");
    let written = fs::write(&beside, text)
        .and_then(|()| fs::set_permissions(&beside, fs::metadata(&file)?.permissions()))
        .and_then(|()| fs::rename(&beside, &file));
    written
        .inspect_err(|_| drop(fs::remove_file(&beside)))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn heading(lesson: &Lesson) -> Vec<String> {
    let Lesson { server, events, starts, .. } = lesson;
    vec![
        format!("What {server} may do, learned from {events} events of {starts} starts."),
        "Read it before you enforce it: what was done while it was recorded is allowed here."
            .to_owned(),
        expectation(&lesson.learned.estimate),
    ]
}

/// The estimate in words.
fn expectation(estimate: &Estimate) -> String {
    match estimate {
        Estimate::LeftOut { stretches, quiet, median, worst } => format!(
            "Of {stretches} stretches of activity, {quiet} are allowed by what the others teach; the \
             median one would bring {median} violations, the worst {worst}."
        ),
        Estimate::SeenOnce { of: 0, .. } => {
            "All that was done is allowed by what is included.".to_owned()
        }
        Estimate::SeenOnce { once, of } => format!(
            "These rules rest on {of} accesses, {once} of them the only ones of their entry: of 100 \
             further ones, {} or fewer are likely to be violations.",
            (100 * (once + 1)).div_ceil(of + 1)
        ),
    }
}

fn say(lesson: &Lesson, merged: Option<&Path>) {
    let say = |text: String| {
        let _ = writeln!(io::stderr(), "mcp-monitor: {}", printable(&text));
    };
    let Lesson { learned, covered, dropped, partial, lost, server, .. } = lesson;
    let what = match merged {
        Some(file) => format!("new in {}", file.display()),
        None => "learned".to_owned(),
    };
    say(format!(
        "{} entries {what}; {covered} accesses are allowed by what is included already",
        learned.entries.len()
    ));
    say(expectation(&learned.estimate));
    if !learned.held.is_empty() {
        say(format!("{} things are held back: see the end of the file", learned.held.len()));
    }
    if *dropped != 0 {
        say(format!("{dropped} accesses are in no rule: there were too many different ones"));
    }
    if *partial {
        say("not all types of events were recorded ([record] in the rules): what is missing will be \
             a violation"
            .to_owned());
    }
    if *lost != 0 {
        say(format!("{lost} events are missing, as the recording itself says"));
    }
    if merged.is_none() {
        say(format!(
            "save it as servers/{server}.toml in a rules directory: run --rules DIR --server {server}"
        ));
    }
}
