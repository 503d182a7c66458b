//! The tests, as data: what a behaviour file declares and what the runner makes of it.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use libtest_mimic::{Completion, Failed, Trial};

use crate::lab::Lab;
use crate::leftovers::Baseline;

/// How the kernel programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// LSM hooks: refuses.
    Lsm,
    /// Tracepoints: detects and kills.
    Tracepoint,
}

impl FromStr for Backend {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "lsm" => Ok(Self::Lsm),
            "tracepoint" => Ok(Self::Tracepoint),
            _ => Err(anyhow!("`{name}` is no backend: lsm or tracepoint")),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lsm => "lsm",
            Self::Tracepoint => "tracepoint",
        })
    }
}

/// One end-to-end test, declared with [`tests!`](crate::tests).
#[derive(Clone, Copy)]
pub struct Test {
    /// Module and function.
    pub name: &'static str,
    /// The backends on which it has something to say.
    pub backends: &'static [Backend],
    /// The test itself.
    pub body: fn(&Lab) -> Result<()>,
}

/// Declares the tests of a behaviour file as its `TESTS`, by the backends they are for.
#[macro_export]
macro_rules! tests {
    ($($backends:ident: [$($test:ident),* $(,)?]),* $(,)?) => {
        /// The tests of this file.
        pub const TESTS: &[$crate::Test] = &[
            $($($crate::Test {
                name: concat!(module_path!(), "::", stringify!($test)),
                backends: $crate::tests!(@ $backends),
                body: $test,
            },)*)*
        ];
    };
    (@ both) => { &[$crate::Backend::Lsm, $crate::Backend::Tracepoint] };
    (@ lsm) => { &[$crate::Backend::Lsm] };
    (@ tracepoint) => { &[$crate::Backend::Tracepoint] };
}

/// The error that makes a test count as skipped, see [`crate::skip`].
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// The tests that apply to a backend, for the runner.
pub fn trials(tests: impl Iterator<Item = Test>, backend: Backend) -> Vec<Trial> {
    tests
        .filter(|test| test.backends.contains(&backend))
        .map(|test| {
            let name = test.name.trim_start_matches("end_to_end::behaviour::");
            Trial::ignorable_test(name, move || perform(test, backend))
        })
        .collect()
}

fn perform(test: Test, backend: Backend) -> Result<Completion, Failed> {
    let before = Baseline::take();
    let result = Lab::new(backend).context("cannot make the fixture").and_then(|lab| {
        let caught = catch(|| (test.body)(&lab).and_then(|()| lab.replay_all()));
        let ended = lab.end();
        caught.and(ended)
    });
    let left = before.and_then(|before| before.compare());
    match (result, left) {
        (Ok(()), Ok(())) => Ok(Completion::Completed),
        (Ok(()), Err(left)) => Err(format!("{left:#}").into()),
        (Err(error), left) => match (error.downcast_ref::<Skip>(), left) {
            (Some(skip), Ok(())) => Ok(Completion::ignored_with(&skip.0)),
            (_, Ok(())) => Err(report(&error).into()),
            (_, Err(left)) => Err(format!("{}\nand then: {left:#}", report(&error)).into()),
        },
    }
}

/// An error with its causes and, under RUST_BACKTRACE, the lines of the test that led to it.
fn report(error: &anyhow::Error) -> String {
    let backtrace = error.backtrace().to_string();
    let lines = backtrace.lines().filter(|line| line.contains("/behaviour/"));
    lines.fold(format!("{error:#}"), |report, line| report + "\n" + line.trim())
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a test; a panic becomes an error with its place, and does not tear the line of results.
fn catch(body: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = panic::take_hook();
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANIC.set(Some(format!("{}\nat {place}", message(info.payload()))));
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    panic::set_hook(before);
    result.unwrap_or_else(|payload| {
        Err(anyhow!(PANIC.take().unwrap_or_else(|| message(payload.as_ref()).to_owned())))
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panicked")
}
