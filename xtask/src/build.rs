//! `cargo xtask build`: the kernel programs, then the agent with them inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{cargo, run, say};
use crate::{setup, workspace};

/// The host's triple, spelled out: with `--target`, flags for the agent leave build scripts and
/// procedural macros alone, which cannot be linked statically.
pub const HOST: &str = "x86_64-unknown-linux-gnu";

/// Compiles the kernel programs to [`workspace::bpf_object`].
pub fn kernel_programs() -> Result<PathBuf> {
    let toolchain = setup::bpf_compiler()?;
    let built = toolchain.build()?;
    let object = workspace::bpf_object();
    place(&built, &object)?;
    Ok(object)
}

/// Builds the agent with the kernel programs inside, as target/release/mcp-monitor.
pub fn agent() -> Result<PathBuf> {
    let object = kernel_programs()?;
    let mut build = static_cargo("build");
    build.args(["--release", "--package", "mcp-monitor"]);
    build.env("MCP_MONITOR_BPF_OBJECT", &object);
    run(&mut build)?;
    let built = workspace::target().join(HOST).join("release/mcp-monitor");
    let binary = workspace::target().join("release/mcp-monitor");
    place(&built, &binary)?;
    say(format!("built {}", binary.display()));
    Ok(binary)
}

/// A cargo whose binaries are static, so that they run on any distribution and in the test images.
pub fn static_cargo(subcommand: &str) -> Command {
    let mut command = cargo();
    command.args([subcommand, "--target", HOST]);
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    command
}

/// Copies a built file to where people look for it, unless it is there already: an unchanged
/// modification time keeps cargo from building what depends on it again.
pub fn place(built: &Path, wanted: &Path) -> Result<()> {
    let new = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(wanted).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(folder) = wanted.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // Replaced, not overwritten: the old one may be running.
    let next = wanted.with_extension("next");
    fs::copy(built, &next)
        .and_then(|_| fs::rename(&next, wanted))
        .with_context(|| format!("cannot write {}", wanted.display()))
}
