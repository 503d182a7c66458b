//! `run` through the agent, for whoever is not root: the agent has the rights, gives the waiting
//! child its cgroup, tag and policy, and records. What is left here is the server's process.

use std::{
    ffi::OsStr,
    fs::File,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::Path,
};

use anyhow::Context as _;
use hyper::Method;
use tokio::io::unix::AsyncFd;

use super::{Arguments, ModeArgument, colour_refused, say};
use crate::{
    agent::{
        client::{Answer, Client, ClientError, block_on},
        request::{Launch, Mode, Started},
    },
    event::{Bytes, Parser},
    launch::{self, Account, Ended, Root, Waiting, cgroup, signals::Signals},
    sink::{stderr::Stderr, terminal::Terminal},
};

/// Starts the server through the agent and stays until it has ended; its exit code.
///
/// # Errors
/// When there is no agent, it refuses, or the server cannot be started.
pub fn run(arguments: &Arguments, socket: &Path) -> anyhow::Result<u8> {
    let account = Account::of_caller()?;
    let signals = Signals::block().context("cannot take over signals")?;
    block_on(async {
        let mut client = Client::connect(socket).await?;
        let waiting = Waiting::fork(&arguments.command, &account, signals.inherited())?;
        let launch = serde_json::to_vec(&launch(arguments, &waiting)?)?;
        let mut answer = client.ask(Method::POST, "/v1/instances", launch).await?;
        let line = answer.line().await?.context("the agent went away")?;
        let started: Started = serde_json::from_slice(&line).context("the agent's answer")?;
        for warning in &started.warnings {
            say(warning);
        }
        let root = waiting.let_go()?;
        let null = File::options().read(true).write(true).open("/dev/null");
        launch::let_go_of_streams(&null.context("cannot open /dev/null")?)?;
        let ended = until_end(root, &signals, answer, started.instance).await?;
        tell_end(socket, started.instance).await;
        Ok(ended.exit_code())
    })?
}

fn launch(arguments: &Arguments, waiting: &Waiting) -> anyhow::Result<Launch> {
    let bytes = |text: &OsStr| Bytes::from(text.as_bytes());
    let cwd = std::env::current_dir().context("cannot find the working directory")?;
    Ok(Launch {
        pid: waiting.pid().as_raw() as u32,
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

/// Shows alerts and handles signals until the server has ended.
async fn until_end(
    mut root: Root,
    signals: &Signals,
    answer: Answer,
    instance: u32,
) -> anyhow::Result<Ended> {
    let descriptor = signals.as_fd().try_clone_to_owned()?;
    // SAFETY: an owned descriptor that is closed when this is dropped, and not before.
    let readable = unsafe { AsyncFd::register(descriptor) }?;
    let mut terminal = Terminal::new(Stderr::new(), !colour_refused() && is_terminal());
    let mut answer = Some(answer);
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
            line = next_line(&mut answer) => match line {
                Some(line) => if let Ok(event) = Parser::default().event(&line) {
                    terminal.event(&event);
                },
                None => {
                    answer = None;
                    say("the agent has gone: the server goes on under its rules, which the kernel \
                         has; nobody reads its events until the next agent does");
                }
            },
        }
    }
}

/// The next line of the agent; never comes once there is none.
async fn next_line(answer: &mut Option<Answer>) -> Option<Vec<u8>> {
    match answer {
        Some(answer) => answer.line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Has the agent end what is left of the tree, and shows what it says.
async fn tell_end(socket: &Path, instance: u32) {
    let path = format!("/v1/instances/{instance}/end");
    let said = async {
        let mut client = Client::connect(socket).await?;
        client.ask(Method::POST, &path, Vec::new()).await?.text().await
    };
    match said.await {
        Ok(summary) => eprint!("{summary}"),
        // Ended by a verdict, and buried before we asked.
        Err(ClientError::Refused(_)) => {}
        Err(error) => say(&format!("{error}")),
    }
}

fn is_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stderr().is_terminal()
}
