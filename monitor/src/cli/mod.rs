//! The command line: arguments in, exit code out. Each verb is a module of its own.

mod agent;
mod ask;
mod check;
mod collect;
mod explain;
mod grant;
mod learn;
mod replay;
mod report;
mod rule_options;
mod run;
mod verify;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

/// Exit codes of every verb except `run`, which returns the server's own.
pub mod exit {
    /// check, verify, replay: there are findings.
    pub const FINDINGS: u8 = 1;
    /// Wrong arguments.
    pub const USAGE: u8 = 2;
    /// This machine cannot do it; the message says what is missing.
    pub const CANNOT_RUN: u8 = 3;
    /// Input, output or data is wrong.
    pub const DATA: u8 = 4;
}

#[derive(Parser)]
#[command(name = "mcp-monitor", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Agent(agent::Arguments),
    Alerts(ask::AlertsArguments),
    Check(check::Arguments),
    Collect(collect::Arguments),
    Explain(explain::Arguments),
    Grant(grant::Arguments),
    Isolate(ask::IsolateArguments),
    Learn(learn::Arguments),
    Quarantine(ask::QuarantineArguments),
    Reload(ask::ReloadArguments),
    Replay(replay::Arguments),
    Report(report::Arguments),
    Run(run::Arguments),
    Status(ask::StatusArguments),
    Stop(ask::StopArguments),
    Verify(verify::Arguments),
}

/// Exit code of a verb; what failed is told, and is [`exit::DATA`].
fn finish(outcome: anyhow::Result<u8>) -> ExitCode {
    ExitCode::from(outcome.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "mcp-monitor: {}", describe(&error));
        ask::code_of(&error)
    }))
}

/// Whether there are findings, as an exit code.
fn findings(found: bool) -> u8 {
    if found { exit::FINDINGS } else { 0 }
}

/// An error with its causes, each said once: many messages hold their cause already.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// All verbs and options, as manual pages and completions are made of.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Parses the arguments and runs the verb.
pub fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Agent(arguments) => agent::main(&arguments),
        Verb::Alerts(arguments) => ask::alerts(&arguments),
        Verb::Check(arguments) => check::main(&arguments),
        Verb::Collect(arguments) => collect::main(&arguments),
        Verb::Explain(arguments) => explain::main(&arguments),
        Verb::Grant(arguments) => grant::main(arguments),
        Verb::Isolate(arguments) => ask::isolate(&arguments),
        Verb::Learn(arguments) => learn::main(&arguments),
        Verb::Quarantine(arguments) => ask::quarantine(&arguments),
        Verb::Reload(arguments) => ask::reload(&arguments),
        Verb::Replay(arguments) => replay::main(&arguments),
        Verb::Report(arguments) => report::main(&arguments),
        Verb::Run(arguments) => run::main(&arguments),
        Verb::Status(arguments) => ask::status(&arguments),
        Verb::Stop(arguments) => ask::stop(&arguments),
        Verb::Verify(arguments) => verify::main(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ffi::OsString};

    use nix::errno::Errno;

    use super::*;
    use crate::launch::LaunchError;

    #[test]
    fn every_exit_code_is_in_the_readme_and_no_other() {
        let not_run = |errno| LaunchError::Exec { command: OsString::new(), errno }.exit_code();
        let ours = BTreeSet::from([
            0,
            exit::FINDINGS,
            exit::USAGE,
            exit::CANNOT_RUN,
            exit::DATA,
            run::FAILED,
            not_run(Errno::EACCES),
            not_run(Errno::ENOENT),
        ]);
        let table = include_str!("../../../README.md").split_once("| exit code |").unwrap().1;
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| "));
        let codes = rows.filter_map(|row| row.split(" |").next());
        let codes: BTreeSet<u8> =
            codes.flat_map(|codes| codes.split(", ")).map(|code| code.parse().unwrap()).collect();
        assert_eq!(codes, ours);
        let usage = command().try_get_matches_from(["mcp-monitor", "--no-such"]).unwrap_err();
        assert_eq!(usage.exit_code(), i32::from(exit::USAGE));
    }
}
