//! Development tasks: `cargo xtask setup | build | package | demo | test | vm-test | vm-run | bench |
//! check | fuzz`.
//!
//! Each command does by itself what it needs of the ones before it, so that `cargo xtask test` on
//! a fresh clone sets up, builds and tests. Nothing here depends on the agent's crates: the tasks
//! must work while those do not compile.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod check;
mod command;
mod demo;
mod ebpf;
mod fuzz;
mod machine;
mod package;
mod real_server;
mod results;
mod setup;
mod test;
mod workspace;

/// Development tasks of mcp-monitor.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing: the BPF compiler, QEMU, the kernels of the test matrix
    Setup,
    /// Build the kernel programs and the static target/release/mcp-monitor around them
    Build,
    /// Make the Debian package: program, service, rules, manual pages, completions
    Package,
    /// Show a real server at work under watch, and one that turns bad being caught
    Demo,
    /// Run all tests: unit, end to end here, end to end on every kernel of the matrix
    Test(test::Parts),
    /// Run the end-to-end tests on the kernels of the matrix
    VmTest(test::Selection),
    /// Measure what the monitor costs, here and on a kernel with BPF LSM
    Bench(bench::Selection),
    /// Run the fuzz targets, each for a minute or so
    Fuzz(fuzz::Options),
    /// Check formatting, lints and documentation, with warnings denied
    Check,
    /// Run a command on a kernel of the matrix: `vm-run --kernel 6.1 -- sh -c "uname -a"`
    VmRun(test::OnMachine),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup => setup::everything(),
        Task::Build => build::agent().map(drop),
        Task::Package => package::deb().map(drop),
        Task::Demo => demo::show(),
        Task::Test(parts) => test::parts(parts),
        Task::VmTest(selection) => test::on_machines(&selection),
        Task::Bench(selection) => bench::everywhere(&selection),
        Task::Fuzz(options) => fuzz::targets(&options),
        Task::Check => check::everything(),
        Task::VmRun(what) => test::one_command(what),
    }
}
