//! The verbs that talk to the agent: `status`, `alerts`, `reload`, `stop`, `isolate`, `quarantine`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use hyper::Method;
use serde::de::DeserializeOwned;

use super::{exit, findings, finish};
use crate::{
    agent::{
        client::{Client, ClientError, block_on},
        config::Config,
        request::{Isolated, Reloaded, Status},
    },
    event::{Parser, printable},
    rules::is_server_name,
    sink::terminal::{Terminal, shows_colour},
};

/// Where the agent is.
#[derive(Args)]
pub struct Agent {
    /// The agent's control socket [default: what /etc/mcp-monitor/agent.toml says]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Agent {
    /// The control socket.
    pub fn socket(&self) -> anyhow::Result<PathBuf> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(Config::read(None)?.control.socket),
        }
    }
}

/// Shows what runs under the agent.
#[derive(Args)]
pub struct StatusArguments {
    #[command(flatten)]
    agent: Agent,
    /// Show it again every two seconds
    #[arg(long)]
    watch: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Shows the latest alerts.
#[derive(Args)]
pub struct AlertsArguments {
    #[command(flatten)]
    agent: Agent,
    /// Go on with those to come
    #[arg(long)]
    follow: bool,
    /// As JSON lines
    #[arg(long)]
    json: bool,
}

/// Loads the rules of all instances again.
///
/// What cannot be loaded changes nothing: the rules in force stay.
#[derive(Args)]
pub struct ReloadArguments {
    #[command(flatten)]
    agent: Agent,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Ends an instance with all its processes.
#[derive(Args)]
pub struct StopArguments {
    #[command(flatten)]
    agent: Agent,
    /// Number of the instance, see `status`
    #[arg(value_name = "INSTANCE")]
    instance: u32,
}

/// Cuts an instance off from IP networks.
///
/// It connects to nothing and sends and receives nothing, by sockets that it has already either.
#[derive(Args)]
pub struct IsolateArguments {
    #[command(flatten)]
    agent: Agent,
    /// Number of the instance, see `status`
    #[arg(value_name = "INSTANCE")]
    instance: u32,
    /// Let it reach networks again, as its rules say
    #[arg(long)]
    undo: bool,
}

/// Stops all instances of a server and lets none start.
#[derive(Args)]
pub struct QuarantineArguments {
    #[command(flatten)]
    agent: Agent,
    /// The server
    #[arg(value_name = "SERVER")]
    server: String,
    /// Let it start again
    #[arg(long)]
    release: bool,
}

/// Runs `status`.
pub fn status(arguments: &StatusArguments) -> ExitCode {
    finish((|| {
        let socket = arguments.agent.socket()?;
        loop {
            let status: Status = get(&socket, "/v1/status")?;
            let text = match arguments.json {
                true => serde_json::to_string(&status)? + "\n",
                false => table(&status),
            };
            let mut out = io::stdout().lock();
            if arguments.watch && out.is_terminal() {
                out.write_all(b"\x1b[2J\x1b[H")?;
            }
            out.write_all(text.as_bytes())?;
            out.flush()?;
            if !arguments.watch {
                return Ok(0);
            }
            std::thread::sleep(Duration::from_secs(2));
        }
    })())
}

/// Runs `alerts`.
pub fn alerts(arguments: &AlertsArguments) -> ExitCode {
    finish((|| {
        let socket = arguments.agent.socket()?;
        block_on(async {
            let mut terminal = Terminal::new(io::stdout(), shows_colour(&io::stdout()));
            let mut show = |line: &[u8]| -> anyhow::Result<()> {
                if arguments.json {
                    let mut out = io::stdout().lock();
                    out.write_all(line)?;
                    out.write_all(b"\n")?;
                } else if let Ok(event) = Parser::default().event(line) {
                    terminal.event(&event);
                }
                Ok(())
            };
            let mut client = Client::connect(&socket).await?;
            // First, so that none is missed between the two.
            let mut following = match arguments.follow {
                true => Some({
                    let mut other = Client::connect(&socket).await?;
                    other.ask(Method::GET, "/v1/alerts/follow", Vec::new()).await?
                }),
                false => None,
            };
            let past = client.ask(Method::GET, "/v1/alerts", Vec::new()).await?.text().await?;
            past.lines().try_for_each(|line| show(line.as_bytes()))?;
            while let Some(answer) = &mut following {
                let Some(line) = answer.line().await? else { break };
                show(&line)?;
            }
            anyhow::Ok(0)
        })?
    })())
}

/// Runs `reload`.
pub fn reload(arguments: &ReloadArguments) -> ExitCode {
    finish((|| {
        let socket = arguments.agent.socket()?;
        let results: Vec<Reloaded> = request(&socket, Method::POST, "/v1/reload", Vec::new())?;
        let failed = results.iter().any(|result| result.error.is_some());
        if arguments.json {
            println!("{}", serde_json::to_string(&results)?);
        } else {
            for Reloaded { instance, server, error } in &results {
                let what = error.as_deref().unwrap_or("rules are as in the files");
                println!("{instance} {}: {}", printable(server), printable(what));
            }
        }
        Ok(findings(failed))
    })())
}

/// Runs `stop`.
pub fn stop(arguments: &StopArguments) -> ExitCode {
    let stopped = (|| {
        let socket = arguments.agent.socket()?;
        let path = format!("/v1/instances/{}/end", arguments.instance);
        let summary = block_on(async {
            let mut client = Client::connect(&socket).await?;
            client.ask(Method::POST, &path, Vec::new()).await?.text().await
        })??;
        print!("{summary}");
        Ok(0)
    })();
    finish(stopped)
}

/// Runs `isolate`.
pub fn isolate(arguments: &IsolateArguments) -> ExitCode {
    finish((|| {
        let socket = arguments.agent.socket()?;
        let path = format!("/v1/instances/{}/isolation", arguments.instance);
        let isolated: Isolated =
            request(&socket, post_or_delete(!arguments.undo), &path, Vec::new())?;
        if isolated.connections_go_on {
            println!(
                "it makes no new connections; those that exist go on, because others have started it \
                 and it has no cgroup of its own"
            );
        }
        Ok(0)
    })())
}

/// Runs `quarantine`.
pub fn quarantine(arguments: &QuarantineArguments) -> ExitCode {
    finish((|| {
        let socket = arguments.agent.socket()?;
        let server = &arguments.server;
        if !is_server_name(server) {
            bail!("{server:?} cannot be a server's name");
        }
        let path = format!("/v1/servers/{server}/quarantine");
        let stopped: Vec<u32> =
            request(&socket, post_or_delete(!arguments.release), &path, Vec::new())?;
        stopped.iter().for_each(|number| println!("stopped instance {number}"));
        Ok(0)
    })())
}

fn post_or_delete(post: bool) -> Method {
    if post { Method::POST } else { Method::DELETE }
}

/// The answer of the agent to a question without a body.
pub fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    request(socket, Method::GET, path, Vec::new())
}

/// The answer of the agent.
pub fn request<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<T> {
    let answer: Result<T, ClientError> = block_on(async {
        let mut client = Client::connect(socket).await?;
        client.ask(method, path, body).await?.json().await
    })?;
    Ok(answer?)
}

/// Exit code when there is no agent.
pub fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ClientError>() {
        Some(error) if error.is_absence() => exit::CANNOT_RUN,
        _ => exit::DATA,
    }
}

