//! `[exec.arguments]`: a program that runs only with arguments that a rule names.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use monitor_common::limits::ARGV_MAX;
use proptest::prelude::{Strategy, any};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection::vec, sample::select};

use super::automaton::{compile, load};
use crate::{
    Backend, Lab, Mode,
    cases::{Batch, Cases},
};

crate::tests! {
    both: [
        program_runs_only_with_arguments_that_a_rule_names,
        vector_beyond_the_bound_is_named_by_no_rule,
        what_an_interpreter_or_loader_runs_has_no_arguments_of_its_own,
        kernel_and_userspace_agree_on_every_vector,
    ],
}

const RULES: &str = r#"
[exec]
allow = ["${HOME}/free", "${HOME}/both", "${HOME}/shell", "/lib64/ld-linux-x86-64.so.2"]
[exec.arguments]
"${HOME}/bound" = [["say", "alone"], ["say", "${HOME}/**"], ["say", "long", "..."]]
"${HOME}/both" = [["say", "alone"]]
"${HOME}/script" = [["..."]]
"${HOME}/shell" = [["-c", "echo ok"]]
[response]
unlisted = { read = "allow", write = "allow", exec = "deny", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

/// The programs that the rules speak of, copies of the actor.
fn furnish(lab: &Lab) -> Result<()> {
    lab.policy(RULES)?;
    for name in ["free", "bound", "both"] {
        fs::copy(lab.actor()?, lab.path(name))?;
    }
    Ok(())
}

/// That a program was killed before it could say anything, and why.
fn killed(batch: &Batch, lab: &Lab, case: &str, program: &str, last: &str) -> Result<()> {
    ensure!(batch.line(case) == "killed signal=9", "{case}\n{batch}");
    let path = lab.path(program);
    let found = batch.events.violations().find(|event| {
        let same = event.kind() == "exec" && event.names(&path.to_string_lossy());
        same && event.lists("argv", last)
    });
    let event = found.with_context(|| format!("no violation of {case}\n{batch}"))?;
    ensure!(event.text("category") == "exec" && batch.is_denied(event), "{event}");
    ensure!(event.text("rule.list") == "exec.arguments", "{event}");
    ensure!(event.number("rule.line").is_some_and(|line| line > 0), "{event}");
    ensure!(event.text("enforced") == "kernel", "{event}");
    Ok(())
}

fn program_runs_only_with_arguments_that_a_rule_names(lab: &Lab) -> Result<()> {
    furnish(lab)?;
    let home = lab.home();
    let home = home.display();
    let mut cases = Cases::new();
    for (name, steps) in [
        ("free", format!("exec {home}/free say anything")),
        ("alone", format!("exec {home}/bound say alone")),
        ("path", format!("exec {home}/bound say {home}/a/b")),
        ("descriptor", format!("execveat {home}/bound say alone")),
        ("both", format!("exec {home}/both say alone")),
        ("more", format!("exec {home}/bound say alone more")),
        ("other", format!("exec {home}/bound say other")),
        ("elsewhere", format!("exec {home}/bound say /elsewhere")),
        ("by-descriptor", format!("execveat {home}/bound say nameless")),
        ("of-thread", format!("thread exec {home}/bound say threaded")),
        ("narrowed", format!("exec {home}/both say narrowed")),
    ] {
        cases.add(name, steps);
    }
    // A kill before the first instruction is enough on both backends: the tree goes on.
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for name in ["free", "alone", "path", "descriptor", "both"] {
        batch.worked(name)?;
    }
    killed(&batch, lab, "more", "bound", "more")?;
    killed(&batch, lab, "other", "bound", "other")?;
    killed(&batch, lab, "elsewhere", "bound", "/elsewhere")?;
    killed(&batch, lab, "by-descriptor", "bound", "nameless")?;
    killed(&batch, lab, "of-thread", "bound", "threaded")?;
    killed(&batch, lab, "narrowed", "both", "narrowed")?;
    let violations = batch.events.violations().count();
    ensure!(violations == 6, "{violations} violations\n{batch}");
    Ok(())
}

fn vector_beyond_the_bound_is_named_by_no_rule(lab: &Lab) -> Result<()> {
    furnish(lab)?;
    let bound = lab.path("bound");
    let bound = bound.display();
    let mut cases = Cases::new();
    cases.add("short", format!("exec-long {bound} {} say long", ARGV_MAX - 2000));
    cases.add("long", format!("exec-long {bound} {} say long", ARGV_MAX + 2000));
    let batch = cases.run_in(lab, Mode::Enforce)?;
    batch.worked("short")?;
    killed(&batch, lab, "long", "bound", "long")
}

fn what_an_interpreter_or_loader_runs_has_no_arguments_of_its_own(lab: &Lab) -> Result<()> {
    furnish(lab)?;
    let (shell, script) = (lab.path("shell"), lab.path("script"));
    fs::copy("/bin/sh", &shell)?;
    fs::write(&script, format!("#!{} say\n", lab.path("free").display()))?;
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let (shell, loader) = (shell.display(), "/lib64/ld-linux-x86-64.so.2");
    let mut cases = Cases::new();
    cases.add("plain", format!("exec {shell} -c 'echo ok'"));
    cases.add("script", format!("exec {} hi", script.display()));
    cases.add("loaded", format!("exec {loader} {shell} -c 'echo ok'"));
    let batch = cases.run_in(lab, Mode::Enforce)?;
    batch.worked("plain")?;
    if lab.backend() == Backend::Tracepoint {
        // It sees neither, as docs/evasions.md says.
        return batch.events.assert_quiet();
    }
    ensure!(batch.line("script").starts_with("denied"), "{batch}");
    batch.denied("exec", "exec", &script)?;
    ensure!(!batch.line("loaded").starts_with("ok"), "{batch}");
    batch.denied("exec", "exec", lab.path("shell")).map(|_| ())
}

const ELEMENTS: [&str; 9] = ["a", "b", "/", "*", "**", "?", "[ab]", "{a,bb}", "\\*"];
const BYTES: [u8; 5] = [b'a', b'b', b'/', b'*', 0xff];

/// The function of the hooks, run for real, against userspace's.
fn kernel_and_userspace_agree_on_every_vector(lab: &Lab) -> Result<()> {
    let mut kernel = load(lab)?;
    let element = vec(select(&ELEMENTS[..]), 0..4).prop_map(|parts| parts.concat());
    let rules = vec((select(&["/p", "/p/**", "**/q"][..]), vec(element, 0..3), any::<bool>()), 1..5);
    let argument = vec(select(&BYTES[..]), 0..12);
    let asked = vec((select(&["/p", "/q", "/p/q", "/a"][..]), vec(argument, 0..4)), 1..40);
    let mut runner = TestRunner::new(Config::default());
    for id in 1..40 {
        let tree = (&rules, &asked).new_tree(&mut runner);
        let (rules, asked) = tree.map_err(|reason| anyhow::anyhow!("{reason}"))?.current();
        let text = sections(&rules);
        let compiled = compile(lab, &text)?;
        let slot = kernel.install(id, &compiled)?;
        for (path, arguments) in &asked {
            let own = arguments.iter().map(Vec::as_slice);
            let expected = compiled.names_arguments(path.as_bytes(), own.clone());
            let whole = [b"argv/0".as_slice()].into_iter().chain(own);
            let vector: Vec<u8> = whole.flat_map(|text| [text, b"\0"].concat()).collect();
            let got = kernel.names_arguments(slot, path.as_bytes(), &vector)?;
            ensure!(got == expected, "kernel {got}: {path} {arguments:?}\n{text}");
        }
        kernel.retire(slot)?;
    }
    Ok(())
}

fn sections(rules: &[(&str, Vec<String>, bool)]) -> String {
    let mut text = String::from("[exec.arguments]\n");
    for key in ["/p", "/p/**", "**/q"] {
        let own = rules.iter().filter(|(path, ..)| *path == key);
        let lines: Vec<String> = own
            .map(|(_, elements, open)| {
                let rest = open.then_some("...");
                let all = elements.iter().map(String::as_str).chain(rest);
                format!("[{}]", all.map(|e| format!("'{e}'")).collect::<Vec<_>>().join(", "))
            })
            .collect();
        if !lines.is_empty() {
            text.push_str(&format!("\"{key}\" = [{}]\n", lines.join(", ")));
        }
    }
    text
}
