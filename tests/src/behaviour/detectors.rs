//! What many events do together is found, with evidence, and stopped where the rules say so; honest
//! work of the same kind is left alone. That a real server's work raises no alert at all is in
//! `real_server.rs`, and that every finding replays to the byte is checked after each test.

use std::{net::TcpListener, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Event, Events, Lab, Mode, Outcome, cases::Cases};

crate::tests! {
    both: [
        mass_read_is_stopped_at_its_limit,
        mass_read_of_many_children_is_counted_together,
        mass_read_does_not_count_the_runtimes_own,
        mass_read_is_found_without_rules,
        breadth_is_found_against_what_is_stated,
        mass_write_ends_the_server,
        own_files_that_come_and_go_are_left_alone,
        exec_burst_ends_the_server,
        fork_burst_is_found,
        scans_are_found,
        environment_of_another_has_its_own_verdict,
        exfiltration_shows_both_ends,
    ],
}

const OPEN: &str = r#"
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "alert", sensitive = "alert", persistence = "allow", mcp_config = "allow", processes = "alert", escape = "allow", metadata = "alert" }
"#;

/// Rules that only detectors restrict.
fn limited(lab: &Lab, limits: &str, detectors: &str) -> Result<()> {
    lab.policy(&format!("{limits}\n{OPEN}\ndetectors = {{ {detectors} }}\n")).map(drop)
}

/// A directory with so many files.
fn filled(lab: &Lab, name: &str, files: u32) -> Result<String> {
    for number in 0..files {
        lab.file(format!("{name}/{number}"), "content\n")?;
    }
    Ok(lab.path(name).display().to_string())
}

/// The findings of a category.
fn findings<'a>(events: &'a Events, category: &'a str) -> impl Iterator<Item = &'a Event> {
    events.of("alert").filter(move |event| event.text("category") == category)
}

/// The one finding of a run, whose evidence is in the recording.
fn finding<'a>(events: &'a Events, category: &'a str) -> Result<&'a Event> {
    let mut all = findings(events, category);
    let found = all.next().with_context(|| format!("no {category}"))?;
    ensure!(all.next().is_none(), "more than one finding: {found}");
    ensure!(found.text("reason") == "detector", "{found}");
    let evidence = found.field("evidence").and_then(|list| list.as_array());
    let evidence = evidence.with_context(|| format!("no evidence: {found}"))?;
    for seq in evidence {
        let is_it = |event: &&Event| event.field("seq") == Some(seq);
        ensure!(events.all().iter().any(|event| is_it(&event)), "{seq} is missing: {found}");
    }
    let samples = found.field("finding.samples").and_then(|list| list.as_array());
    ensure!(samples.is_some_and(|samples| !samples.is_empty()), "no samples: {found}");
    Ok(found)
}

fn quiet(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.stdout.starts_with("ok"), "{outcome}");
    ensure!(outcome.events.of("alert").next().is_none(), "an alert: {outcome}");
    Ok(())
}

fn mass_read_is_stopped_at_its_limit(lab: &Lab) -> Result<()> {
    let limits = "[limits]\nmass_read = { files = 50, window = \"1m\" }";
    limited(lab, limits, "mass_read = \"deny\"")?;
    let (few, many) = (filled(lab, "few", 49)?, filled(lab, "many", 200)?);
    let twice = ["each-read", &few, ",", "each-read", &few];
    quiet(&lab.run(Mode::Enforce).actor(twice)?)?;

    let outcome = lab.run(Mode::Enforce).actor(["each-read", &many])?;
    let found = finding(&outcome.events, "mass_read")?;
    ensure!(found.text("verdict") == "deny" && found.text("enforced") == "kernel", "{found}");
    ensure!(found.number("finding.limit") == Some(50), "{found}");
    let of = |event: &&Event| event.text("path").starts_with(&many);
    let files = |event: &&Event| of(event) && !event.lists("flags", "directory");
    let opened = outcome.events.of("open").filter(files);
    let (refused, read): (Vec<_>, Vec<_>) = opened.partition(|event| event.is_violation());
    ensure!(read.len() == 49, "{} files were read: {outcome}", read.len());
    ensure!(refused.iter().all(|event| event.text("category") == "mass_read"), "{outcome}");
    match lab.backend() {
        Backend::Lsm => {
            ensure!(outcome.stdout.starts_with("ok did=49 refused=151"), "{outcome}");
        }
        Backend::Tracepoint => {
            ensure!(outcome.code() == 128 + libc::SIGKILL, "{outcome}");
            ensure!(refused.len() == 1, "{outcome}");
        }
    }
    Ok(())
}