fn table(status: &Status) -> String {
    let mut text = format!(
        "mcp-monitor {} (process {}), {} backend, recording to {}\n",
        printable(&status.version),
        status.pid,
        printable(&status.backend),
        printable(&status.recording)
    );
    if let Some(reason) = &status.passed_over {
        text += &format!("not the lsm backend, because {}\n", printable(reason));
    }
    if status.lost > 0 {
        text += &format!("{} events were lost on the way\n", status.lost);
    }
    if let Some(blind) = status.blind_seconds {
        text += &format!("took over after {blind} s without an agent\n");
    }
    if !status.quarantined.is_empty() {
        text += &format!("in quarantine: {}\n", printable(&status.quarantined.join(", ")));
    }
    if status.instances.is_empty() {
        return text + "no instances\n";
    }
    text += &format!(
        "{:>10}  {:<20} {:>8} {:>6}  {:<8} {:>10} {:>7}  {}\n",
        "INSTANCE", "SERVER", "PID", "UID", "MODE", "EVENTS", "ALERTS", "STARTED"
    );
    for one in &status.instances {
        text += &format!(
            "{:>10}  {:<20} {:>8} {:>6}  {:<8} {:>10} {:>7}  {}\n",
            one.instance,
            printable(&one.server),
            one.pid,
            one.uid,
            one.mode,
            one.events,
            one.alerts,
            one.started
        );
        if one.isolated {
            text += &format!("{:>10}  cut off from IP networks\n", "");
        }
        if let Some(stale) = &one.stale {
            text += &format!("{:>10}  rules not reloaded: {}\n", "", printable(stale));
        }
    }
    text
}
