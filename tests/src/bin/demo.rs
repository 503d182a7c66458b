//! What `cargo xtask demo` shows, once everything is built: a real server at work, then one that
//! turns bad. Exits with an error if anything is not as it says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use end_to_end::demo::turncoat::{Attempt, Reach, attempt};
use end_to_end::demo::{Ended, SERVER_PACKAGE, Scene, honest};

/// The demonstration of mcp-monitor. It needs root.
#[derive(Parser)]
struct Demo {
    /// The built mcp-monitor
    #[arg(long)]
    monitor: PathBuf,
    /// Where npm has installed the real server
    #[arg(long)]
    servers: PathBuf,
}

fn main() -> Result<()> {
    let demo = Demo::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Dropping the demonstration half-way ends what it started and removes its folder.
    runtime.block_on(async {
        tokio::select! {
            shown = show(&demo) => shown,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

async fn show(demo: &Demo) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("mcp-monitor-demo-").tempdir_in("/tmp")?;
    let scene = Scene::new(folder.path(), &demo.monitor, None)?;
    let notes = real_server(&scene, &honest::script(&demo.servers)?).await?;
    bad_server(&scene, &notes).await
}

/// The first half. Returns what the monitor says at every start.
async fn real_server(scene: &Scene, script: &std::path::Path) -> Result<BTreeSet<String>> {
    let started = Instant::now();
    title("1. A real server does its work");
    let project = scene.project();
    tell(&format!("{SERVER_PACKAGE}, as npm installs it, is given {}", project.display()));
    tell("and started through the monitor, under the rules that come with it:");
    tell("$ mcp-monitor run --server filesystem --mode enforce -- node …/dist/index.js …/project");
    let honest = honest::perform(scene, script).await.context("the honest half failed")?;
    println!();
    tell("an MCP client uses it, and checks each result:");
    for (tool, result) in &honest.steps {
        println!("    {tool:<40} {result}");
    }
    println!();
    tell("what was on standard error, the monitor's words and the server's:");
    quote(honest.ended.said.lines());
    honest.verify()?;
    let events = honest.events.all().len();
    conclude(&format!("every result is right; {events} events, no alert"), started);
    let lines = honest.ended.said.lines().take_while(|line| !is_summary(line));
    Ok(lines.map(str::to_owned).collect())
}

/// The second half.
async fn bad_server(scene: &Scene, notes: &BTreeSet<String>) -> Result<()> {
    let started = Instant::now();
    title("2. The same package after a hostile update");
    tell("it answers two calls honestly and turns bad with the third. First with nobody watching:");
    for reach in Reach::ALL {
        let attempt = attempt(scene, reach, false).await?;
        attempt.verify_success()?;
        println!("    {:<40} {}", wanted(&attempt), outcome(&attempt));
    }
    println!();
    tell("and now through the monitor, started anew for each:");
    for reach in Reach::ALL {
        let attempt = attempt(scene, reach, true).await?;
        println!("\n  It wants {}: {}.", wanted(&attempt), intention(&attempt));
        quote(words_of(&attempt.ended, notes));
        attempt.verify_stopped()?;
        println!("  {}; {}.", end(&attempt.ended), outcome(&attempt));
    }
    conclude("three thefts that work without the monitor, none that works with it", started);
    Ok(())
}

fn wanted(attempt: &Attempt) -> &'static str {
    match attempt.reach {
        Reach::Key => "the private key",
        Reach::Environment => "the token of another process",
        Reach::Address => "to send away the notes",
    }
}

fn intention(attempt: &Attempt) -> String {
    let subject = &attempt.subject;
    match attempt.reach {
        Reach::Key | Reach::Environment => format!("opens {subject}"),
        Reach::Address => format!("reads what it may, and connects to a port of {subject}"),
    }
}

/// What really came of it, by what the client and the listener have received.
fn outcome(attempt: &Attempt) -> &'static str {
    match (attempt.told_client, attempt.told_listener, attempt.connections) {
        (true, true, _) => "it left: the thief's listener has it, and the client was told",
        (false, true, _) => "it left: the thief's listener has it",
        (true, false, _) => "it left: the client was told",
        (false, false, 0) => "it did not leave: the thief's listener got no connection",
        (false, false, _) => "it did not leave, but the thief's listener was reached",
    }
}

fn end(ended: &Ended) -> &'static str {
    match ended.was_killed() {
        true => "The server was killed, with everything that it had started",
        false => "The call was refused, and the server went on without",
    }
}

/// What was said in a session, without what is said at every start and the summary.
fn words_of<'a>(ended: &'a Ended, notes: &'a BTreeSet<String>) -> impl Iterator<Item = &'a str> {
    let lines = ended.said.lines().take_while(|line| !is_summary(line));
    lines.filter(|line| !notes.contains(*line))
}

fn is_summary(line: &str) -> bool {
    line.starts_with("mcp-monitor: summary of ")
}

fn title(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}

fn tell(text: &str) {
    println!("  {text}");
}

fn quote<'a>(lines: impl Iterator<Item = &'a str>) {
    lines.for_each(|line| println!("  | {line}"));
}

fn conclude(text: &str, started: Instant) {
    println!("\n  As promised: {text} ({:.1} s).", started.elapsed().as_secs_f64());
}
