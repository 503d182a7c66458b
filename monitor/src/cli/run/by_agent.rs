//! `run` through the agent, for whoever is not root: the agent has the rights, gives the waiting
//! child its cgroup, tag and policy, and records. What is left here is the server's process.

use std::{
    ffi::OsStr,
    fs::File,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use hyper::Method;
use tokio::io::unix::AsyncFd;

use super::{Arguments, ModeArgument, say};
use crate::{
    agent::{
        client::{Answer, Client, ClientError, block_on},
        request::{Launch, Mode, Plan, Started},
    },
    event::{Bytes, Parser},
    launch::{self, Account, Ended, Environment, Program, Root, Waiting, cgroup, signals::Signals},
    sink::{
        stderr::Stderr,
        terminal::{Terminal, shows_colour},
    },
};

/// How long the agent may take to tell the last alerts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the server through the agent and stays until it has ended; its exit code.
///
/// # Errors
/// When there is no agent, it refuses, or the server cannot be started.
pub fn run(arguments: &Arguments, socket: &Path) -> anyhow::Result<u8> {
    let account = Account::of_caller()?;
    let signals = Signals::block().context("cannot take over signals")?;
    block_on(async {
        let mut client = Client::connect(socket).await?;
        let mut launch = launch(arguments)?;
        let planned = client.ask(Method::POST, "/v1/plan", serde_json::to_vec(&launch)?).await?;
        let Plan { enforced, pass } = planned.json().await?;
        let environment = Environment::new(std::env::vars_os(), &pass, enforced);
        let waiting = Waiting::fork(Program {
            command: &arguments.command,
            environment: &environment,
            account: &account,
            inherited: signals.inherited(),
        })?;
        if let Some(message) = environment.message() {
            say(&message);
        }
        launch.pid = waiting.pid().as_raw() as u32;
        let launch = serde_json::to_vec(&launch)?;
        let mut answer = client.ask(Method::POST, "/v1/instances", launch).await?;
        let line = answer.line().await?.context("the agent went away")?;
        let started: Started = serde_json::from_slice(&line).context("the agent's answer")?;
        for warning in &started.warnings {
            say(warning);
        }
        let root = waiting.let_go()?;
        let null = File::options().read(true).write(true).open("/dev/null");
        launch::let_go_of_streams(&null.context("cannot open /dev/null")?)?;
        let mut line = Line { answer: Some(answer), terminal: terminal() };
        let ended = until_end(root, &signals, &mut line, started.instance).await?;
        let summary = tell_end(socket, started.instance).await;
        line.rest().await;
        eprint!("{summary}");
        Ok(ended.exit_code())
    })?
}

fn launch(arguments: &Arguments) -> anyhow::Result<Launch> {
    let bytes = |text: &OsStr| Bytes::from(text.as_bytes());
    let cwd = std::env::current_dir().context("cannot find the working directory")?;
    Ok(Launch {
        pid: 0,
        server: arguments.server.clone(),
        mode: arguments.mode.map(|mode| match mode {
            ModeArgument::Observe => Mode::Observe,
            ModeArgument::Enforce => Mode::Enforce,
        }),
        command: arguments.command.iter().map(|argument| bytes(argument)).collect(),
        environment: std::env::vars_os()
            .map(|(name, value)| (bytes(&name), bytes(&value)))
            .collect(),
        cwd: bytes(cwd.as_os_str()),
        home: arguments.home.as_ref().map(|home| bytes(home.as_os_str())),
    })
}

/// What the agent tells while the server runs.
struct Line {
    /// `None` once the agent has gone.
    answer: Option<Answer>,
    terminal: Terminal<Stderr>,
}

impl Line {
    /// Shows what the agent tells next; never comes back once it has gone.
    async fn next(&mut self) {
        let Some(answer) = &mut self.answer else { return std::future::pending().await };
        match answer.line().await {
            Ok(Some(line)) => self.show(&line),
            _ => {
                self.answer = None;
                say(
                    "the agent has gone: the server goes on under its rules, which the kernel has; \
                     nobody reads its events until the next agent does",
                );
            }
        }
    }

    /// Shows what is left once the agent has said that the instance has ended.
    async fn rest(&mut self) {
        while let Some(answer) = &mut self.answer {
            match tokio::time::timeout(PATIENCE, answer.line()).await {
                Ok(Ok(Some(line))) => self.show(&line),
                _ => self.answer = None,
            }
        }
    }

    fn show(&mut self, line: &[u8]) {
        if let Ok(event) = Parser::default().event(line) {
            self.terminal.event(&event);
        }
    }
}

/// Handles signals and shows alerts until the server has ended.
async fn until_end(
    mut root: Root,
    signals: &Signals,
    line: &mut Line,
    instance: u32,
) -> anyhow::Result<Ended> {
    let descriptor = signals.as_fd().try_clone_to_owned()?;
    // SAFETY: an owned descriptor that is closed when this is dropped, and not before.
    let readable = unsafe { AsyncFd::register(descriptor) }?;
    loop {
        let handled = root.handle(
            signals,
            |sender| cgroup::has_member(instance, sender),
            // The agent goes on reading the tree's events.
            |_| Ok(()),
        )?;
        if let Some(ended) = handled {
            return Ok(ended);
        }
        tokio::select! {
            ready = readable.readable() => ready?.clear_ready(),
            () = line.next() => {}
        }
    }
}

/// Has the agent end what is left of the tree; what it says to that.
async fn tell_end(socket: &Path, instance: u32) -> String {
    let path = format!("/v1/instances/{instance}/end");
    let said = async {
        let mut client = Client::connect(socket).await?;
        client.ask(Method::POST, &path, Vec::new()).await?.text().await
    };
    match said.await {
        Ok(summary) => summary,
        // Ended by a verdict, and buried before we asked.
        Err(ClientError::Refused(_)) => String::new(),
        Err(error) => format!("mcp-monitor: {error}\n"),
    }
}

fn terminal() -> Terminal<Stderr> {
    Terminal::new(Stderr::new(), shows_colour(&std::io::stderr()))
}
