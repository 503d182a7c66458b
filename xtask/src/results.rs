//! What the tests said: reads libtest's lines, from whatever runner printed them, and adds up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Skipped(String),
}

/// The results of several runs, each under a name of its own.
pub struct Results {
    started: Instant,
    ends: Vec<(String, String, End)>,
}

impl Results {
    /// No results yet.
    pub fn new() -> Self {
        Self { started: Instant::now(), ends: Vec::new() }
    }

    /// Takes a line of a run's output, which may say how a test ended.
    pub fn line(&mut self, run: &str, line: &str) {
        if let Some((test, end)) = parse(line) {
            self.ends.push((run.to_owned(), test.to_owned(), end));
        }
    }

    /// Takes how something ended that is no test of a runner.
    pub fn end(&mut self, run: &str, name: &str, passed: bool) {
        let end = if passed { End::Passed } else { End::Failed };
        self.ends.push((run.to_owned(), name.to_owned(), end));
    }

    /// Counts a failure that no test line tells: a run that broke off.
    pub fn broke_off(&mut self, run: &str, reason: &str) {
        self.end(run, reason, false);
    }

    /// Whether a run has had a failure.
    pub fn has_failed(&self, run: &str) -> bool {
        self.ends.iter().any(|(of, _, end)| of == run && *end == End::Failed)
    }

    /// Counts as failed what was skipped wherever it could have run: such a test tests nothing.
    /// Takes the runs, each with its backend, that hold all end-to-end tests of that backend.
    pub fn refuse_untested(&mut self, runs: &[(String, String)]) {
        let mut ran = BTreeMap::<(&str, &str), bool>::new();
        for (run, test, end) in &self.ends {
            if let Some((_, backend)) = runs.iter().find(|(name, _)| name == run) {
                *ran.entry((backend, test)).or_default() |= !matches!(end, End::Skipped(_));
            }
        }
        let untested = ran.iter().filter(|(_, ran)| !**ran);
        let untested = untested.map(|((backend, test), _)| {
            let reason = format!("{test} is skipped on every kernel");
            ((*backend).to_owned(), reason, End::Failed)
        });
        let untested: Vec<_> = untested.collect();
        self.ends.extend(untested);
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.count(|end| *end == End::Failed)
    }

    fn count(&self, wanted: impl Fn(&End) -> bool) -> usize {
        self.ends.iter().filter(|(_, _, end)| wanted(end)).count()
    }
}

/// The skips with their reasons, the failures, and the closing lines.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (run, test, end) in &self.ends {
            match end {
                End::Passed => {}
                End::Skipped(reason) => writeln!(f, "skipped [{run}] {test}: {reason}")?,
                End::Failed => writeln!(f, "failed [{run}] {test}")?,
            }
        }
        let passed = self.count(|end| *end == End::Passed);
        let failed = self.failed();
        let skipped = self.count(|end| matches!(end, End::Skipped(_)));
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        writeln!(
            f,
            "\ntest result: {verdict}. {passed} passed; {failed} failed; {skipped} ignored; \
             0 measured; 0 filtered out; finished in {:.2}s\n",
            self.started.elapsed().as_secs_f64()
        )?;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Reads `test NAME ... ok`, `FAILED`, `ignored, REASON` (libtest) or `ignored (REASON)`
/// (libtest-mimic).
fn parse(line: &str) -> Option<(&str, End)> {
    let (test, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let end = match end {
        "ok" => End::Passed,
        "FAILED" => End::Failed,
        _ => {
            let reason = end.strip_prefix("ignored")?;
            let bare = reason.strip_prefix(" (").and_then(|reason| reason.strip_suffix(')'));
            End::Skipped(bare.unwrap_or(reason.trim_start_matches(", ")).to_owned())
        }
    };
    Some((test.trim_end(), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(lines: &[(&str, &str)]) -> Results {
        let mut results = Results::new();
        lines.iter().for_each(|(run, line)| results.line(run, line));
        results
    }

    #[test]
    fn lines_of_libtest_and_of_our_runner_are_counted() {
        let results = results(&[
            ("unit", "running 3 tests"),
            ("unit", "test policy::deny_wins ... ok"),
            ("unit", "test src/lib.rs - (line 3) ... ok"),
            ("vm", "test secrets::key_is_denied      ... FAILED"),
            ("vm", "test uring::open ... ignored, no io_uring here, sorry"),
            ("vm", "test result: FAILED. 1 passed; 1 failed; 1 ignored"),
        ]);
        let text = results.to_string();
        assert!(text.ends_with("\n2 passed, 1 failed, 1 skipped"), "{text}");
        assert!(text.contains("skipped [vm] uring::open: no io_uring here, sorry\n"), "{text}");
        assert!(text.contains("test result: FAILED. 2 passed; 1 failed; 1 ignored;"), "{text}");
        assert!(results.has_failed("vm") && !results.has_failed("unit"));
    }

    #[test]
    fn a_test_skipped_on_every_kernel_of_a_backend_fails() {
        let runs = [("host", "tracepoint"), ("old", "lsm"), ("new", "lsm")];
        let runs: Vec<_> = runs.map(|(run, backend)| (run.into(), backend.into())).into();
        let mut results = results(&[
            ("host", "test everywhere ... ok"),
            ("old", "test everywhere ... ignored (too old)"),
            ("new", "test everywhere ... ignored, too new"),
            ("old", "test somewhere ... ignored, too old"),
            ("new", "test somewhere ... ok"),
        ]);
        results.refuse_untested(&runs);
        let text = results.to_string();
        assert!(text.contains("failed [lsm] everywhere is skipped on every kernel"), "{text}");
        assert!(text.ends_with("2 passed, 1 failed, 3 skipped"), "{text}");
    }
}
