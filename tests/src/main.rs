//! The end-to-end tests as one executable, see the library.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use end_to_end::{Backend, behaviour, trials};

/// End-to-end tests of mcp-monitor. They need root.
#[derive(Parser)]
#[command(disable_help_flag = true)]
struct EndToEnd {
    /// Backend under test
    #[arg(long)]
    backend: Backend,
    #[command(flatten)]
    libtest: libtest_mimic::Arguments,
}

fn main() -> Result<ExitCode> {
    let mut arguments = EndToEnd::parse();
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the end-to-end tests load kernel programs: run them as root");
    }
    // They look at what the whole machine holds before and after: one at a time, also when several
    // copies of the repository are tested at once.
    arguments.libtest.test_threads = Some(1);
    hear_signals();
    let _alone = alone()?;
    let trials = trials(behaviour::all(), arguments.backend);
    Ok(libtest_mimic::run(&arguments.libtest, trials).exit_code())
}

/// Signals that were ignored when the tests were started, by `nohup` say, would stay so in every
/// server, and a shell cannot trap those.
fn hear_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1] {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn alone() -> Result<File> {
    let path = "/tmp/mcp-monitor-end-to-end.lock";
    let file = File::create(path).with_context(|| format!("cannot create {path}"))?;
    // SAFETY: the descriptor is open for as long as `file` lives.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
        bail!("cannot lock {path}: {}", std::io::Error::last_os_error());
    }
    Ok(file)
}
