//! A process stays in its tree however it came about: rows 3, 14, 15, 38 and 42 of the threat
//! list in the documentation.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{
    Lab, Mode,
    behaviour::opens::DENYING,
    guard::{Guard, Technique, technique, unfurnished},
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

const GUARD: Guard<'_> = Guard {
    policy: DENYING,
    allowed: "allowed",
    forbidden: "forbidden",
    categories: &["file_read"],
    furnish: unfurnished,
    refuses: false,
};

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
    for way in ["leave-cgroup", "into-cgroup"] {
        let words = |file| [way.as_ref(), cgroup.0.as_os_str(), "read".as_ref(), file];
        let outcome = lab.run(Mode::Enforce).actor(words(secret.as_os_str()))?;
        outcome.events.violation("open", "file_read", &secret)?;
        ensure!(!outcome.stdout.contains("ok"), "{way}: {outcome}");
        let twin = lab.run(Mode::Enforce).actor(words(plain.as_os_str()))?;
        ensure!(twin.stdout.starts_with("ok"), "{way}: {twin}");
        twin.events.allowed("open", &plain)?;
    }
    Ok(())
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
    for _ in 0..5 {
        let outcome = lab.run(Mode::Enforce).actor(["open".as_ref(), secret.as_os_str()])?;
        outcome.events.violation("open", "file_read", &secret)?;
        ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
    }
    let twin = lab.run(Mode::Enforce).actor(["open".as_ref(), plain.as_os_str()])?;
    twin.events.allowed("open", &plain).map(|_| ())
}

fn reused_process_id_is_another_process(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let pid = free_process_id()?;
    let twice = format!(
        "with-pid {pid} read {plain}\nwith-pid {pid} read {plain}",
        plain = plain.display()
    );
    let cases = lab.file("cases", twice.replace("with-pid", "x with-pid"))?;
    let outcome = lab.run(Mode::Enforce).actor(["batch".as_ref(), cases.as_os_str()])?;
    let starts: Vec<Option<u64>> = outcome
        .events
        .of("open")
        .filter(|event| event.number("process.tgid") == Some(pid))
        .filter(|event| event.names(&plain.to_string_lossy()))
        .map(|event| event.number("process.start_ns"))
        .collect();
    ensure!(starts.len() == 2 && starts[0] != starts[1], "{starts:?} of {pid}: {outcome}");
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
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    for (file, forbidden) in [(&plain, false), (&secret, true)] {
        let code = format!("read line < {}; echo \"got $line\"", file.display());
        let script = lab.file("script", &code)?;
        let by_argument = lab.run(Mode::Enforce).command(["/bin/sh", "-c", &code])?;
        let by_stdin =
            lab.run(Mode::Enforce).stdin(fs::File::open(script)?).command(["/bin/sh", "-s"])?;
        for outcome in [by_argument, by_stdin] {
            if forbidden {
                outcome.events.violation("open", "file_read", file)?;
                ensure!(!outcome.stdout.contains("secret"), "{outcome}");
            } else {
                outcome.events.allowed("open", file)?;
                ensure!(outcome.stdout.contains("got plain"), "{outcome}");
            }
        }
    }
    Ok(())
}
