//! A server that is honest for two calls and turns bad with the third: the same package after a
//! hostile update, as far as client, user and rules can tell. The script:
//! `tests/fixtures/demo/turncoat.mjs`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::listener::Listener;
use super::{Ended, SERVER_PACKAGE, Scene, Session};
use crate::{Event, Events};

const SCRIPT: &str = include_str!("../../fixtures/demo/turncoat.mjs");
/// The call with which it turns.
const TURN: usize = 3;

/// What the server reaches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// `~/.ssh/id_ed25519`.
    Key,
    /// The environment of a process that is none of its business.
    Environment,
    /// A port that its rules do not name, to which it sends what it may read.
    Address,
}

impl Reach {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Key, Self::Environment, Self::Address];

    fn plan_word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Environment => "environment",
            Self::Address => "address",
        }
    }
}

/// One session with the turncoat and what came of it.
pub struct Attempt {
    /// What it reached for.
    pub reach: Reach,
    /// The file or address that it reached for, as events name it.
    pub subject: String,
    /// The client received what only a thief can have sent.
    pub told_client: bool,
    /// How many connections the thief's listener got.
    pub connections: usize,
    /// The listener received what was stolen.
    pub told_listener: bool,
    /// How the session ended.
    pub ended: Ended,
    /// What was recorded; nothing without the monitor.
    pub events: Events,
}

/// Calls the turncoat three times, through the monitor or not.
///
/// # Errors
/// When the scene cannot be set, or the server was not honest for as long as it should be.
pub async fn attempt(scene: &Scene, reach: Reach, is_guarded: bool) -> Result<Attempt> {
    let listener = Listener::start().await?;
    let victim = scene.victim()?;
    let word = reach.plan_word();
    let plan = json!({
        "call": TURN, "reach": word, "process": victim.id(), "port": listener.port(),
    });
    let package = format!("update/node_modules/{SERVER_PACKAGE}/dist");
    let files = [("index.mjs", SCRIPT), ("plan.json", &plan.to_string())];
    let script = scene.place(&package, &files)?.join("index.mjs");
    let (command, recording) = match is_guarded {
        true => scene.guarded(&script, &format!("{word}.jsonl")),
        false => (scene.alone(&script), PathBuf::new()),
    };
    let session = Session::start(command).await?;
    let honest = use_it(&session, scene).await;
    let ended = session.end().await?;
    honest.with_context(|| format!("before it turned: {ended}"))?;

    let (connections, received) = listener.received().await?;
    let (subject, secret) = match reach {
        Reach::Key => (scene.key().to_string_lossy().into_owned(), scene.secret("key")),
        Reach::Environment => (format!("/proc/{}/environ", victim.id()), scene.secret("token")),
        Reach::Address => ("127.0.0.1".to_owned(), scene.secret("notes")),
    };
    Ok(Attempt {
        reach,
        subject,
        // The notes are the client's own.
        told_client: reach != Reach::Address && holds(&ended.heard, &secret),
        connections,
        told_listener: holds(&received, &secret),
        events: if is_guarded { Events::read(&recording)? } else { Events::default() },
        ended,
    })
}

/// Two calls whose results are right, and a third whose result may be anything.
async fn use_it(session: &Session, scene: &Scene) -> Result<()> {
    let notes = scene.project().join("notes.md");
    let listed = session.call("list_directory", json!({ "path": scene.project() })).await?;
    ensure!(listed.contains("notes.md"), "listed: {listed}");
    let read = session.call("read_text_file", json!({ "path": notes })).await?;
    ensure!(read.contains(&scene.secret("notes")), "read: {read}");
    // An error is what a client sees of a server that was killed.
    let _ = session.call("read_text_file", json!({ "path": notes })).await;
    Ok(())
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

impl Attempt {
    /// That the theft worked, which it does where nobody watches.
    ///
    /// # Errors
    /// When it did not: then that it fails under the monitor would prove nothing.
    pub fn verify_success(&self) -> Result<()> {
        let told = self.told_listener && (self.told_client || self.reach == Reach::Address);
        ensure!(told, "{:?} was not stolen even without the monitor: {}", self.reach, self.ended);
        Ok(())
    }

    /// That the kernel stopped it, said so, and nothing left.
    ///
    /// # Errors
    /// With what was otherwise.
    pub fn verify_stopped(&self) -> Result<()> {
        let violation = self.violation()?;
        ensure!(violation.text("enforced") == "kernel", "not stopped by the kernel: {violation}");
        let others = self.events.violations().find(|event| !event.names(&self.subject));
        ensure!(others.is_none(), "another violation: {}", self.events);
        ensure!(self.events.of("alert").count() > 0, "no alert: {}", self.events);
        ensure!(!self.told_client, "the client received it: {}", self.ended);
        ensure!(self.connections == 0, "the listener was reached: {}", self.ended);
        Ok(())
    }

    /// The event of the theft.
    ///
    /// # Errors
    /// When there is none.
    pub fn violation(&self) -> Result<&Event> {
        let (kind, category) = match self.reach {
            Reach::Key => ("open", "secret"),
            Reach::Environment => ("open", "env_secret"),
            Reach::Address => ("connect", "connect"),
        };
        self.events.violation(kind, category, &self.subject)
    }
}
