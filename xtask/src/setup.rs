//! `cargo xtask setup`: what the other tasks need from the machine.
//!
//! Looks first and installs only what is missing, so that it can be run again at any time and
//! costs a moment when everything is there. Other tasks call the part they need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{as_root, cargo, find, output, path_with, run, say};
use crate::ebpf::{self, Toolchain};
use crate::workspace;

/// Debian's compiler with a ready BPF `core`, and the LLVM that bpf-linker is built against.
const BPF_PACKAGES: [&str; 4] =
    ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];
const LLVM: &str = "/usr/lib/llvm-22";
/// The kernels of the matrix, what builds and boots images with them, and the resolver that tests
/// ask.
const MACHINE_PACKAGES: [&str; 8] = [
    "qemu-system-x86",
    "linux-image-cloud-amd64",
    "linux-image-6.12-cloud-amd64",
    "e2fsprogs",
    "xz-utils",
    "busybox",
    "dnsmasq-base",
    "mmdebstrap",
];
/// Packages that hold programs of their names.
const PODMAN_PACKAGES: [&str; 3] = ["podman", "crun", "runc"];
/// The version that `docs/fleet.md` names.
const DUCKDB: &str = "2.0.0";
const BPF_LINKER: &str = "bpf-linker@0.13.0";
const CARGO_DEB: &str = "cargo-deb@3.8.0";

/// Installs whatever any task needs.
pub fn everything() -> Result<()> {
    let toolchain = bpf_compiler()?;
    say(format!("kernel programs are compiled by {}", toolchain.name()));
    machines()?;
    say("set up: `cargo xtask build` builds, `cargo xtask test` tests");
    Ok(())
}

/// A compiler for the kernel programs, installed if there is none.
pub fn bpf_compiler() -> Result<Toolchain> {
    let missing = match Toolchain::detect() {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    if find("apt-get").is_none() {
        bail!("{missing}");
    }
    install(&BPF_PACKAGES)?;
    if ebpf::own_linker().is_none() {
        install_linker()?;
    }
    Toolchain::detect().map_err(|missing| anyhow::anyhow!("{missing}"))
}

/// cargo-deb, which makes the package.
pub fn cargo_deb() -> Result<Command> {
    let program = workspace::target().join("tools/bin/cargo-deb");
    if !program.is_file() {
        run(tool(CARGO_DEB).arg("--no-default-features"))?;
    }
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    Ok(command)
}

/// QEMU, the kernels, and the tools that make their disk image.
pub fn machines() -> Result<()> {
    if find("apt-get").is_none() {
        let tools = ["qemu-system-x86_64", "mke2fs", "xz", "busybox", "dnsmasq", "mmdebstrap"];
        let missing: Vec<_> = tools.into_iter().filter(|tool| find(tool).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        bail!("install {}: the virtual machines need them", missing.join(", "));
    }
    install(&MACHINE_PACKAGES)
}

/// A C++ compiler, for libFuzzer.
pub fn cplusplus() -> Result<()> {
    match (find("c++"), find("apt-get")) {
        (Some(_), _) => Ok(()),
        (None, Some(_)) => install(&["g++"]),
        (None, None) => bail!("install a C++ compiler: libFuzzer is compiled by it"),
    }
}

/// Node.js and npm, for the real server. A person's own Node.js in HOME would not do: the demo's
/// HOME is a fixture, and programs elsewhere are outside the server's rules.
pub fn node() -> Result<()> {
    let has_node =
        ["/usr/bin/node", "/usr/local/bin/node"].iter().any(|node| Path::new(node).exists());
    match (has_node && find("npm").is_some(), find("apt-get")) {
        (true, _) => Ok(()),
        (false, Some(_)) => install(&["nodejs", "npm"]),
        (false, None) => {
            bail!("install Node.js and npm for the whole system: the real MCP server needs them")
        }
    }
}

/// Chromium, in which the tests open reports. Where it cannot be had they say that they were skipped.
pub fn browser() {
    let has_one = ["chromium", "chromium-browser", "google-chrome"];
    if has_one.into_iter().any(|program| find(program).is_some()) {
        return;
    }
    let installed = match find("apt-get") {
        Some(_) => install(&["chromium", "fonts-dejavu-core"]),
        None => Err(anyhow::anyhow!("install chromium")),
    };
    if let Err(error) = installed {
        say(format!("no browser to test reports with: {error:#}"));
    }
}

/// podman, by which the tests start servers in containers: with runc here, with crun on the test
/// machines. Where it cannot be had they say that they were skipped.
pub fn podman() {
    if PODMAN_PACKAGES.into_iter().all(|program| find(program).is_some()) {
        return;
    }
    let installed = match find("apt-get") {
        Some(_) => install(&PODMAN_PACKAGES),
        None => Err(anyhow::anyhow!("install podman, crun and runc")),
    };
    if let Err(error) = installed {
        say(format!("no podman to test containers with: {error:#}"));
    }
}

/// A Python with DuckDB, which reads recordings of many hosts: the tests run `docs/fleet.md` in it.
/// `None` where it cannot be had; the tests then say that they were skipped.
pub fn duckdb() -> Option<PathBuf> {
    let folder = workspace::target().join("duckdb").join(DUCKDB);
    let python = folder.join("bin/python3");
    let has_it = || output(Command::new(&python).args(["-c", "import duckdb"])).is_some();
    if has_it() {
        return Some(python);
    }
    say(format!("pip installs duckdb {DUCKDB} into {}", folder.display()));
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&folder)).and_then(|()| {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        run(pip.arg(format!("duckdb=={DUCKDB}")))
    });
    match made {
        Ok(()) => Some(python),
        Err(error) => {
            say(format!("no DuckDB to test with: {error:#}"));
            None
        }
    }
}

