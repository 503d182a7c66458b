//! `actor batch`: many cases in one run, each in a process of its own.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{BufRead, BufReader, Write as _},
    os::fd::AsRawFd as _,
    process::ExitCode,
};

use crate::{
    steps,
    sys::{self, Failure, sys},
};

/// A case that takes longer is killed by SIGALRM and shows as `killed signal=14`.
const CASE_LIMIT_S: u32 = 60;

/// Runs the cases that a file, or else stdin, names.
pub fn run(file: Option<&OsStr>) -> ExitCode {
    let Some(file) = file else {
        return run_all(std::io::stdin().lock());
    };
    match File::open(file) {
        Ok(file) => run_all(BufReader::new(file)),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "actor: {}: {error}", file.display());
            ExitCode::from(4)
        }
    }
}

fn run_all(cases: impl BufRead) -> ExitCode {
    for line in cases.lines() {
        let outcome = line
            .map_err(|error| Failure::call("read", error.raw_os_error().unwrap_or(0)))
            .and_then(|line| run_case(&line));
        if let Err(failure) = outcome {
            let _ = writeln!(std::io::stderr(), "actor: batch: {failure:?}");
            return ExitCode::from(4);
        }
    }
    ExitCode::SUCCESS
}

fn run_case(line: &str) -> Result<(), Failure> {
    let Some((name, steps)) = line.trim().split_once(' ') else {
        return Ok(());
    };
    let words = words(steps);
    let (output, input) = sys::pipe()?;
    let pid = sys::fork()?;
    if pid == 0 {
        sys!(SYS_dup2, input.as_raw_fd(), 1)?;
        sys!(SYS_alarm, CASE_LIMIT_S)?;
        drop((output, input));
        let code = steps::run_line(&words);
        std::process::exit(i32::from(code == ExitCode::SUCCESS) ^ 1);
    }
    drop(input);
    let mut said = String::new();
    let read = std::io::Read::read_to_string(&mut File::from(output), &mut said);
    read.map_err(|error| Failure::call("read", error.raw_os_error().unwrap_or(0)))?;
    let status = sys::wait(pid)?;
    let verdict = if said.is_empty() && libc::WIFSIGNALED(status) {
        format!("killed signal={}", libc::WTERMSIG(status))
    } else if said.is_empty() {
        format!("silent status={status}")
    } else {
        said.trim_end().replace('\n', " | ")
    };
    writeln!(std::io::stdout(), "{name} {verdict}")
        .map_err(|error| Failure::call("write", error.raw_os_error().unwrap_or(0)))
}

/// Words between spaces; single quotes hold one together.
fn words(steps: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    for (index, part) in steps.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.into());
        } else {
            words.extend(part.split_whitespace().map(OsString::from));
        }
    }
    words
}
