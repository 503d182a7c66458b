//! `mcp-monitor run` cannot be told from the server alone, and never leaves it alone: streams,
//! signals, exit codes, the end of the monitor, and what fails before the start.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};

use crate::{Lab, Mode, behaviour::opens::DENYING, eventually};

crate::tests! {
    both: [
        exit_code_is_the_servers,
        streams_pass_untouched,
        signals_reach_the_server,
        tree_dies_with_a_killed_monitor,
        tree_ends_with_its_first_process,
        command_that_cannot_be_run_is_named,
        failure_before_the_start_names_the_thing,
        caller_without_privileges_is_told,
        hostile_names_stay_on_their_line,
        server_of_root_is_said_to_be_mighty,
        recording_stands_in_the_state_directory_by_itself,
    ],
}

fn exit_code_is_the_servers(lab: &Lab) -> Result<()> {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143)] {
        let outcome = lab.run(Mode::Observe).command(["/bin/sh", "-c", script])?;
        ensure!(outcome.code() == code, "{script}: {outcome}");
    }
    Ok(())
}

fn streams_pass_untouched(lab: &Lab) -> Result<()> {
    let text: String = (0..100_000).map(|number| format!("{{\"jsonrpc\":{number}}}\n")).collect();
    let input = lab.file("input", &text)?;
    let outcome = lab.run(Mode::Enforce).stdin(File::open(input)?).command(["/bin/cat"])?;
    ensure!(outcome.stdout == text, "{} of {} bytes", outcome.stdout.len(), text.len());
    Ok(())
}

fn signals_reach_the_server(lab: &Lab) -> Result<()> {
    for (signal, code) in [(libc::SIGTERM, 7), (libc::SIGHUP, 8), (libc::SIGUSR1, 9)] {
        let script = "trap 'exit 7' TERM; trap 'exit 8' HUP; trap 'exit 9' USR1; echo ready; \
                      while :; do sleep 0.01; done";
        let mut running = lab.run(Mode::Observe).start(["/bin/sh", "-c", script])?;
        running.wait_for("ready")?;
        running.signal(signal)?;
        let outcome = running.finish()?;
        ensure!(outcome.code() == code, "signal {signal}: {outcome}");
    }
    Ok(())
}

/// A descendant in a session of its own whose parents are gone; says its number.
const ESCAPED: &str = "(setsid /bin/sh -c 'echo escaped $$; exec sleep 300' &);";

fn escaped(stdout: &str) -> Result<&str> {
    let line = stdout.lines().find_map(|line| line.strip_prefix("escaped "));
    line.with_context(|| format!("no number in {stdout:?}"))
}

fn tree_dies_with_a_killed_monitor(lab: &Lab) -> Result<()> {
    let script = format!("{ESCAPED} while :; do sleep 1; done");
    let mut running = lab.run(Mode::Observe).start(["/bin/sh", "-c", &script])?;
    running.wait_for("escaped ")?;
    let stdout = running.stdout();
    let escaped = escaped(&stdout)?;
    ensure!(is_alive(escaped), "it must live while the monitor does");
    running.signal(libc::SIGKILL)?;
    eventually("the escaped process dies", || !is_alive(escaped))?;
    let instances = lab.cgroups()?.join("mcp-monitor");
    eventually("the cgroup is removed", || !instances.exists())
}

fn tree_ends_with_its_first_process(lab: &Lab) -> Result<()> {
    let script = format!("{ESCAPED} sleep 0.3; exit 4");
    let outcome = lab.run(Mode::Observe).command(["/bin/sh", "-c", &script])?;
    ensure!(!is_alive(escaped(&outcome.stdout)?), "{outcome}");
    ensure!(outcome.stderr.contains("what it left running was killed"), "{outcome}");
    ensure!(outcome.code() == 4, "{outcome}");
    let twin = lab.run(Mode::Observe).command(["/bin/sh", "-c", "exit 4"])?;
    ensure!(!twin.stderr.contains("was killed"), "{twin}");
    Ok(())
}

