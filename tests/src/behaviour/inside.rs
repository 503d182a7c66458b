//! What is inside a tree cannot have itself treated as something else: rows 46 and 47 of
//! `docs/evasions.md`.

use anyhow::{Result, ensure};

use crate::{Lab, Mode, behaviour::opens::DENYING, cases::Cases};

crate::tests! {
    both: [
        run_from_inside_gains_nothing,
        environment_does_not_bend_the_rules,
        arguments_do_not_bend_the_rules,
    ],
}

fn run_from_inside_gains_nothing(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    lab.rule_file("servers/lax.toml", "schema = 1\nserver = \"lax\"\n")?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let (monitor, actor, rules) = (lab.monitor()?, lab.actor()?, lab.rules());
    let options = format!("--rules {} --server lax --events /dev/null", rules.display());
    let (monitor, actor, secret_name) = (monitor.display(), actor.display(), secret.display());
    let mut cases = Cases::new();
    cases.add("inner", format!("exec {monitor} run {options} -- {actor} read {secret_name}"));
    cases.add("plain", format!("read {}", plain.display()));
    let batch = cases.run(lab)?;
    let line = batch.line("inner");
    if line.contains("ok bytes=") {
        // Only where nothing is refused: it is still judged by the outer rules.
        ensure!(!batch.enforcing, "{batch}");
        batch.denied("open", "file_read", &secret)?;
    }
    batch.worked("plain")?;
    batch.quiet_about(&plain)
}

const HOME_ONLY: &str = r#"
[files]
read = ["${HOME}/**", "/proc/**"]
[response]
unlisted = { read = "deny", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

fn environment_does_not_bend_the_rules(lab: &Lab) -> Result<()> {
    lab.policy(HOME_ONLY)?;
    let plain = lab.file("notes", "plain")?;
    let outside = lab.folder().join("outside");
    std::fs::write(&outside, "not for servers")?;
    let steps = format!("read {} , read {}", plain.display(), outside.display());
    let run = lab.run(Mode::Enforce).env("HOME", "/").env("CWD", "/").env("USER", "*");
    let outcome = run.actor(steps.split(' '))?;
    ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
    outcome.events.violation("open", "file_read", &outside)?;
    outcome.events.allowed("open", &plain).map(|_| ())
}

fn arguments_do_not_bend_the_rules(lab: &Lab) -> Result<()> {
    let rooted = "read = [\"${OPT:--root}/**\", \"/proc/**\"]";
    lab.policy(&HOME_ONLY.replace("read = [\"${HOME}/**\", \"/proc/**\"]", rooted))?;
    let file = lab.file("project/notes", "plain")?;
    let project = lab.path("project").display().to_string();
    // The values are literals, and the whole file system is not one that a rule may be given.
    for (root, lets) in [(project.as_str(), true), ("/", false), ("**", false)] {
        let steps = format!("say x --root {root} , read {}", file.display());
        let outcome = lab.run(Mode::Enforce).actor(steps.split(' '))?;
        ensure!(outcome.stdout.starts_with("ok bytes=") == lets, "--root {root}: {outcome}");
    }
    Ok(())
}
