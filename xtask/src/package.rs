//! `cargo xtask package`: the Debian package, made by cargo-deb. What it holds is said in
//! `monitor/Cargo.toml`, what happens when it is installed in `monitor/packaging`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{run, say};
use crate::{build, setup, workspace};

/// A version that no release before the tenth million has.
const LATER: &str = "9999999";

/// Builds the agent and packs it; the package's path.
pub fn deb() -> Result<PathBuf> {
    let (_, [manual]) = build::agent_and(["manual"])?;
    let file = pack(&manual, &workspace::target().join("debian"), &[])?;
    say(format!("packed {}", file.display()));
    Ok(file)
}

/// What the machine with systemd gets: its tests with the program that misbehaves, the package, and
/// the same as a later version.
pub fn under_test() -> Result<Vec<PathBuf>> {
    let (_, [tests, actor, manual]) = build::agent_and(["installed", "actor", "manual"])?;
    let folder = workspace::target().join("machine");
    let package = pack(&manual, &folder.join("deb"), &["--fast"])?;
    let later = ["--fast", "--deb-version", LATER];
    let later = pack(&manual, &folder.join("deb-later"), &later)?;
    Ok(vec![tests, actor, package, later])
}

/// Packs what is built into this folder, which then holds nothing else, with these options of
/// cargo-deb's. `manual` is the program that writes pages, completions and configuration.
fn pack(manual: &Path, folder: &Path, options: &[&str]) -> Result<PathBuf> {
    let made = workspace::target().join("release/package");
    for folder in [&made, folder] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    run(Command::new(manual).arg(&made))?;
    let mut pack = setup::cargo_deb()?;
    pack.args(["--quiet", "--no-build", "--strip", "--package", "mcp-monitor"]);
    run(pack.args(options).arg("--output").arg(folder))?;
    let mut files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    files.next().with_context(|| format!("cargo-deb left nothing in {}", folder.display()))
}