fn mass_read_of_many_children_is_counted_together(lab: &Lab) -> Result<()> {
    let limits = "[limits]\nmass_read = { files = 50, window = \"1m\" }";
    limited(lab, limits, "mass_read = \"kill-tree\"")?;
    let mut cases = Cases::new();
    for child in 0..10 {
        let folder = filled(lab, &format!("part-{child}"), 10)?;
        cases.add(&format!("child-{child}"), format!("each-read {folder}"));
    }
    let batch = cases.run_in(lab, Mode::Enforce)?;
    let found = finding(&batch.events, "mass_read")?;
    ensure!(found.text("verdict") == "kill-tree", "{found}");
    batch.worked("child-3")?;
    ensure!(batch.line("child-5") == "no result", "the tree lived: {batch}");
    Ok(())
}

fn mass_read_does_not_count_the_runtimes_own(lab: &Lab) -> Result<()> {
    let limits = "[limits]\nmass_read = { files = 50, window = \"1m\" }";
    let runtime = format!("[files]\nruntime = [\"${{HOME}}/runtime/**\"]\n{limits}");
    limited(lab, &runtime, "mass_read = \"kill-tree\"")?;
    let own = filled(lab, "runtime", 200)?;
    quiet(&lab.run(Mode::Enforce).actor(["each-read", &own])?)?;
    limited(lab, limits, "mass_read = \"kill-tree\"")?;
    let outcome = lab.run(Mode::Enforce).actor(["each-read", &own])?;
    finding(&outcome.events, "mass_read").map(drop)
}

fn mass_read_is_found_without_rules(lab: &Lab) -> Result<()> {
    let (few, many) = (filled(lab, "few", 400)?, filled(lab, "many", 600)?);
    quiet(&lab.run(Mode::Observe).actor(["each-read", &few])?)?;
    let outcome = lab.run(Mode::Observe).actor(["each-read", &many])?;
    ensure!(outcome.stdout.starts_with("ok did=600"), "{outcome}");
    let found = finding(&outcome.events, "mass_read")?;
    ensure!(found.text("verdict") == "alert" && found.number("count") == Some(500), "{found}");
    ensure!(outcome.stderr.contains("mass_read"), "people are not told: {outcome}");
    Ok(())
}

fn breadth_is_found_against_what_is_stated(lab: &Lab) -> Result<()> {
    limited(lab, "[limits]\nbreadth = { files = 50 }", "mass_read = \"alert\"")?;
    let (few, many) = (filled(lab, "few", 40)?, filled(lab, "many", 60)?);
    quiet(&lab.run(Mode::Enforce).actor(["each-read", &few])?)?;
    let outcome = lab.run(Mode::Enforce).actor(["each-read", &many])?;
    let found = finding(&outcome.events, "mass_read")?;
    ensure!(found.text("rule.list") == "limits.breadth", "{found}");
    Ok(())
}

/// Runs steps that end in a wait for nothing, so that only the monitor can end them.
fn until_killed(lab: &Lab, steps: &[&str]) -> Result<Outcome> {
    let nothing = lab.path("nothing");
    let nothing = nothing.to_string_lossy();
    let wait = [",", "await", &nothing];
    let outcome = lab.run(Mode::Enforce).actor(steps.iter().chain(&wait))?;
    ensure!(outcome.code() == 128 + libc::SIGKILL, "it lived: {outcome}");
    Ok(outcome)
}

fn mass_write_ends_the_server(lab: &Lab) -> Result<()> {
    let limits = "[limits]\nmass_write = { files = 40, window = \"1m\" }";
    limited(lab, limits, "mass_write = \"kill-tree\"")?;
    for way in ["overwrite", "truncate", "unlink", "rename"] {
        let step = format!("each-{way}");
        let few = filled(lab, &format!("{way}-few"), 39)?;
        quiet(&lab.run(Mode::Enforce).actor([&step, &few])?)?;
        let many = filled(lab, &format!("{way}-many"), 100)?;
        let outcome = until_killed(lab, &[&step, &many])?;
        let found = finding(&outcome.events, "mass_write")?;
        ensure!(found.text("enforced") == "agent" && found.number("count") == Some(40), "{found}");
    }
    Ok(())
}

