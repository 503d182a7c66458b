//! The real filesystem server at an ordinary task, under the product's own rules for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Ended, SERVER_PACKAGE, Scene, Session};
use crate::Events;

/// What came of the task.
pub struct Honest {
    /// What the client asked for and got, in words.
    pub steps: Vec<(&'static str, String)>,
    /// How the session ended.
    pub ended: Ended,
    /// What was recorded.
    pub events: Events,
}

/// The server's script in a folder where npm has installed it.
///
/// # Errors
/// When it is not there.
pub fn script(installed: &Path) -> Result<PathBuf> {
    let script = installed.join("node_modules").join(SERVER_PACKAGE).join("dist/index.js");
    fs::canonicalize(&script)
        .with_context(|| format!("{} is not there: npm installs it", script.display()))
}

/// Runs the task through the monitor, in enforce.
///
/// # Errors
/// When a result is not what it should be, with what the monitor said.
pub async fn perform(scene: &Scene, script: &Path) -> Result<Honest> {
    let (command, recording) = scene.guarded(script, "honest.jsonl");
    let session = Session::start(command).await?;
    let steps = task(&session, &scene.project()).await;
    let ended = session.end().await?;
    let steps = steps.with_context(|| format!("the monitor ended: {ended}"))?;
    Ok(Honest { steps, ended, events: Events::read(&recording)? })
}

impl Honest {
    /// That nothing was held against it.
    ///
    /// # Errors
    /// With the violation, or the bad end.
    pub fn verify(&self) -> Result<()> {
        self.events.assert_quiet()?;
        ensure!(self.events.of("alert").next().is_none(), "an alert: {}", self.ended);
        ensure!(self.events.of("loss").next().is_none(), "events were lost: {}", self.ended);
        ensure!(self.ended.status.success(), "the server ended badly: {}", self.ended);
        Ok(())
    }
}

/// The task. Every result is compared with what it should be, on the disk where that tells.
async fn task(session: &Session, project: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut steps = Vec::new();
    let path = |name: &str| project.join(name).to_string_lossy().into_owned();
    let (hello, todo, done) = (path("src/hello.py"), path("docs/todo.md"), path("docs/done.md"));
    let tools = session.tools().await?;
    ensure!(tools.iter().any(|tool| tool == "search_files"), "other tools: {tools:?}");
    steps.push(("tools/list", format!("{} tools", tools.len())));

    let listed = session.call("list_directory", json!({ "path": project })).await?;
    ensure!(listed.contains("notes.md") && listed.contains("src"), "listed: {listed}");
    steps.push(("list_directory", listed.lines().collect::<Vec<_>>().join(", ")));

    let read = session.call("read_text_file", json!({ "path": hello })).await?;
    ensure!(read.trim() == "print('helo')", "read: {read}");
    steps.push(("read_text_file", read.trim().to_owned()));

    let edits = json!([{ "oldText": "helo", "newText": "hello" }]);
    session.call("edit_file", json!({ "path": hello, "edits": edits })).await?;
    let edited = fs::read_to_string(&hello)?;
    ensure!(edited == "print('hello')\n", "edited: {edited}");
    steps.push(("edit_file", edited.trim().to_owned()));

    session.call("create_directory", json!({ "path": path("docs") })).await?;
    session.call("write_file", json!({ "path": todo, "content": "- ship it\n" })).await?;
    session.call("move_file", json!({ "source": todo, "destination": done })).await?;
    let moved = fs::read_to_string(&done)?;
    ensure!(moved == "- ship it\n" && !Path::new(&todo).exists(), "moved: {moved}");
    steps.push(("create_directory, write_file, move_file", "docs/done.md".to_owned()));

    let search = json!({ "path": project, "pattern": "**/*.md" });
    let found = session.call("search_files", search).await?;
    ensure!(found.contains(&done) && found.contains(&path("notes.md")), "found: {found}");
    steps.push(("search_files", format!("{} files", found.lines().count())));
    Ok(steps)
}
