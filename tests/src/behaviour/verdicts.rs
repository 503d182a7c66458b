//! Each verdict does what its name says, and no more: `kill` ends the process where the kernel can
//! refuse, `kill-tree` the server, and `observe` nothing at all. What is recorded is what the rules
//! ask for.

use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Lab, Mode, Outcome};

crate::tests! {
    both: [
        kill_and_kill_tree_end_what_they_name,
        network_verdicts_end_what_they_name,
        recorded_is_what_the_rules_ask_for,
    ],
}

const QUIET: &str = r#"
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "CONNECT", listen = "allow", unix = "allow" }
sets = { secrets = "SECRETS", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

fn rules(connect: &str, secrets: &str) -> String {
    QUIET.replace("CONNECT", connect).replace("SECRETS", secrets)
}

fn kill_and_kill_tree_end_what_they_name(lab: &Lab) -> Result<()> {
    let (key, plain) = (lab.file(".ssh/id_ed25519", "secret")?, lab.file("notes", "plain")?);
    let cases = format!("bad read {}\nthen read {}\n", key.display(), plain.display());
    for verdict in ["kill", "kill-tree"] {
        lab.policy(&rules("allow", verdict))?;
        let told = |outcome: &Outcome, field: &str| -> Result<()> {
            let event = outcome.events.violation("open", "secret", &key)?;
            ensure!(event.text(field) == verdict, "{event}");
            Ok(())
        };
        let enforced = batch(lab, Mode::Enforce, &cases)?;
        told(&enforced, "verdict")?;
        ended(lab, &enforced, verdict)?;
        if verdict == "kill-tree" {
            let observed = batch(lab, Mode::Observe, &cases)?;
            told(&observed, "would_be")?;
            unharmed(&observed)?;
        }
    }
    Ok(())
}

fn network_verdicts_end_what_they_name(lab: &Lab) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let (port, plain) = (listener.local_addr()?.port(), lab.file("notes", "plain")?);
    let cases = format!("bad tcp 127.0.0.1 {port}\nthen read {}\n", plain.display());
    for verdict in ["kill", "kill-tree"] {
        lab.policy(&rules(verdict, "allow"))?;
        let enforced = batch(lab, Mode::Enforce, &cases)?;
        let event = enforced.events.violations().next().context("no violation")?;
        ensure!(event.kind() == "connect" && event.text("verdict") == verdict, "{event}");
        ensure!(listener.accept().is_err(), "it got through: {enforced}");
        ended(lab, &enforced, verdict)?;
    }
    unharmed(&batch(lab, Mode::Observe, &cases)?)?;
    ensure!(listener.accept().is_ok(), "nothing is refused in observe");
    Ok(())
}

/// Runs cases, each in a process of its own.
fn batch(lab: &Lab, mode: Mode, cases: &str) -> Result<Outcome> {
    let file = lab.file("cases", cases)?;
    lab.run(mode).actor(["batch".as_ref(), file.as_os_str()])
}

/// That the first case was killed, and with it, where this is meant or all that the backend can
/// do, the rest.
fn ended(lab: &Lab, outcome: &Outcome, verdict: &str) -> Result<()> {
    let alone = verdict == "kill" && lab.backend() == Backend::Lsm;
    ensure!(!outcome.stdout.contains("bad ok"), "{outcome}");
    ensure!(outcome.stdout.contains("bad killed signal=9") || !alone, "{outcome}");
    ensure!(outcome.stdout.contains("then ok") == alone, "{outcome}");
    let code = if alone { 0 } else { 128 + libc::SIGKILL };
    ensure!(outcome.code() == code, "{outcome}");
    Ok(())
}

fn unharmed(outcome: &Outcome) -> Result<()> {
    let both = outcome.stdout.contains("bad ok") && outcome.stdout.contains("then ok");
    ensure!(both && outcome.code() == 0, "{outcome}");
    Ok(())
}

fn recorded_is_what_the_rules_ask_for(lab: &Lab) -> Result<()> {
    let (key, plain) = (lab.file(".ssh/id_ed25519", "secret")?, lab.file("notes", "plain")?);
    let folder = lab.path("new");
    let (key, plain) = (key.display(), plain.display());
    let steps = format!("read {plain} , read {key} , mkdir {}", folder.display());
    // What is asked for, and whether changes are then recorded; all other tests ask for everything.
    for (events, changes) in [("\"violations\"", false), ("[\"change\"]", true)] {
        lab.policy(&format!("[record]\nevents = {events}\n{}", rules("allow", "alert")))?;
        let outcome = lab.run(Mode::Observe).actor(steps.split(' '))?;
        ensure!(outcome.stdout.starts_with("ok"), "{outcome}");
        let of = |kind, path: &dyn ToString| outcome.events.event(kind, path.to_string()).is_ok();
        ensure!(!of("open", &plain), "{events}: {outcome}");
        ensure!(of("change", &folder.display()) == changes, "{events}: {outcome}");
        // Violations and the process tree are recorded in any case.
        outcome.events.violation("open", "secret", key.to_string())?;
        ensure!(outcome.events.of("exec").count() > 0, "{events}: {outcome}");
        std::fs::remove_dir(&folder)?;
    }
    Ok(())
}