fn is_alive(tgid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{tgid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn command_that_cannot_be_run_is_named(lab: &Lab) -> Result<()> {
    let plain = lab.file("plain", "no program")?;
    for (command, code) in [(Path::new("/missing/server"), 127), (&plain, 126)] {
        let outcome = lab.run(Mode::Enforce).command([command])?;
        ensure!(outcome.code() == code, "{outcome}");
        ensure!(outcome.stderr.contains(&*command.to_string_lossy()), "{outcome}");
    }
    Ok(())
}

fn failure_before_the_start_names_the_thing(lab: &Lab) -> Result<()> {
    let broken = lab.rule_file("servers/broken.toml", "schema = 1\nserver = \"broken\"\n[flies]\n")?;
    let rules = lab.rules();
    let rules = rules.to_str().context("a plain path")?;
    let cases: [(&[&str], &str); 6] = [
        (&["--rules", "/missing/rules"], "/missing/rules"),
        (&["--rules", rules, "--server", "broken"], "flies"),
        (&["--server", "nobody-wrote-this", "--mode", "enforce"], "nobody-wrote-this"),
        (&["--server", "../broken"], "../broken"),
        (&["--home", "/missing/home"], "/missing/home"),
        (&["--events", "/missing/events"], "/missing/events"),
    ];
    for (options, named) in cases {
        let output = run_alone(lab, options, &["/bin/sh", "-c", "echo ran"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(125), "{options:?}: {output:?}");
        ensure!(stderr.contains(named), "{options:?}: {stderr}");
        ensure!(output.stdout.is_empty(), "{options:?}: {output:?}");
    }
    fs::remove_file(broken)?;
    let twin = run_alone(lab, &["--rules", rules, "--events", "/dev/null"], &["/bin/sh", "-c", "echo ran"])?;
    ensure!(twin.status.success() && twin.stdout == b"ran\n", "{twin:?}");
    Ok(())
}

fn caller_without_privileges_is_told(lab: &Lab) -> Result<()> {
    // Where anybody may execute it.
    let monitor = lab.folder().join("monitor");
    fs::copy(lab.monitor()?, &monitor)?;
    let socket = lab.folder().join("no-agent.sock");
    let run = |uid, options: &[&str]| {
        let mut run = Command::new(&monitor);
        run.args(["run", "--backend", &lab.backend().to_string(), "--socket"]).arg(&socket);
        run.args(options).args(["--", "/bin/echo", "ran"]);
        run.env_remove("SUDO_UID").current_dir("/").uid(uid);
        run.output().context("cannot start mcp-monitor")
    };
    const NOBODY: u32 = 65_534;
    const RECORDED: &[&str] = &["--events", "/dev/null"];
    for (options, said) in [(&[][..], "no agent is at work"), (RECORDED, "--events is for root")] {
        let output = run(NOBODY, options)?;
        ensure!(output.status.code() == Some(125) && output.stdout.is_empty(), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(stderr.contains(said), "{stderr}");
    }
    let twin = run(0, RECORDED)?;
    ensure!(twin.status.success() && twin.stdout == b"ran\n", "{twin:?}");
    Ok(())
}

fn hostile_names_stay_on_their_line(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let name = "\u{1b}[2Ja\nmcp-monitor: all is well\r\u{202e}";
    for (side, alarms) in [("allowed", false), ("forbidden", true)] {
        let file = lab.file(format!("{side}/{name}"), "text")?;
        let outcome = lab.run(Mode::Observe).actor(["read".as_ref(), file.as_os_str()])?;
        outcome.events.event("open", &file)?;
        let said = &outcome.stderr;
        ensure!(!said.contains(['\u{1b}', '\r', '\u{202e}']), "{said:?}");
        ensure!(!said.lines().any(|line| line.starts_with("mcp-monitor: all")), "{said}");
        for word in ["all is well", "file_read"] {
            ensure!(said.contains(word) == alarms, "{said}");
        }
    }
    Ok(())
}

fn server_of_root_is_said_to_be_mighty(lab: &Lab) -> Result<()> {
    let outcome = lab.run(Mode::Enforce).command(["/bin/sh", "-c", "sleep 0.2"])?;
    let mut said = outcome.events.of("agent").map(|event| event.text("message"));
    ensure!(said.any(|message| message.contains("CAP_SYS_ADMIN")), "{outcome}");
    Ok(())
}

fn recording_stands_in_the_state_directory_by_itself(lab: &Lab) -> Result<()> {
    let output = run_alone(lab, &[], &["/bin/sh", "-c", "exit 0"])?;
    let directory = lab.folder().join("state/mcp-monitor");
    let recordings: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("{}: {output:?}", directory.display()))?
        .collect::<Result<_, _>>()?;
    ensure!(recordings.len() == 1, "{recordings:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(stderr.contains(&*recordings[0].path().to_string_lossy()), "{stderr}");
    Ok(())
}

/// The monitor with nothing but these options, for what [`Lab::run`] would not do.
pub(super) fn run_alone(lab: &Lab, options: &[&str], command: &[impl AsRef<OsStr>]) -> Result<Output> {
    let mut run = Command::new(lab.monitor()?);
    run.arg("run").args(["--backend", &lab.backend().to_string()]).arg("--key").arg(lab.key());
    run.args(options).arg("--").args(command).env("XDG_STATE_HOME", lab.folder().join("state"));
    for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "RUST_BACKTRACE"] {
        run.env_remove(name);
    }
    run.output().context("cannot start mcp-monitor")
}