fn own_files_that_come_and_go_are_left_alone(lab: &Lab) -> Result<()> {
    let limits = "[limits]\nmass_write = { files = 40, window = \"1m\" }";
    limited(lab, limits, "mass_write = \"kill-tree\"")?;
    let folder = filled(lab, "work", 1)?;
    quiet(&lab.run(Mode::Enforce).actor(["each-own", &folder, "200"])?)
}

fn exec_burst_ends_the_server(lab: &Lab) -> Result<()> {
    let limits = "[limits]\nexec_burst = { max = 30, window = \"1m\" }";
    limited(lab, limits, "exec_burst = \"kill-tree\"")?;
    quiet(&lab.run(Mode::Enforce).actor(["exec-each", "25", "/bin/true"])?)?;
    let outcome = until_killed(lab, &["exec-each", "60", "/bin/true"])?;
    let found = findings(&outcome.events, "exec_burst").next().context("no finding")?;
    ensure!(found.text("enforced") == "agent", "{found}");
    Ok(())
}

fn fork_burst_is_found(lab: &Lab) -> Result<()> {
    quiet(&lab.run(Mode::Observe).actor(["fork-flood", "60"])?)?;
    let outcome = lab.run(Mode::Observe).actor(["fork-flood", "200"])?;
    let found = finding(&outcome.events, "exec_burst")?;
    ensure!(found.text("event") == "fork" && found.text("verdict") == "alert", "{found}");
    Ok(())
}

fn scans_are_found(lab: &Lab) -> Result<()> {
    for few in [["scan-ports", "127.0.0.1", "40000", "15"].as_slice(), &["scan-hosts", "9", "15"]] {
        quiet(&lab.run(Mode::Observe).actor(few)?)?;
    }
    let scans = [
        (["scan-ports", "127.0.0.1", "40000", "60"].as_slice(), "ports of one host"),
        (&["scan-hosts", "9", "60"], "private hosts"),
    ];
    for (scan, what) in scans {
        let outcome = lab.run(Mode::Observe).actor(scan)?;
        let found = finding(&outcome.events, "connect_burst")?;
        ensure!(found.text("why").contains(what), "{found}");
    }
    Ok(())
}

fn environment_of_another_has_its_own_verdict(lab: &Lab) -> Result<()> {
    limited(lab, "", "env_secret = \"kill-tree\"")?;
    let own = lab.run(Mode::Enforce).actor(["read", "/proc/self/environ"])?;
    ensure!(own.stdout.starts_with("ok"), "{own}");
    own.events.assert_quiet()?;
    let mut victim = Command::new(lab.actor()?).args(["await", "/nothing"]).spawn()?;
    let environ = format!("/proc/{}/environ", victim.id());
    let outcome = lab.run(Mode::Enforce).actor(["read", &environ]);
    victim.kill()?;
    victim.wait()?;
    let outcome = outcome?;
    ensure!(outcome.code() == 128 + libc::SIGKILL, "it lived: {outcome}");
    let event = outcome.events.violation("open", "env_secret", &environ)?;
    ensure!(event.text("verdict") == "kill-tree", "{event}");
    Ok(())
}

fn exfiltration_shows_both_ends(lab: &Lab) -> Result<()> {
    limited(lab, "", "exfiltration = \"kill-tree\"")?;
    let key = lab.file(".ssh/id_ed25519", "secret")?.display().to_string();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let outcome = until_killed(lab, &["read", &key, ",", "tcp", "127.0.0.1", &port])?;
    let found = finding(&outcome.events, "exfiltration")?;
    let ends = found.field("evidence").and_then(|list| list.as_array()).context("no evidence")?;
    let end = |seq: &serde_json::Value| {
        outcome.events.all().iter().find(|event| event.field("seq") == Some(seq))
    };
    let [read, sent] = [end(&ends[0]), end(&ends[1])].map(|end| end.context("not recorded"));
    let (read, sent) = (read?, sent?);
    ensure!(read.kind() == "open" && read.names(&key), "{read}");
    ensure!(sent.kind() == "connect" && sent.text("address") == "127.0.0.1", "{sent}");

    // The other way round, and a file that is no secret.
    let plain = lab.file("notes", "plain")?.display().to_string();
    let first = lab.run(Mode::Enforce).actor(["tcp", "127.0.0.1", &port, ",", "read", &key])?;
    ensure!(findings(&first.events, "exfiltration").next().is_none(), "{first}");
    let other = lab.run(Mode::Enforce).actor(["read", &plain, ",", "tcp", "127.0.0.1", &port])?;
    quiet(&other)
}
