//! What rules say about the process that is started: its environment, and what its tree may use.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{Lab, Mode};

crate::tests! {
    both: [
        secrets_in_the_environment_are_removed_in_enforce_unless_passed,
        tree_uses_no_more_than_its_resources,
        files_left_open_for_the_server_are_closed_and_secrets_told,
    ],
}

const ALLOWING: &str = r#"
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

fn secrets_in_the_environment_are_removed_in_enforce_unless_passed(lab: &Lab) -> Result<()> {
    lab.policy(&format!("[env]\npass = [\"WANTED_TOKEN\"]\n{ALLOWING}"))?;
    let script = "echo \"[$STRAY_TOKEN] [$STRAY_URL] [$WANTED_TOKEN] [$PLAIN]\"";
    for (mode, said) in [(Mode::Enforce, "[] [] [wanted] [plain]"), (
        Mode::Observe,
        "[hidden] [db://u:hidden@h] [wanted] [plain]",
    )] {
        let run = lab.run(mode).env("STRAY_TOKEN", "hidden").env("STRAY_URL", "db://u:hidden@h");
        let run = run.env("WANTED_TOKEN", "wanted").env("PLAIN", "plain");
        let outcome = run.command(["/bin/sh", "-c", script])?;
        ensure!(outcome.stdout.trim_end() == said, "{mode}: {outcome}");
        let told = outcome.events.of("agent").find(|event| event.text("action") == "environment");
        let message = told.with_context(|| format!("{mode}: nothing was told: {outcome}"))?;
        let message = message.text("message");
        for name in ["STRAY_TOKEN", "STRAY_URL"] {
            ensure!(message.contains(name), "{mode}: {message}");
            ensure!(outcome.stderr.contains(name), "{mode}: {outcome}");
        }
        ensure!(!message.contains("WANTED") && !message.contains("PLAIN"), "{mode}: {message}");
        let recorded = outcome.events.of("agent").any(|event| event.to_string().contains("hidden"));
        ensure!(!recorded && !outcome.stderr.contains("hidden"), "{mode}: {outcome}");
    }
    Ok(())
}

fn tree_uses_no_more_than_its_resources(lab: &Lab) -> Result<()> {
    lab.policy(&format!("[resources]\nmemory = \"96M\"\npids = 12\ncpu = \"50%\"\n{ALLOWING}"))?;
    let many = "(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 300 & done); echo ready; \
                exec sleep 300";
    let controllers = fs::read_to_string(lab.cgroups()?.join("cgroup.subtree_control"));
    if !controllers.is_ok_and(|all| all.contains("memory")) {
        let outcome = lab.run(Mode::Enforce).command(["/bin/true"])?;
        ensure!(outcome.code() == 125 && outcome.stdout.is_empty(), "{outcome}");
        ensure!(outcome.stderr.contains("cannot set resources.memory: "), "{outcome}");
        ensure!(!lab.cgroups()?.join("mcp-monitor").exists(), "a cgroup was left behind");
    } else {
        let mut running = lab.run(Mode::Enforce).start(["/bin/sh", "-c", many])?;
        running.wait_for("ready")?;
        let own = instance(lab)?;
        let refused = read(&own, "pids.events");
        ensure!(refused.starts_with("max ") && refused != "max 0", "no fork was refused: {refused}");
        for (file, value) in
            [("memory.max", "100663296"), ("pids.max", "12"), ("cpu.max", "50000 100000")]
        {
            ensure!(read(&own, file) == value, "{file}: {}", read(&own, file));
        }
        running.signal(libc::SIGTERM)?;
        running.finish()?;
    }
    // Without limits as many as it likes, wherever.
    lab.policy(ALLOWING)?;
    let mut running = lab.run(Mode::Enforce).start(["/bin/sh", "-c", many])?;
    running.wait_for("ready")?;
    running.signal(libc::SIGTERM)?;
    running.finish().map(|_| ())
}

/// The cgroup of the only instance.
fn instance(lab: &Lab) -> Result<PathBuf> {
    let parent = lab.cgroups()?.join("mcp-monitor");
    let entries = fs::read_dir(&parent)?.filter_map(Result::ok);
    let mut folders = entries.filter(|entry| entry.path().is_dir());
    Ok(folders.next().context("no instance")?.path())
}

fn read(folder: &std::path::Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default().trim_end().to_owned()
}

fn files_left_open_for_the_server_are_closed_and_secrets_told(lab: &Lab) -> Result<()> {
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let deny = format!("[files]\ndeny = [\"{}/**\"]", lab.path("forbidden").display());
    lab.policy(&format!("{deny}\n{ALLOWING}"))?;
    let run = |file| lab.run(Mode::Enforce).left_open(file)?.actor(["read", "/proc/self/fd/9"]);
    let outcome = run(&plain)?;
    ensure!(outcome.stdout.starts_with("failed"), "it was there: {outcome}");
    outcome.events.assert_quiet()?;
    let outcome = run(&secret)?;
    ensure!(outcome.stdout.starts_with("failed"), "it was there: {outcome}");
    let event = outcome.events.violation("process", "process", &secret)?;
    ensure!(event.text("op") == "descriptor" && event.text("enforced") == "kernel", "{event}");
    let alert = outcome.events.of("alert").next().context("no alert")?;
    ensure!(alert.text("why").ends_with("closed before it began"), "{alert}");
    Ok(())
}
