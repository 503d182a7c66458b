//! The steps' table and how a command line of them is run.

use std::{
    ffi::{CString, OsStr, OsString},
    io::Write as _,
    process::ExitCode,
};

use crate::{
    changes, contents, dns, exec, files, floods, inet, lineage, masses, mounts, paths, processes,
    sys::{Failure, c_path},
    unix, uring,
};

/// What a step has to say.
pub enum Report {
    /// The facts of success, as `key=value` words.
    Facts(String),
    /// Another process printed the line; this was its exit code.
    Printed(u8),
}

/// A step's result.
pub type Done = Result<Report, Failure>;

/// Success, with facts.
pub fn done(facts: impl Into<String>) -> Done {
    Ok(Report::Facts(facts.into()))
}

/// One technique.
pub struct Step {
    /// Name on the command line.
    pub name: &'static str,
    /// Names of its arguments; a last one that ends in `...` takes any number.
    pub arguments: &'static str,
    /// It takes all later steps and runs them itself.
    pub wraps: bool,
    /// Does it.
    pub run: fn(Words<'_>) -> Done,
}

/// A step without others in it.
pub const fn step(name: &'static str, arguments: &'static str, run: fn(Words<'_>) -> Done) -> Step {
    Step { name, arguments, wraps: false, run }
}

/// A step that runs later ones in another task.
pub const fn wrapper(
    name: &'static str,
    arguments: &'static str,
    run: fn(Words<'_>) -> Done,
) -> Step {
    Step { name, arguments, wraps: true, run }
}

/// Arguments of one step; their number has been checked.
#[derive(Clone, Copy)]
pub struct Words<'a>(pub &'a [OsString]);

impl<'a> Words<'a> {
    /// Argument `index` as it is.
    pub fn word(self, index: usize) -> &'a OsStr {
        &self.0[index]
    }

    /// Argument `index` as a path.
    pub fn path(self, index: usize) -> CString {
        c_path(self.word(index))
    }

    /// Argument `index` as text.
    pub fn text(self, index: usize) -> Result<&'a str, Failure> {
        self.word(index)
            .to_str()
            .ok_or_else(|| Failure::Usage(format!("argument {} is not UTF-8", index + 1)))
    }

    /// Argument `index` as a number.
    pub fn number<T: std::str::FromStr>(self, index: usize) -> Result<T, Failure> {
        let text = self.text(index)?;
        text.parse().map_err(|_| Failure::Usage(format!("{text} is not a number of this kind")))
    }

    /// Arguments from `index` on.
    pub fn rest(self, index: usize) -> &'a [OsString] {
        &self.0[index..]
    }
}

const GROUPS: &[&[Step]] = &[
    files::STEPS,
    contents::STEPS,
    paths::STEPS,
    changes::STEPS,
    mounts::STEPS,
    exec::STEPS,
    lineage::STEPS,
    uring::STEPS,
    inet::STEPS,
    dns::STEPS,
    unix::STEPS,
    processes::STEPS,
    floods::STEPS,
    masses::STEPS,
];

/// Runs the steps of a command line and prints the result.
pub fn run_line(words: &[OsString]) -> ExitCode {
    let (line, code) = match run_all(words) {
        Ok(Report::Printed(code)) => return ExitCode::from(code),
        Ok(Report::Facts(facts)) => (format!("ok {facts}"), 0),
        Err(Failure::Usage(message)) => {
            let _ = writeln!(std::io::stderr(), "actor: {message}");
            return ExitCode::from(2);
        }
        Err(Failure::Call { call, errno, facts }) => {
            let refused = matches!(errno, 0 | libc::EPERM | libc::EACCES);
            let (word, code) = if refused { ("denied", 1) } else { ("failed", 3) };
            (format!("{word} errno={errno} call={call} {facts}"), code)
        }
    };
    let printed = writeln!(std::io::stdout(), "{}", line.trim_end());
    if printed.is_err() { ExitCode::from(4) } else { ExitCode::from(code) }
}

fn run_all(mut words: &[OsString]) -> Done {
    let mut report = None;
    while let Some((name, rest)) = words.split_first() {
        let step = find(name)?;
        let own = if step.wraps {
            rest.len()
        } else {
            rest.iter().position(|word| word == ",").unwrap_or(rest.len())
        };
        check_count(step, own)?;
        report = Some((step.run)(Words(&rest[..own]))?);
        words = rest.get(own + 1..).unwrap_or(&[]);
    }
    report.ok_or_else(|| Failure::Usage("no step given; `actor list` names them".into()))
}

fn find(name: &OsStr) -> Result<&'static Step, Failure> {
    GROUPS.iter().flat_map(|group| group.iter()).find(|step| name == step.name).ok_or_else(|| {
        Failure::Usage(format!("no step {}; `actor list` names them", name.display()))
    })
}

fn check_count(step: &Step, given: usize) -> Result<(), Failure> {
    let wanted = step.arguments.split_whitespace().filter(|name| !name.ends_with("...")).count();
    let open_end = step.arguments.ends_with("...");
    if given == wanted || (open_end && given > wanted) {
        return Ok(());
    }
    Err(Failure::Usage(format!("{} takes: {}", step.name, step.arguments)))
}

/// Prints every step with its arguments.
pub fn list() -> ExitCode {
    let mut out = std::io::stdout().lock();
    for step in GROUPS.iter().flat_map(|group| group.iter()) {
        if writeln!(out, "{} {}", step.name, step.arguments).is_err() {
            return ExitCode::from(4);
        }
    }
    ExitCode::SUCCESS
}
