//! `[limits]`, `response.detectors` and `files.runtime`.

use std::sync::Arc;

use monitor_common::policy::{access, class, decide, detector, verdict};

use super::*;
use crate::detect::{Limits, parameter};

fn limits(fixture: &Fixture) -> Arc<Limits> {
    fixture.compile().limits
}

#[test]
fn what_is_not_stated_is_the_default_at_alert() {
    let limits = limits(&Fixture::new().server(""));
    assert_eq!(limits.values, Limits::default().values);
    assert_eq!(limits.verdicts, [verdict::ALERT; detector::COUNT]);
    assert!(!limits.kernel_counts_reads());
}

#[test]
fn a_server_states_its_own_and_else_the_largest_of_its_includes_holds() {
    let include = |max: u32, files: u32| {
        format!(
            "schema = 1\n[limits]\nexec_burst = {{ max = {max} }}\nmass_read = {{ files = {files} }}"
        )
    };
    let fixture = Fixture::new()
        .server("include = [\"a\", \"b\"]\n[limits]\nmass_read = { files = 30, window = \"1m\" }")
        .file("includes/a.toml", &include(300, 900))
        .file("includes/b.toml", &include(200, 1000));
    let limits = limits(&fixture);
    assert_eq!(limits.values[parameter::EXEC_BURST_MAX], 300);
    assert_eq!(limits.values[parameter::MASS_READ_FILES], 30);
    assert_eq!(limits.values[parameter::MASS_READ_WINDOW], 60_000);
    let rule = limits.rule("exec_burst");
    assert!(rule.file.ends_with("includes/a.toml") && rule.line == 3, "{rule:?}");
    assert_eq!(rule.text, "{ max = 300, window = \"10s\" }");
    let rule = limits.rule("mass_read");
    assert!(rule.file.ends_with("servers/s.toml") && rule.line == 5, "{rule:?}");
    assert_eq!(limits.rule("mass_write").line, 0);
}

#[test]
fn a_drop_in_says_it_later_and_includes_do_not_outdo_it() {
    let include = "schema = 1\n[limits]\nmass_read = { files = 900 }";
    let server = "include = [\"a\"]\n[limits]\nmass_read = { files = 30 }\n\
                  [response]\ndetectors = { mass_read = \"kill\", mass_write = \"kill\" }";
    let drop_in = "schema = 1\n[limits]\nmass_read = { files = 60 }\n\
                   [response]\ndetectors = { mass_read = \"deny\" }";
    let fixture = Fixture::new()
        .server(server)
        .file("servers/s.d/own.toml", drop_in)
        .file("includes/a.toml", include);
    let limits = limits(&fixture);
    assert_eq!(limits.values[parameter::MASS_READ_FILES], 60);
    let verdicts = [detector::MASS_READ, detector::MASS_WRITE].map(|it| limits.verdicts[it]);
    assert_eq!(verdicts, [verdict::DENY, verdict::KILL]);
}

#[test]
fn the_kernel_counts_reads_where_they_are_refused() {
    let rules = |mode: &str, verdict: &str| {
        let text =
            format!("[response]\nmode = \"{mode}\"\ndetectors = {{ mass_read = \"{verdict}\" }}");
        limits(&Fixture::new().server(&text)).kernel_counts_reads()
    };
    assert!(rules("enforce", "deny") && rules("enforce", "kill-tree"));
    assert!(!rules("enforce", "alert") && !rules("observe", "kill-tree"));
}

#[test]
fn reading_environments_has_the_verdict_of_its_detector_and_other_reaches_that_of_the_set() {
    let set = "schema = 1\nset = \"processes\"\naccess = [\"read\", \"write\"]\npaths = []\n";
    let rules = "[response]\nunlisted = { read = \"allow\", write = \"allow\" }\n\
                 sets = { processes = \"alert\" }\n";
    let verdicts = |rules: &str| {
        let policy = Fixture::new().server(rules).file("sets/processes.toml", set).compile().policy;
        [access::READ, access::WRITE]
            .map(|asked| decide(&policy, class::of_set(set::PROCESSES), asked).verdict)
    };
    assert_eq!(verdicts(rules), [verdict::ALERT, verdict::ALERT]);
    let stated = format!("{rules}detectors = {{ env_secret = \"kill-tree\" }}");
    assert_eq!(verdicts(&stated), [verdict::KILL_TREE, verdict::ALERT]);
}

#[test]
fn runtime_trees_may_be_read_and_are_told_apart() {
    let compiled = Fixture::new()
        .server("[files]\nruntime = [\"/opt/app/**\"]\nread = [\"/srv/**\"]")
        .compile();
    assert_eq!(compiled.classify_path(b"/opt/app/x"), class::READ | class::RUNTIME);
    assert_eq!(compiled.classify_path(b"/srv/x"), class::READ);
    let policy = &compiled.policy;
    let verdict_of =
        |path: &[u8], asked| decide(policy, compiled.classify_path(path), asked).verdict;
    assert_eq!(verdict_of(b"/opt/app/x", access::READ), verdict::ALLOW);
    assert_eq!(verdict_of(b"/opt/app/x", access::WRITE), verdict::ALERT);
}

#[test]
fn what_a_detector_cannot_do_is_a_warning() {
    let warnings = |text: &str| {
        let loaded = Fixture::new().server(text).load().unwrap();
        loaded.warnings.iter().map(short).collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("[response]\ndetectors = { exec_burst = \"deny\" }"),
        ["4:28: what exec_burst finds has happened already and is not denied, only reported \
          [write \"kill\" or \"kill-tree\" to end who goes on, or \"alert\"]"]
    );
    assert_eq!(warnings("[response]\ndetectors = { mass_read = \"deny\" }"), [""; 0]);
    let partial = "[record]\nevents = [\"open\"]\n[response]\n";
    let write = format!("{partial}detectors = {{ mass_write = \"kill\" }}");
    assert!(warnings(&write)[0].contains("mass_write counts recorded events"));
    let read = format!("{partial}detectors = {{ mass_read = \"kill\" }}");
    assert_eq!(warnings(&read), [""; 0]);
}
