//! What the steps ask the machine, and how.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long anything may take on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a line of shell and returns what it says; anything but success is an error.
pub fn sh(line: &str) -> Result<String> {
    let output = try_sh(line)?;
    let said = said(&output);
    ensure!(output.status.success(), "`{line}`: {}: {said}", output.status);
    Ok(said)
}

/// Runs a line of shell, whatever comes of it.
pub fn try_sh(line: &str) -> Result<Output> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).stdin(Stdio::null()).current_dir("/");
    shell.env("DEBIAN_FRONTEND", "noninteractive").output().context("cannot start /bin/sh")
}

/// Standard output and standard error.
pub fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > end {
            bail!("after {PATIENCE:?} still not: {what}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A property of the unit.
pub fn property(name: &str) -> Result<String> {
    sh(&format!("systemctl show --value --property {name} mcp-monitor"))
}

/// What `status` says.
pub fn status() -> Result<Value> {
    Ok(serde_json::from_str(&sh("mcp-monitor status --json")?)?)
}

/// Lines of the journal with these matches, as objects.
pub fn journal(matches: &str) -> Result<Vec<Value>> {
    let text = sh(&format!("journalctl --sync; journalctl --quiet --output json {matches}"))?;
    text.lines().map(|line| serde_json::from_str(line).context("the journal")).collect()
}

/// The packages beside this program: the version as it is, then the later one.
pub fn packages() -> Result<[PathBuf; 2]> {
    let own = env::current_exe()?;
    let folder = own.parent().context("a folder")?;
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut packages: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|name| name == "deb")).collect();
    // The later version's number is all nines.
    packages.sort();
    packages.try_into().ok().context("two packages beside the tests")
}
