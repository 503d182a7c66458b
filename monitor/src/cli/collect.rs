//! `mcp-monitor collect`: evidence in one file.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{findings, finish};
use crate::{
    collect::{self, Collected},
    event::Shown,
    launch::Account,
    segment,
};

/// Collects evidence into one file that verify, replay and report read as it is
///
/// Recordings with their rules, digests of programs and touched files, what is known of processes
/// that still run, and the report. Run it on the machine where it happened, as root to see all.
#[derive(Args)]
pub struct Arguments {
    /// Recordings: files, or directories of them [default: $XDG_STATE_HOME/mcp-monitor]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only what recordings tell of this instance [default: everything in PATH]
    #[arg(long, value_name = "NUMBER")]
    instance: Option<u32>,
    /// The bundle, *.tar.zst; it must not be there yet
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Copy programs and changed files, too, up to this many megabytes, but no secrets nor what
    /// may be a copy of one
    #[arg(long, value_name = "MB", default_value_t = 0)]
    copies: u64,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    finish(run(arguments).map(|intact| findings(!intact)))
}

/// Whether the recordings are as they were written.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let Arguments { paths, instance, output, copies } = arguments;
    let name = output.as_os_str().as_encoded_bytes();
    if !name.ends_with(segment::BUNDLE_SUFFIX.as_bytes()) {
        bail!("{}: the name of a bundle ends with {}", output.display(), segment::BUNDLE_SUFFIX);
    }
    if paths.is_empty() && instance.is_none() {
        bail!("name an instance with --instance, or the recordings to collect");
    }
    if output.exists() {
        bail!("{} is there already: name another file", output.display());
    }
    let paths = if paths.is_empty() { vec![default_directory()?] } else { paths.clone() };
    let recordings = segment::recordings(&paths)?;
    let bytes = copies.saturating_mul(1 << 20);
    let collected = collect::collect(&recordings, *instance, output, bytes)?;
    let Collected { report, segments, digests, copies, alive } = collected;
    writeln!(
        io::stdout(),
        "{}: {segments} segments, {} events, {digests} digests, {copies} copies, {alive} processes \
         that still run",
        Shown(name),
        report.events,
    )
    .context("cannot write to standard output")?;
    for fault in report.verification.recordings.iter().filter_map(|found| found.fault.as_ref()) {
        let _ = writeln!(io::stderr(), "mcp-monitor: {fault}");
    }
    Ok(report.verification.intact)
}

fn default_directory() -> anyhow::Result<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = match state.filter(|path| path.is_absolute()) {
        Some(state) => state,
        None => Account::of_caller()?.home.join(".local/state"),
    };
    Ok(state.join("mcp-monitor"))
}
