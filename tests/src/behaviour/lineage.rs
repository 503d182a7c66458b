//! A process stays in its tree however it came about: rows 3, 14, 15, 38 and 42 of
//! `docs/evasions.md`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{
    Lab, Mode,
    behaviour::opens::{DENYING, GUARD},
    cases::Cases,
    guard::{Technique, technique},
};

crate::tests! {
    both: [
        descendants_are_judged_however_they_came_about,
        leaving_the_cgroup_does_not_leave_the_tree,
        first_act_of_the_server_is_judged,
        reused_process_id_is_another_process,
        interpreters_are_judged_by_what_they_do,
    ],
}

const DESCENDANTS: &[Technique] = &[
    technique("fork", "open", "fork read {file}"),
    technique("double-fork", "open", "double-fork read {file}"),
    technique("clone-parent", "open", "clone-parent read {file}"),
    technique("vfork", "open", "vfork read {file}"),
    technique("thread", "open", "thread read {file}"),
    technique("thread-fork", "open", "thread-fork read {file}"),
    technique("dead-leader", "open", "dead-leader read {file}"),
    technique("exec", "open", "exec {actor} read {file}"),
    technique("exec-in-thread", "open", "thread exec {actor} read {file}"),
    technique("fork-of-fork", "open", "fork double-fork thread-fork fork read {file}"),
    technique("user-namespace", "open", "unshare-user , fork read {file}").optional(),
];

fn descendants_are_judged_however_they_came_about(lab: &Lab) -> Result<()> {
    GUARD.check(lab, DESCENDANTS)
}

fn leaving_the_cgroup_does_not_leave_the_tree(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let cgroup = Cgroup::new(lab)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let mut cases = Cases::new();
    for way in ["leave-cgroup", "into-cgroup"] {
        for (side, file) in [("allowed", &plain), ("forbidden", &secret)] {
            let (cgroup, file) = (cgroup.0.display(), file.display());
            cases.add(&format!("{way}.{side}"), format!("{way} {cgroup} read {file}"));
        }
    }
    let batch = cases.run(lab)?;
    for way in ["leave-cgroup", "into-cgroup"] {
        batch.refused(&format!("{way}.forbidden"))?;
        batch.worked(&format!("{way}.allowed"))?;
    }
    let secret = secret.to_string_lossy();
    ensure!(batch.events.violations().filter(|event| event.names(&secret)).count() == 2, "{batch}");
    batch.quiet_about(&plain)
}

/// A cgroup outside the monitor's, removed in the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(lab: &Lab) -> Result<Self> {
        let path = lab.cgroups()?.join(format!("elsewhere-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its last member may just be ending.
        let gone = || fs::remove_dir(&self.0).is_ok();
        let _ = crate::eventually("the cgroup is empty", gone);
    }
}

fn first_act_of_the_server_is_judged(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let outcome = lab.run(Mode::Enforce).actor(["open".as_ref(), secret.as_os_str()])?;
    outcome.events.violation("open", "file_read", &secret)?;
    ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
    let twin = lab.run(Mode::Enforce).actor(["open".as_ref(), plain.as_os_str()])?;
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    twin.events.allowed("open", &plain).map(|_| ())
}

fn reused_process_id_is_another_process(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let pid = free_process_id()?;
    let mut cases = Cases::new();
    for name in ["first", "second"] {
        cases.add(name, format!("with-pid {pid} read {}", plain.display()));
    }
    let batch = cases.run(lab)?;
    batch.worked("first")?;
    batch.worked("second")?;
    let starts: Vec<Option<u64>> = batch
        .events
        .of("open")
        .filter(|event| event.number("process.tgid") == Some(pid))
        .filter(|event| event.names(&plain.to_string_lossy()))
        .map(|event| event.number("process.start_ns"))
        .collect();
    ensure!(starts.len() == 2 && starts[0] != starts[1], "{starts:?} of {pid}\n{batch}");
    // Outside the tree the same number is nobody's: it may read what the rules deny.
    let pid = pid.to_string();
    let words = ["with-pid".as_ref(), pid.as_ref(), "read".as_ref(), secret.as_os_str()];
    let free = lab.actor_alone(words)?;
    ensure!(free.starts_with("ok"), "{free}");
    Ok(())
}

/// A number that no process has and that the kernel will not come to soon.
fn free_process_id() -> Result<u64> {
    let most: u64 = fs::read_to_string("/proc/sys/kernel/pid_max")?.trim().parse()?;
    let free = (most / 2..most).find(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true));
    free.context("every process id is in use")
}

fn interpreters_are_judged_by_what_they_do(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain\n")?, lab.file("forbidden/a", "secret\n")?);
    let mut cases = Cases::new();
    for (side, file) in [("allowed", &plain), ("forbidden", &secret)] {
        let code = format!("read line < {} && echo ok || echo denied", file.display());
        let script = lab.file(format!("allowed/script-{side}"), &code)?;
        cases.add(&format!("argument.{side}"), format!("exec /bin/sh -c '{code}'"));
        let script = script.display();
        cases.add(&format!("stdin.{side}"), format!("stdin {script} , exec /bin/sh -s"));
    }
    let batch = cases.run(lab)?;
    for way in ["argument", "stdin"] {
        batch.worked(&format!("{way}.allowed"))?;
        let line = batch.line(&format!("{way}.forbidden"));
        ensure!(line.contains("ok") != batch.enforcing, "{way}: {line}\n{batch}");
    }
    let secret = secret.to_string_lossy();
    ensure!(batch.events.violations().filter(|event| event.names(&secret)).count() == 2, "{batch}");
    batch.quiet_about(&plain)
}
