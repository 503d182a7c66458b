//! Puts the compiled kernel programs where `aya::include_bytes_aligned!` finds them:
//! `concat!(env!("OUT_DIR"), "/mcp-monitor.bpf.o")`.
//!
//! They come from `$MCP_MONITOR_BPF_OBJECT`, or else from the workspace's `target/bpf/`, where
//! `cargo xtask build` leaves them.

use std::hash::{DefaultHasher, Hasher as _};
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
    let common = workspace.join("monitor-common/src");
    println!("cargo::rerun-if-changed={}", common.display());
    println!("cargo::rustc-env=MCP_MONITOR_LAYOUT={:016x}", layout(&common)?);
    fs::copy(&object, &out).map(drop).map_err(|error| {
        format!(
            "{}: {error}: run `cargo xtask build`, which compiles it, or name one in \
             MCP_MONITOR_BPF_OBJECT",
            object.display()
        )
    })
}

/// Names what the two sides agree on about the contents of maps: all that the shared crate says.
fn layout(sources: &Path) -> Result<u64, String> {
    let failed = |error| format!("{}: {error}", sources.display());
    let entries = fs::read_dir(sources).map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        hasher.write(&fs::read(file).map_err(failed)?);
    }
    Ok(hasher.finish())
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"))
}