/// Debian's Prometheus, which the tests have scrape the agent: taken out of its package and not
/// installed, so that no service begins. `None` where it cannot be had; the tests then say that they
/// were skipped.
pub fn prometheus() -> Option<PathBuf> {
    let folder = workspace::target().join("prometheus");
    let programs = folder.join("usr/bin");
    if programs.join("promtool").is_file() {
        return Some(programs);
    }
    say(format!("taking Debian's prometheus apart into {}", folder.display()));
    let taken = std::fs::create_dir_all(&folder).map_err(anyhow::Error::from).and_then(|()| {
        run(apt_get().arg("update"))?;
        run(Command::new("apt-get").args(["download", "prometheus"]).current_dir(&folder))?;
        let script = "dpkg-deb --extract prometheus_*.deb .";
        run(Command::new("sh").args(["-c", script]).current_dir(&folder))
    });
    match taken {
        Ok(()) => Some(programs),
        Err(error) => {
            say(format!("no Prometheus to test with: {error:#}"));
            None
        }
    }
}

/// Where this machine gets Debian's packages from, as lines of a sources.list.
pub fn debian_archives() -> Result<Vec<String>> {
    let known = || -> Vec<String> {
        let format = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)";
        let mut list = Command::new("apt-get");
        list.args(["indextargets", "--format", format, "Origin: Debian", "Created-By: Packages"]);
        output(&mut list).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    if known().is_empty() {
        run(apt_get().arg("update"))?;
    }
    match known() {
        lines if lines.is_empty() => bail!("apt knows no archive of Debian's"),
        lines => Ok(lines),
    }
}

/// Installs those of these Debian packages that are missing.
fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(format!("installing {}", missing.join(" ")));
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing))
}

fn installed(package: &str) -> bool {
    let status = ["-W", "-f=${db:Status-Status}", package];
    output(Command::new("dpkg-query").args(status)).as_deref() == Some("installed")
}

fn apt_get() -> Command {
    let mut command = as_root("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn install_linker() -> Result<()> {
    let llvm = Path::new(LLVM);
    let mut install = tool(BPF_LINKER);
    install.args(["--no-default-features", "--features", "llvm-22"]);
    install.env("LLVM_PREFIX", LLVM).env("PATH", path_with(&[&llvm.join("bin")])?);
    run(&mut install)
}

/// Compiles a tool into target/tools. Not optimised, which takes three times as long: none of them
/// is used for more than moments, or does its work itself.
fn tool(name: &str) -> Command {
    say(format!("compiling {name} into target/tools (a minute or two)"));
    let mut install = cargo();
    install.args(["install", "--quiet", "--locked", name, "--root"]);
    install.arg(workspace::target().join("tools"));
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    install
}
