//! Processes outside the tree are out of reach: rows 11 to 13 and 20 of the threat list in the
//! documentation.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Lab, Mode, guard::results};

crate::tests! {
    both: [
        other_processes_are_out_of_reach,
        received_descriptor_is_judged_like_an_open,
    ],
}

const PROCESSES: &str = r#"
[files]
deny = ["${HOME}/forbidden/**"]
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "deny", escape = "allow", metadata = "allow" }
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

/// Name, steps, and whether the tracepoint backend judges it.
const REACHES: &[(&str, &str, bool)] = &[
    ("environ", "read /proc/PID/environ", true),
    ("task-environ", "read /proc/PID/task/PID/environ", true),
    ("mem", "proc-mem PID ADDRESS", true),
    ("second-procfs", "unshare-mount , mount-proc {mnt} , read {mnt}/PID/environ", true),
    ("vm-read", "vm-read PID ADDRESS", true),
    ("vm-write", "vm-write PID ADDRESS", true),
    ("ptrace-attach", "ptrace-attach PID", true),
    ("ptrace-seize", "ptrace-seize PID", true),
    ("pidfd-getfd", "pidfd-getfd PID 1", true),
    ("signal", "kill PID 18", true),
    ("pidfd-signal", "pidfd-signal PID 18", true),
];

fn other_processes_are_out_of_reach(lab: &Lab) -> Result<()> {
    lab.policy(PROCESSES)?;
    let victim = Victim::start(lab)?;
    let pid = victim.child.id().to_string();
    let mnt = lab.path("mnt");
    std::fs::create_dir(&mnt)?;
    let mut text = String::new();
    for (name, steps, _) in REACHES {
        let steps = steps.replace("{mnt}", &mnt.to_string_lossy());
        text.push_str(&format!("{name}.own with-child {steps}\n"));
        let steps = steps.replace("ADDRESS", &victim.address).replace("PID", &pid);
        text.push_str(&format!("{name}.other {steps}\n"));
    }
    let cases = lab.file("cases", text)?;
    let free = results(&lab.actor_alone(["batch".as_ref(), cases.as_os_str()])?);
    ensure!(free.values().all(|line| line.starts_with("ok")), "without the monitor: {free:#?}");

    let enforcing = lab.backend() == Backend::Lsm;
    let mode = if enforcing { Mode::Enforce } else { Mode::Observe };
    let outcome = lab.run(mode).actor(["batch".as_ref(), cases.as_os_str()])?;
    let said = results(&outcome.stdout);
    let mut wrong = Vec::new();
    for (name, _, judged) in REACHES {
        let [own, other] = ["own", "other"]
            .map(|side| said.get(&format!("{name}.{side}")).map_or("no result", String::as_str));
        if !own.starts_with("ok") {
            wrong.push(format!("{name}.own: {own}"));
        }
        // Reading another's environment gives EACCES where its opening is what is refused.
        if enforcing != other.starts_with("denied") {
            wrong.push(format!("{name}.other: {other}"));
        }
        let _ = judged;
    }
    let expected = REACHES.iter().filter(|(.., judged)| enforcing || *judged).count();
    let found = outcome.events.violations().filter(|event| {
        let right = ["process", "env_secret"].contains(&event.text("category"));
        right && event.number("target.tgid") == Some(victim.child.id().into())
            || event.text("path").contains(&format!("/{pid}/"))
    });
    let found = found.count();
    if found < expected {
        wrong.push(format!("{found} violations of at least {expected}"));
    }
    ensure!(wrong.is_empty(), "{wrong:#?}\n{}", outcome.events);
    Ok(())
}

fn received_descriptor_is_judged_like_an_open(lab: &Lab) -> Result<()> {
    lab.policy(PROCESSES)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    for (file, forbidden) in [(&plain, false), (&secret, true)] {
        let socket = lab.path("accomplice.sock");
        let _ = std::fs::remove_file(&socket);
        let mut accomplice =
            Command::new(lab.actor()?)
                .arg("scm-send")
                .arg(&socket)
                .arg(file)
                .stdout(Stdio::null())
                .spawn()?;
        crate::eventually("the accomplice listens", || socket.exists())?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        let outcome = lab.run(Mode::Enforce).actor(["scm-receive".as_ref(), socket.as_os_str()]);
        let _ = accomplice.kill();
        accomplice.wait()?;
        let outcome = outcome?;
        if forbidden {
            let mut violations = outcome.events.violations();
            ensure!(violations.any(|event| event.names(&file.to_string_lossy())), "{outcome}");
            ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
        } else {
            ensure!(outcome.stdout.starts_with("ok"), "{outcome}");
            outcome.events.assert_quiet()?;
        }
    }
    Ok(())
}
