//! The measurements of `cargo xtask bench`, on one machine and one backend; tables on standard
//! output, in Markdown. Runs as root, with `mcp-monitor`, `workload` and the object of empty
//! programs beside it.
//!
//! Times are ratios to the same work with nothing attached, measured in turn within one run: what
//! else the machine does slows both.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use end_to_end::Backend;

mod agent;
mod attached;
mod automaton;
mod calls;
mod fixture;
mod flood;
mod programs;
mod start;
mod statistics;

use fixture::Fixture;

/// Measures the monitor beside this program.
#[derive(Parser)]
struct Arguments {
    /// Backend to measure
    #[arg(long)]
    backend: Backend,
    /// Repetitions of everything that is compared
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Opens of the unthrottled flood
    #[arg(long, default_value_t = 10_000_000)]
    flood: u64,
    /// Opens a second of the throttled flood
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Instances that run one after another
    #[arg(long, default_value_t = 10_000)]
    brief: usize,
    /// How often the host agent is killed
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Only these measurements [default: all]
    #[arg(value_enum)]
    only: Vec<Measurement>,
}

/// A kind of measurement; one table each.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measurement {
    /// What a call costs, against nothing attached
    Calls,
    /// What a run of each kernel program costs
    Programs,
    /// What the automaton costs by the byte
    Automaton,
    /// What is delivered and lost under a flood, and the agent's memory
    Flood,
    /// How soon a server runs, and the agent's memory
    Start,
    /// What the host agent has to stand: nothing to do, many instances, `kill -9`
    Agent,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the measurements load kernel programs: run them as root");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("kernel {}, {} backend", release.trim(), arguments.backend);
    let fixture = Fixture::new(arguments.backend)?;
    let all = Measurement::value_variants();
    let wanted = if arguments.only.is_empty() { all } else { &arguments.only };
    for measurement in wanted {
        println!();
        match measurement {
            Measurement::Calls => calls::measure(&fixture, arguments.rounds)?,
            Measurement::Programs => programs::measure(&fixture)?,
            Measurement::Automaton => automaton::measure(arguments.backend, arguments.rounds)?,
            Measurement::Flood => flood::measure(&fixture, arguments.flood, arguments.rate)?,
            Measurement::Start => start::measure(&fixture, arguments.rounds)?,
            Measurement::Agent => {
                agent::measure(arguments.backend, arguments.brief, arguments.kills)?;
            }
        }
    }
    Ok(())
}

/// A file that lies beside this program.
fn beside(name: &str) -> Result<PathBuf> {
    let path = env::current_exe().context("cannot find ourselves")?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not there: `cargo xtask bench` builds it", path.display());
    }
    Ok(path)
}
