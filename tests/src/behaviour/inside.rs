//! What is inside a tree cannot have itself treated as something else: rows 46 and 47 of the
//! threat list in the documentation.

use anyhow::{Result, ensure};

use crate::{Lab, Mode, behaviour::opens::DENYING};

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
    for (file, forbidden) in [(&plain, false), (&secret, true)] {
        let words = [
            "exec".as_ref(),
            monitor.as_os_str(),
            "run".as_ref(),
            "--rules".as_ref(),
            rules.as_os_str(),
            "--server".as_ref(),
            "lax".as_ref(),
            "--events".as_ref(),
            "/dev/null".as_ref(),
            "--".as_ref(),
            actor.as_os_str(),
            "read".as_ref(),
            file.as_os_str(),
        ];
        let outcome = lab.run(Mode::Enforce).actor(words)?;
        ensure!(!(forbidden && outcome.stdout.contains("ok bytes=")), "{outcome}");
    }
    let twin = lab.run(Mode::Enforce).actor(["read".as_ref(), plain.as_os_str()])?;
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    Ok(())
}

const HOME_ONLY: &str = r#"
[files]
read = ["${HOME}/**"]
[response]
unlisted = { read = "deny", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

fn environment_does_not_bend_the_rules(lab: &Lab) -> Result<()> {
    lab.policy(HOME_ONLY)?;
    let plain = lab.file("notes", "plain")?;
    let outside = lab.folder().join("outside");
    std::fs::write(&outside, "not for servers")?;
    for (file, forbidden) in [(&plain, false), (&outside, true)] {
        let run = lab.run(Mode::Enforce).env("HOME", "/").env("CWD", "/").env("USER", "*");
        let outcome = run.actor(["read".as_ref(), file.as_os_str()])?;
        ensure!(outcome.stdout.starts_with("ok") != forbidden, "{outcome}");
        if forbidden {
            outcome.events.violation("open", "file_read", file)?;
        }
    }
    Ok(())
}

fn arguments_do_not_bend_the_rules(lab: &Lab) -> Result<()> {
    lab.policy(&HOME_ONLY.replace("read = [\"${HOME}/**\"]", "read = [\"${OPT:--root}/**\"]"))?;
    let file = lab.file("notes", "plain")?;
    // The values are literals, and the whole file system is not one that a rule may be given.
    for (root, lets) in [(lab.home(), true), ("/".into(), false), ("**".into(), false)] {
        let words =
            ["say".as_ref(), "x".as_ref(), "--root".as_ref(), root.as_os_str(), ",".as_ref()];
        let words = words.into_iter().chain(["read".as_ref(), file.as_os_str()]);
        let outcome = lab.run(Mode::Enforce).actor(words)?;
        ensure!(outcome.stdout.starts_with("ok bytes=") == lets, "--root {root:?}: {outcome}");
    }
    Ok(())
}
