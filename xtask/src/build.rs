//! `cargo xtask build`: the kernel programs, then the agent with them inside.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{cargo, run, say};
use crate::{setup, workspace};

/// The host's triple, spelled out: with `--target`, flags for the agent leave build scripts and
/// procedural macros alone, which cannot be linked statically.
pub const HOST: &str = "x86_64-unknown-linux-gnu";
const AGENT: &str = "mcp-monitor";

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
    let (agent, []) = agent_and([])?;
    say(format!("built {}", agent.display()));
    Ok(agent)
}

/// Builds the agent and these programs of the tests' crate; their paths.
///
/// cargo unites the features of the packages that a command names. Both are named always, so that
/// the agent is the same one, and compiled once, whatever is built with it.
pub fn agent_and<const N: usize>(others: [&str; N]) -> Result<(PathBuf, [PathBuf; N])> {
    let object = kernel_programs()?;
    let mut build = cargo();
    build.args(["build", "--release", "--target", HOST]);
    build.args(["--package", AGENT, "--package", "end-to-end", "--bin", AGENT]);
    build.args(others.iter().flat_map(|program| ["--bin", program]));
    // Static, so that they run on any distribution and in the test images.
    build.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    run(build.env("MCP_MONITOR_BPF_OBJECT", &object))?;
    let built = workspace::target().join(HOST).join("release");
    let agent = workspace::target().join("release").join(AGENT);
    place(&built.join(AGENT), &agent)?;
    Ok((agent, others.map(|program| built.join(program))))
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
