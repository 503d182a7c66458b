//! `mcp-monitor agent`: the host agent.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::exit;
use crate::{
    agent::{self, config::Config},
    kernel::KernelError,
};

/// Runs the host agent.
///
/// Servers that are started through it are judged by kernel programs that outlive it: without the
/// agent they go on judging, and the next one takes over.
#[derive(Args)]
pub struct Arguments {
    /// The configuration [default: /etc/mcp-monitor/agent.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration, with the defaults as comments, and do nothing
    #[arg(long, conflicts_with = "detach_all")]
    print_config: bool,
    /// End all servers that run through the agent and remove all programs and state
    #[arg(long)]
    detach_all: bool,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mcp-monitor: {}", super::describe(&error));
            let kernel = error.downcast_ref::<KernelError>();
            ExitCode::from(kernel.map_or(exit::DATA, |_| exit::CANNOT_RUN))
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::read(arguments.config.as_deref())?;
    if arguments.print_config {
        print!("{}", config.text()?);
        return Ok(());
    }
    match arguments.detach_all {
        true => agent::detach_all(&config),
        false => agent::serve(&config),
    }
}
