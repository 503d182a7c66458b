//! A program that misbehaves on request: one step for each technique by which a process may try
//! to get round the monitor. Tests run it untagged, where each technique has to work, and tagged
//! under rules, where it has to be seen or refused.
//!
//! `actor STEP ARGUMENTS… [, STEP ARGUMENTS…]…` does the steps one after the other in one process
//! and prints one line about the last one, or about the first that failed:
//!
//! ```text
//! ok bytes=12
//! denied errno=1 call=openat          EPERM or EACCES
//! failed errno=2 call=openat          any other error
//! ```
//!
//! Steps that wrap others (`double-fork`, `thread`, …) take the rest of the line. `actor batch
//! [FILE]` reads cases from a file or stdin, one a line (`NAME STEP ARGUMENTS…`), runs each in a process of its own
//! and prints `NAME` before each result, or `NAME killed signal=9`. `actor list` names all steps.

mod batch;
mod changes;
mod contents;
mod dns;
mod exec;
mod files;
mod floods;
mod inet;
mod lineage;
mod masses;
mod mounts;
mod paths;
mod processes;
mod steps;
mod sys;
mod unix;
mod uring;

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("batch") => batch::run(words.get(1).map(OsString::as_os_str)),
        Some("list") => steps::list(),
        _ => steps::run_line(&words),
    }
}
