//! `cargo xtask check`: formatting, lints and documentation, with every warning an error.

use anyhow::{Result, bail};

use crate::command::{cargo, run, say};
use crate::ebpf::Toolchain;
use crate::{build, setup, workspace};

/// Checks the workspace, then the kernel programs with their own compiler.
pub fn everything() -> Result<()> {
    let failed: Vec<_> =
        each()?.into_iter().filter_map(|(name, clean)| (!clean).then_some(name)).collect();
    if !failed.is_empty() {
        bail!("not clean: {}", failed.join(", "));
    }
    say("clean");
    Ok(())
}

/// Each check, and whether it found nothing; what it found has been said.
pub fn each() -> Result<Vec<(&'static str, bool)>> {
    let toolchain = setup::bpf_compiler()?;
    // The agent's build script wants them.
    build::kernel_programs()?;
    let checks = [
        ("formatting", formatting()),
        ("lints", lints()),
        ("documentation", documentation()),
        ("kernel programs", kernel_programs(&toolchain)),
    ];
    let clean = |(name, result): (&'static str, Result<()>)| {
        let result = result.inspect_err(|error| say(format!("{name}: {error:#}")));
        (name, result.is_ok())
    };
    Ok(checks.into_iter().map(clean).collect())
}

fn formatting() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["fmt", "--check", "--manifest-path"]).arg("monitor-ebpf/Cargo.toml"))
}

fn lints() -> Result<()> {
    run(cargo()
        .args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"])
        .env("MCP_MONITOR_BPF_OBJECT", workspace::bpf_object()))
}

fn documentation() -> Result<()> {
    run(cargo()
        .args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"])
        .env("MCP_MONITOR_BPF_OBJECT", workspace::bpf_object())
        .env("RUSTDOCFLAGS", "-Dwarnings"))
}

fn kernel_programs(toolchain: &Toolchain) -> Result<()> {
    match toolchain {
        Toolchain::Nightly { .. } => {
            run(toolchain.cargo("clippy")?.args(["--release", "--", "-Dwarnings"]))?;
        }
        Toolchain::Debian { .. } => {
            say("no lints for the kernel programs: Debian's rustc-web has no clippy");
            // A compiler that says no more than it did when it last built says nothing at all, so
            // the crate itself is compiled again.
            run(toolchain.cargo("rustc")?.args(["--release", "--", "-Dwarnings"]))?;
        }
    }
    run(toolchain.cargo("doc")?.args(["--quiet", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings"))
}
