//! The compiler of the kernel programs.
//!
//! Two ways lead to a `core` for `bpfel-unknown-none`: rustup's nightly with `rust-src`, which
//! builds it, or Debian's `rustc-web`, whose package holds it ready made. Both link with
//! bpf-linker, which must be built against the compiler's LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{find, output, path_with};
use crate::workspace;

const TARGET: &str = "bpfel-unknown-none";
/// The binary of the kernel programs' crate.
const BINARY: &str = "mcp-monitor";
/// The binary of its feature `bench`.
const EMPTY: &str = "empty";
/// Line information and BTF for the verifier's messages and for the maps' types.
const FLAGS: [&str; 2] = ["-Cdebuginfo=2", "-Clink-arg=--btf"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A compiler for the BPF target.
pub enum Toolchain {
    /// rustup's nightly with `rust-src`, and the person's own bpf-linker.
    Nightly { linker: PathBuf },
    /// Debian's compiler with its ready BPF `core`, and the bpf-linker of [`crate::setup`].
    Debian { linker: PathBuf },
}

impl Toolchain {
    /// The compiler this machine has, or what keeps each of the two from being used.
    pub fn detect() -> Result<Self, Missing> {
        let nightly = nightly_lacks();
        if let (true, Some(linker)) = (nightly.is_empty(), find("bpf-linker")) {
            return Ok(Self::Nightly { linker });
        }
        let debian = debian_lacks();
        match own_linker() {
            Some(linker) if debian.is_empty() => Ok(Self::Debian { linker }),
            own => Err(Missing { nightly, debian, linker: own.is_none() }),
        }
    }

    /// The name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nightly { .. } => "rustup's nightly",
            Self::Debian { .. } => "Debian's rustc-web",
        }
    }

    /// `cargo SUBCOMMAND --target bpfel-unknown-none` in the kernel programs' workspace.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut command;
        match self {
            Self::Nightly { linker } => {
                command = Command::new("cargo");
                command.args(["+nightly", subcommand, "-Z", "build-std=core"]);
                command.env("PATH", path_with(&[linker.parent().unwrap_or(Path::new("/"))])?);
            }
            Self::Debian { linker } => {
                command = Command::new(DEBIAN_CARGO);
                command.arg(subcommand);
                command.env("RUSTC", DEBIAN_RUSTC);
                command.env("RUSTDOC", "/usr/bin/rustdoc");
                // aya-ebpf turns on a feature of the compiler that is not stable.
                command.env("RUSTC_BOOTSTRAP", "1");
                let linker = linker.parent().unwrap_or(Path::new("/"));
                command.env("PATH", path_with(&[linker, Path::new("/usr/bin")])?);
            }
        }
        command.args(["--target", TARGET]);
        command.current_dir(workspace::root().join("monitor-ebpf"));
        command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
        command.env("CARGO_TARGET_DIR", workspace::target().join("ebpf"));
        // What rustup and a person's own settings say is for another compiler.
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTFLAGS"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Compiles the kernel programs and returns the linked object.
    pub fn build(&self) -> Result<PathBuf> {
        self.build_binary(BINARY, &[])
    }

    /// Compiles the empty programs that the agent's are measured against.
    pub fn build_empty(&self) -> Result<PathBuf> {
        self.build_binary(EMPTY, &["--features", "bench"])
    }

    fn build_binary(&self, name: &str, features: &[&str]) -> Result<PathBuf> {
        let mut build = self.cargo("build")?;
        crate::command::run(build.args(["--release", "--bin", name]).args(features))?;
        let object = workspace::target().join("ebpf").join(TARGET).join("release").join(name);
        if !object.is_file() {
            bail!("the kernel programs were built, but {} is not there", object.display());
        }
        Ok(object)
    }
}

/// Why neither compiler can be used.
pub struct Missing {
    /// What the nightly way lacks, apart from bpf-linker.
    pub nightly: Vec<String>,
    /// What the Debian way lacks, apart from bpf-linker.
    pub debian: Vec<String>,
    /// Whether there is no bpf-linker of our own.
    pub linker: bool,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let linker = "bpf-linker (cargo install bpf-linker@0.13.0)".to_owned();
        let list = |missing: &[String]| {
            missing.iter().chain(self.linker.then_some(&linker)).cloned().collect::<Vec<_>>()
        };
        writeln!(f, "no compiler for the kernel programs. Either complete rustup's nightly:")?;
        for missing in list(&self.nightly) {
            writeln!(f, "  {missing}")?;
        }
        writeln!(f, "or Debian's rustc-web (`cargo xtask setup` does it on Debian 12):")?;
        for missing in list(&self.debian) {
            writeln!(f, "  {missing}")?;
        }
        Ok(())
    }
}

/// The bpf-linker that `cargo xtask setup` installs.
pub fn own_linker() -> Option<PathBuf> {
    Some(workspace::target().join("tools/bin/bpf-linker")).filter(|linker| linker.is_file())
}

fn nightly_lacks() -> Vec<String> {
    let mut rustc = Command::new("rustc");
    rustc.args(["+nightly", "--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN");
    let Some(sysroot) = output(&mut rustc) else {
        return vec!["the nightly toolchain (rustup toolchain install nightly)".to_owned()];
    };
    if Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Vec::new();
    }
    vec!["rust-src (rustup component add rust-src --toolchain nightly)".to_owned()]
}

fn debian_lacks() -> Vec<String> {
    let parts = [
        (DEBIAN_RUSTC, "rustc-web"),
        (DEBIAN_CARGO, "cargo-web"),
        (DEBIAN_CORE, "libstd-rust-web-dev-bpf"),
    ];
    parts
        .iter()
        .filter(|(path, _)| !Path::new(path).exists())
        .map(|(path, package)| format!("{path} (apt-get install {package})"))
        .collect()
}
