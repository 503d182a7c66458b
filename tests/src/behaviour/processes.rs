//! Processes outside the tree are out of reach: rows 11 to 13 and 20 of `docs/evasions.md`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use monitor_common::file::PIPEFS_MAGIC;

use crate::{Lab, cases::Cases};

crate::tests! {
    both: [
        other_processes_are_out_of_reach,
        process_that_has_ended_is_nobodys,
        own_processes_are_reached_by_descriptor_whatever_files_may_be_written,
        calls_that_open_ways_around_are_seen,
    ],
    // Nothing shows a received descriptor to the tracepoint backend.
    lsm: [received_descriptor_is_judged_like_an_open],
}

const PROCESSES: &str = r#"
[files]
deny = ["${HOME}/forbidden/**"]
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "deny", persistence = "allow", mcp_config = "allow", processes = "deny", escape = "allow", metadata = "allow" }
"#;

/// A process outside every tree, with something to read.
struct Victim {
    child: Child,
    address: String,
}

impl Victim {
    fn start(lab: &Lab) -> Result<Self> {
        let mut child = Command::new(lab.actor()?)
            .arg("victim")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().context("piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().rsplit_once('=').context("no address")?.1.to_owned();
        Ok(Self { child, address })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const REACHES: &[(&str, &str)] = &[
    ("environ", "read /proc/PID/environ"),
    ("task-environ", "read /proc/PID/task/PID/environ"),
    ("arguments", "read /proc/PID/cmdline"),
    ("task-arguments", "read /proc/PID/task/PID/cmdline"),
    ("pipe", "open /proc/PID/fd/1"),
    ("mem", "proc-mem PID ADDRESS"),
    ("second-procfs", "unshare-mount , mount-proc {mnt} , read {mnt}/PID/environ"),
    ("vm-read", "vm-read PID ADDRESS"),
    ("vm-write", "vm-write PID ADDRESS"),
    ("ptrace-attach", "ptrace-attach PID"),
    ("ptrace-seize", "ptrace-seize PID"),
    ("pidfd-getfd", "pidfd-getfd PID 1"),
    ("signal", "kill PID 18"),
    ("pidfd-signal", "pidfd-signal PID 18"),
    ("queued-signal", "queue-signal PID 18"),
];

fn other_processes_are_out_of_reach(lab: &Lab) -> Result<()> {
    lab.policy(PROCESSES)?;
    let victim = Victim::start(lab)?;
    let pid = victim.child.id().to_string();
    let mnt = lab.path("mnt");
    std::fs::create_dir(&mnt)?;
    let mut cases = Cases::new();
    for (name, steps) in REACHES {
        let steps = steps.replace("{mnt}", &mnt.to_string_lossy());
        cases.add(&format!("{name}.own"), format!("with-child {steps}"));
        let steps = steps.replace("ADDRESS", &victim.address).replace("PID", &pid);
        cases.add(&format!("{name}.other"), steps);
    }
    let free = cases.alone(lab)?;
    ensure!(free.values().all(|line| line.starts_with("ok")), "without the monitor: {free:#?}");
    let batch = cases.run(lab)?;
    for (name, _) in REACHES {
        batch.worked(&format!("{name}.own"))?;
        batch.refused(&format!("{name}.other"))?;
    }
    let found = batch.events.violations().filter(|event| {
        let right = ["process", "env_secret"].contains(&event.text("category"));
        let other = event.number("target.tgid") == Some(victim.child.id().into())
            || event.text("path").contains(&format!("/{pid}/"))
            || event.number("fs_magic") == Some(PIPEFS_MAGIC.into());
        right && other && batch.is_denied(event)
    });
    let (found, all) = (found.count(), batch.events.violations().count());
    ensure!(found >= REACHES.len() && found == all, "{found} of {all} violations\n{batch}");
    Ok(())
}

fn process_that_has_ended_is_nobodys(lab: &Lab) -> Result<()> {
    lab.policy(PROCESSES)?;
    let mut cases = Cases::new();
    for number in 0..20 {
        // The child may die of the signal before the call ends.
        cases.add(&format!("ending.{number}"), "with-child kill PID 9");
        cases.add(&format!("ended.{number}"), "kill-ended");
    }
    let batch = cases.run(lab)?;
    for number in 0..20 {
        batch.worked(&format!("ending.{number}"))?;
        batch.worked(&format!("ended.{number}"))?;
    }
    ensure!(batch.events.violations().count() == 0, "{batch}");
    Ok(())
}

fn own_processes_are_reached_by_descriptor_whatever_files_may_be_written(lab: &Lab) -> Result<()> {
    lab.policy(&PROCESSES.replace("write = \"allow\"", "write = \"deny\""))?;
    let mut cases = Cases::new();
    cases.add("own", "with-child pidfd-signal PID 18");
    let batch = cases.run(lab)?;
    batch.worked("own")?;
    ensure!(batch.events.violations().count() == 0, "{batch}");
    Ok(())
}

fn received_descriptor_is_judged_like_an_open(lab: &Lab) -> Result<()> {
    lab.policy(PROCESSES)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let mut cases = Cases::new();
    let mut accomplices = Vec::new();
    for (name, file) in [("allowed", &plain), ("forbidden", &secret)] {
        let socket = lab.path(format!("{name}.sock"));
        let mut command = Command::new(lab.actor()?);
        command.arg("scm-send").arg(&socket).arg(file).stdout(Stdio::null());
        accomplices.push(Victim { child: command.spawn()?, address: String::new() });
        crate::eventually("the accomplice's socket is there", || socket.exists())?;
        cases.add(name, format!("sleep 200 , scm-receive {}", socket.display()));
    }
    let batch = cases.run(lab)?;
    batch.worked("allowed")?;
    batch.quiet_about(&plain)?;
    batch.refused("forbidden")?;
    let secret = secret.to_string_lossy();
    let mut violations = batch.events.violations();
    ensure!(violations.any(|event| event.names(&secret) && batch.is_denied(event)), "{batch}");
    Ok(())
}

fn calls_that_open_ways_around_are_seen(lab: &Lab) -> Result<()> {
    let mut cases = Cases::new();
    // BPF_BTF_GET_NEXT_ID, which finds the kernel's own.
    cases.add("bpf", "bpf 23");
    cases.add("namespace", "unshare-user");
    cases.add("io_uring", "uring-setup");
    let free = cases.alone(lab)?;
    ensure!(free.values().all(|line| line.starts_with("ok")), "without the monitor: {free:#?}");
    let lenient = PROCESSES.replace("processes = \"deny\"", "processes = \"allow\"");
    lab.policy(&lenient.replace("escape = \"allow\"", "escape = \"deny\""))?;
    let batch = cases.run(lab)?;
    for name in ["bpf", "namespace"] {
        batch.refused(name)?;
        let mut events = batch.events.violations();
        let denied = events.any(|event| {
            event.kind() == name && event.text("category") == "escape" && batch.is_denied(event)
        });
        ensure!(denied, "{name}\n{batch}");
    }
    // Rings are reported; what goes through them is judged like any other call.
    batch.worked("io_uring")?;
    ensure!(batch.events.of("io_uring").count() == 1, "{batch}");
    ensure!(batch.events.violations().count() == 2, "{batch}");
    lab.policy(&lenient)?;
    let twin = cases.run(lab)?;
    for name in ["bpf", "namespace", "io_uring"] {
        twin.worked(name)?;
    }
    twin.events.assert_quiet()
}
