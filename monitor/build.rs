//! Puts the compiled kernel programs where `aya::include_bytes_aligned!` finds them:
//! `concat!(env!("OUT_DIR"), "/mcp-monitor.bpf.o")`.
//!
//! They come from `$MCP_MONITOR_BPF_OBJECT`, or else from the workspace's `target/bpf/`, where
//! `cargo xtask build` leaves them.

use std::path::{Path, PathBuf};
use std::{env, fs};

const NAME: &str = "mcp-monitor.bpf.o";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MCP_MONITOR_BPF_OBJECT");
    let out = variable("OUT_DIR")?.join(NAME);
    let own = variable("CARGO_MANIFEST_DIR")?;
    let workspace = own.parent().unwrap_or(Path::new("."));
    // The copy of the rules inside the binary; its macro does not watch the files.
    println!("cargo::rerun-if-changed={}", workspace.join("rules").display());
    let object = variable("MCP_MONITOR_BPF_OBJECT")
        .unwrap_or_else(|_| workspace.join("target/bpf").join(NAME));
    println!("cargo::rerun-if-changed={}", object.display());
    fs::copy(&object, &out).map(drop).map_err(|error| {
        format!(
            "{}: {error}: run `cargo xtask build`, which compiles it, or name one in \
             MCP_MONITOR_BPF_OBJECT",
            object.display()
        )
    })
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"))
}
