//! What a recording is worth afterwards: it is signed, every change is found, a full disk costs
//! lines and nothing else, and what shall not be in it is not.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::{Lab, Mode};

crate::tests! {
    both: [
        recording_is_signed_and_every_change_is_found,
        full_disk_costs_lines_and_neither_the_server_nor_the_chain,
        arguments_are_recorded_as_the_privacy_setting_says,
    ],
}

fn verify(lab: &Lab, path: &Path, options: &[&str]) -> Result<Output> {
    let mut verify = Command::new(lab.monitor()?);
    verify.arg("verify").arg(path).arg("--key").arg(lab.key().with_extension("pub")).args(options);
    verify.output().context("cannot start mcp-monitor")
}

fn says(output: &Output, code: i32, text: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(code) && said.contains(text), "{text:?}: {output:?}");
    Ok(())
}

fn recording_is_signed_and_every_change_is_found(lab: &Lab) -> Result<()> {
    let outcome = lab.run(Mode::Observe).command(["/bin/cat", "/etc/passwd"])?;
    let path = lab.folder().join("events-1.jsonl");
    says(&verify(lab, &path, &[])?, 0, "with a trusted key")?;
    let last = outcome.events.all().last().context("no lines")?.text("chain").to_owned();
    ensure!(outcome.stderr.contains(&last), "the last checkpoint is told: {outcome}");
    says(&verify(lab, &path, &["--checkpoint", &last])?, 0, "anchored at line")?;

    let text = fs::read_to_string(&path)?;
    let changed = lab.folder().join("changed.jsonl");
    fs::write(&changed, text.replacen("/etc/passwd", "/etc/passwb", 1))?;
    says(&verify(lab, &changed, &[])?, 1, "the chain does not fit")?;
    let lines: Vec<&str> = text.lines().collect();
    let cut = lines[..lines.len() - 1].join("\n") + "\n";
    fs::write(&changed, cut)?;
    says(&verify(lab, &changed, &[])?, 1, "nothing in it is signed")?;
    says(&verify(lab, &changed, &["--checkpoint", &last])?, 1, "no line has the chain")?;
    says(&verify(lab, &lab.folder().join("missing.jsonl"), &[])?, 4, "")
}

/// Opens far more files than a small disk holds lines about.
const MANY_OPENS: &str =
    "i=0; while [ $i -lt 2000 ]; do : < /etc/passwd; i=$((i+1)); done; echo done";

fn full_disk_costs_lines_and_neither_the_server_nor_the_chain(lab: &Lab) -> Result<()> {
    for (size, full) in [("128k", true), ("16m", false)] {
        let disk = lab.folder().join(format!("disk-{size}"));
        fs::create_dir(&disk)?;
        let recording = disk.join("events.jsonl");
        let mut run = Command::new(lab.monitor()?);
        run.args(["run", "--backend", &lab.backend().to_string(), "--events"]).arg(&recording);
        run.arg("--key").arg(lab.key()).args(["--", "/bin/sh", "-c", MANY_OPENS]);
        for name in ["SUDO_UID", "SUDO_GID", "SUDO_USER"] {
            run.env_remove(name);
        }
        let copy = lab.folder().join(format!("copy-{size}.jsonl"));
        let work = || -> Result<Output> {
            // Seen by this thread and what it starts; gone with them.
            // SAFETY: unshare takes flags only; this thread opens no more than what is said here.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
            ensure!(unshared == 0, "unshare: {}", std::io::Error::last_os_error());
            mount(&["--make-rprivate", "/"])?;
            mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path(&disk)?])?;
            let output = run.output()?;
            fs::copy(&recording, &copy)?;
            Ok(output)
        };
        let output = thread::scope(|scope| scope.spawn(work).join());
        let output = output.map_err(|_| anyhow::anyhow!("the test's thread panicked"))??;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && output.stdout == b"done\n", "{output:?}");
        ensure!(stderr.contains("events are judged as before") == full, "{size}: {stderr}");
        ensure!(stderr.contains("events are not in it: No space left") == full, "{size}: {stderr}");
        // With no room there is none for a checkpoint either.
        let (code, text) = if full { (1, "nothing in it is signed") } else { (0, "trusted key") };
        let verified = verify(lab, &copy, &[])?;
        says(&verified, code, text)?;
        let said = String::from_utf8_lossy(&verified.stdout);
        ensure!(!said.contains(": line "), "{size}: no line is wrong: {said}");
    }
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a plain path")
}

fn mount(arguments: &[&str]) -> Result<()> {
    let output = Command::new("mount").args(arguments).output()?;
    ensure!(output.status.success(), "mount {arguments:?}: {output:?}");
    Ok(())
}

fn arguments_are_recorded_as_the_privacy_setting_says(lab: &Lab) -> Result<()> {
    for (number, (privacy, kept, hashed)) in
        [("full", true, false), ("hashed", false, true), ("off", false, false)].into_iter().enumerate()
    {
        let outcome = lab
            .run(Mode::Observe)
            .options(["--privacy", privacy])
            .command(["/bin/sh", "-c", "exit 0", "s3cret-argument"])?;
        let text = fs::read_to_string(lab.folder().join(format!("events-{}.jsonl", number + 1)))?;
        ensure!(text.contains("s3cret-argument") == kept, "{privacy}: {outcome}");
        ensure!(text.contains("hashed:") == hashed, "{privacy}: {outcome}");
        ensure!(outcome.events.header()?.text("privacy") == privacy, "{privacy}: {outcome}");
    }
    Ok(())
}
