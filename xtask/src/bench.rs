//! `cargo xtask bench`: what the monitor costs, on this machine (tracepoint backend) and on the
//! newest kernel of the matrix (lsm backend). The measurements are `bench` of the tests' crate.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::command::{as_root, run, say};
use crate::machine::{Boot, Kernel, Processors, boot, build_image};
use crate::{build, setup};

/// Opens of the unthrottled flood on a test machine, which is emulated: less than here.
const FLOOD: &str = "300000";
/// Opens a second of the throttled flood there.
const RATE: &str = "5000";
/// Instances that run one after another there.
const BRIEF: &str = "500";
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Where, and what.
#[derive(Args)]
pub struct Selection {
    /// Only on this machine
    #[arg(long, conflicts_with = "vm")]
    host: bool,
    /// Only on the test machine
    #[arg(long)]
    vm: bool,
    /// On the test machine, in instructions instead of nanoseconds: the same at every run
    #[arg(long, requires = "vm")]
    instructions: bool,
    /// Repetitions of everything that is compared
    #[arg(long, default_value = "9")]
    rounds: String,
    /// Only these measurements: calls, programs, automaton, flood, start, agent
    only: Vec<String>,
}

/// Runs the measurements.
pub fn everywhere(selection: &Selection) -> Result<()> {
    if !selection.host {
        setup::machines()?;
    }
    let (agent, [bench, workload, init]) = build::agent_and(["bench", "workload", "init"])?;
    let empty = bench.with_file_name("empty.bpf.o");
    build::place(&setup::bpf_compiler()?.build_empty()?, &empty)?;
    if !selection.vm {
        say("measuring on this machine: leave it alone for some minutes");
        let mut bench = as_root(&bench);
        bench.args(["--backend", "tracepoint", "--rounds", &selection.rounds]);
        run(bench.args(&selection.only).env("MCP_MONITOR", &agent))?;
    }
    if !selection.host {
        on_machine(selection, &[agent, bench, workload, init, empty])?;
    }
    Ok(())
}

fn on_machine(selection: &Selection, programs: &[PathBuf]) -> Result<()> {
    let image = build_image(programs, None)?;
    let words = ["bench", "--backend", "lsm", "--rounds", &selection.rounds];
    let words = words
        .into_iter()
        .chain(["--flood", FLOOD, "--rate", RATE, "--brief", BRIEF])
        .map(str::to_owned);
    let plan = Boot {
        name: "bench".to_owned(),
        kernel: Kernel::V6_12,
        preempt_full: false,
        processors: match selection.instructions {
            true => Processors::Counted,
            false => Processors::AtOnce,
        },
        command: words.chain(selection.only.iter().cloned()).collect(),
        patience: PATIENCE,
    };
    match boot(&plan, &image, |line| println!("{line}"))? {
        0 => Ok(()),
        code => anyhow::bail!("the measurements on the test machine ended with code {code}"),
    }
}
