//! `mcp-monitor report`: recordings as something that people can read.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{findings, finish};
use crate::{
    report::{self, Report},
    segment,
};

/// Tells from recordings what servers did: what was wrong, what could have left, what to do now
///
/// HTML is one file that needs nothing else. Exits with 1 when the recordings are not as they were
/// written; the report is written all the same.
#[derive(Args)]
pub struct Arguments {
    /// Recordings: files, or directories of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write here [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to write [default: as the output file's name ends, or else html]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Html,
    Md,
    Json,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "md" => Some(Self::Md),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    finish(run(arguments).map(|intact| findings(!intact)))
}

/// Whether the recordings are as they were written.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let report = report::read(&segment::recordings(&arguments.paths)?)?;
    let by_name = arguments.output.as_deref().and_then(Format::of);
    let format = arguments.format.or(by_name).unwrap_or(Format::Html);
    match &arguments.output {
        Some(path) => write(&report, format, create(path)?)
            .with_context(|| format!("cannot write {}", path.display()))?,
        None => write(&report, format, io::stdout().lock()).context("cannot write the report")?,
    }
    for recording in &report.verification.recordings {
        if let Some(fault) = &recording.fault {
            let _ = writeln!(io::stderr(), "mcp-monitor: {fault}");
        }
    }
    Ok(report.verification.intact)
}

/// For its owner alone: it tells where secrets lie.
fn create(path: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot create {}", path.display()))
}

fn write(report: &Report, format: Format, out: impl Write) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    match format {
        Format::Html => report::html(report, &mut out)?,
        Format::Md => report::markdown(report, &mut out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        }
    }
    out.flush()
}
