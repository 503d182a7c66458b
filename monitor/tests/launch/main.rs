//! A server under `launch` cannot tell that it does not stand alone, and never outlives its
//! monitor. Real processes, cgroups and terminals; needs root.
//!
//! Without the test harness: launching forks, and needs a process with one thread. The file runs
//! itself with `launch` as first argument for each case.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that fails")]

mod cases;
mod launcher;
mod support;

use std::{panic::catch_unwind, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "launch") {
        return launcher::main(&arguments.collect::<Vec<_>>());
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: launching into a cgroup needs root");
        return ExitCode::SUCCESS;
    }
    hear_signals();
    let wanted = std::env::args().nth(1).filter(|name| !name.starts_with('-')).unwrap_or_default();
    let mut failed = 0;
    for (name, case) in cases::ALL.iter().filter(|(name, _)| name.contains(&wanted)) {
        let passed = catch_unwind(case).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u32::from(!passed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Signals that were ignored when the tests were started, as a shell does for what it runs in the
/// background, would stay so in every server, and a shell cannot trap those.
fn hear_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
