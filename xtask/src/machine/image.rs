//! The disk image of the test machines: the programs under test, a shell, the kernels' modules.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Kernel;
use crate::command::{as_root, find, output, run, say};
use crate::workspace;

/// Where the tests expect each other and the agent.
const TESTS: &str = "usr/lib/mcp-monitor-tests";
/// Where init tells the tests to find the real servers.
const REAL_SERVERS: &str = "usr/lib/real-servers";
/// Kernel modules that tests need and Debian does not build in.
const MODULES: [&str; 1] = ["overlay"];
/// Room for what the tests write, as part of the image.
const ROOM_MB: u64 = 256;

/// Builds the image with these programs, which must be static, and with the real servers in this
/// folder, if any, and Node.js for them. Returns its path.
pub fn build(programs: &[PathBuf], servers: Option<&Path>) -> Result<PathBuf> {
    let root = workspace::target().join("machine/root");
    let image = workspace::target().join("machine/image.ext4");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot clear {}", root.display()))?;
    }
    skeleton(&root)?;
    for program in programs {
        let name = program.file_name().context("a program without a name")?;
        copy(program, &root.join(TESTS).join(name))?;
    }
    symlink(Path::new("/").join(TESTS).join("init"), root.join("init"))?;
    shell(&root)?;
    resolver(&root)?;
    podman(&root)?;
    if let Some(servers) = servers {
        real_servers(&root, servers)?;
    }
    for kernel in Kernel::ALL {
        modules(&root, &kernel.release()?)?;
    }
    make(&root, &image)?;
    Ok(image)
}

/// Folders as Debian has them, with `/bin` and `/lib` merged into `/usr`.
fn skeleton(root: &Path) -> Result<()> {
    let folders = [
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "root",
        "home/dev",
        "etc",
        "var/lib",
        "var/tmp",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        TESTS,
        "modules",
    ];
    for folder in folders {
        fs::create_dir_all(root.join(folder))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for folder in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o1777))?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\n\
                  dev:x:1000:1000:dev:/home/dev:/bin/sh\n\
                  nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    fs::write(root.join("etc/passwd"), passwd)?;
    fs::write(root.join("etc/group"), "root:x:0:\ndev:x:1000:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    Ok(())
}

/// busybox under the names of its tools, and dash as `/bin/sh`, as Debian has it.
fn shell(root: &Path) -> Result<()> {
    let busybox = find("busybox").context("busybox is missing: run `cargo xtask setup`")?;
    with_libraries(root, &busybox, "usr/bin/busybox")?;
    let tools = output(Command::new(&busybox).arg("--list")).context("busybox --list failed")?;
    for tool in tools.lines().filter(|tool| !["busybox", "sh", "init"].contains(tool)) {
        symlink("busybox", root.join("usr/bin").join(tool))?;
    }
    match find("dash") {
        Some(dash) => {
            with_libraries(root, &dash, "usr/bin/dash")?;
            symlink("dash", root.join("usr/bin/sh"))?;
        }
        None => symlink("busybox", root.join("usr/bin/sh"))?,
    }
    Ok(())
}

/// A resolver, and what looks names up by the C library.
fn resolver(root: &Path) -> Result<()> {
    for (program, place) in [("dnsmasq", "usr/sbin/dnsmasq"), ("getent", "usr/bin/getent")] {
        let found = find(program)
            .with_context(|| format!("{program} is missing: run `cargo xtask setup`"))?;
        with_libraries(root, &found, place)?;
    }
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    fs::write(root.join("etc/resolv.conf"), "")?;
    Ok(())
}

/// podman with one runtime, and what it is configured by; where there is none, its tests say that
/// they were skipped.
fn podman(root: &Path) -> Result<()> {
    const PROGRAMS: [&str; 3] = ["podman", "conmon", "crun"];
    let found: Vec<_> = PROGRAMS.into_iter().filter_map(find).collect();
    if found.len() < PROGRAMS.len() {
        return Ok(());
    }
    for (program, path) in PROGRAMS.into_iter().zip(found) {
        with_libraries(root, &path, &format!("usr/bin/{program}"))?;
    }
    for folder in ["etc/containers", "usr/share/containers"] {
        let (from, place) = (Path::new("/").join(folder), root.join(folder));
        if from.is_dir() {
            fs::create_dir_all(place.parent().context("a folder")?)?;
            run(Command::new("cp").arg("-aL").arg(from).arg(place))?;
        }
    }
    Ok(())
}

fn real_servers(root: &Path, servers: &Path) -> Result<()> {
    let node = find("node").context("node is missing: run `cargo xtask setup`")?;
    // A link, or a version manager's script, is no program that would start over there.
    let node = output(Command::new(&node).args(["-p", "process.execPath"]))
        .with_context(|| format!("{} does not say where it is", node.display()))?;
    with_libraries(root, Path::new(&node), "usr/bin/node")?;
    run(Command::new("cp").arg("-a").arg(servers).arg(root.join(REAL_SERVERS)))
}

/// Copies a program with the libraries that the dynamic loader finds for it.
fn with_libraries(root: &Path, program: &Path, place: &str) -> Result<()> {
    copy(program, &root.join(place))?;
    // A static program has none: ldd fails then.
    let libraries = output(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), &root.join(library.trim_start_matches('/')))?;
    }
    Ok(())
}

/// Puts the modules of a kernel into the root directory of a machine.
pub fn modules(root: &Path, release: &str) -> Result<()> {
    let folder = root.join("modules").join(release);
    fs::create_dir_all(&folder)?;
    for name in MODULES {
        let listed = Path::new("/lib/modules").join(release);
        let files =
            output(Command::new("find").arg(&listed).args(["-name", &format!("{name}.ko*")]));
        let files = files.unwrap_or_default();
        let file = files.lines().next().map(PathBuf::from);
        let file = file.with_context(|| format!("{} has no {name}.ko", listed.display()))?;
        let place = folder.join(format!("{name}.ko"));
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => copy(&file, &place)?,
            Some("xz") => {
                let mut unpack = Command::new("xz");
                unpack.arg("-dc").arg(&file).stdout(Stdio::from(File::create(&place)?));
                run(&mut unpack)?;
            }
            _ => bail!("{} is packed in a way we cannot unpack", file.display()),
        }
    }
    Ok(())
}

/// Copies a file, with the folders that it lies in.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Makes the image of what is in a folder, which may be root's.
pub fn make(root: &Path, image: &Path) -> Result<()> {
    let used = output(as_root("du").args(["-sm", "--apparent-size"]).arg(root));
    let used = used.as_deref().and_then(|line| line.split_whitespace().next());
    let used: u64 = used.and_then(|megabytes| megabytes.parse().ok()).context("du failed")?;
    let mke2fs = find("mke2fs").context("mke2fs is missing: run `cargo xtask setup`")?;
    File::create(image)
        .and_then(|file| file.set_len((used + used / 4 + ROOM_MB) << 20))
        .with_context(|| format!("cannot write {}", image.display()))?;
    say(format!("image of {used} MB for the test machines"));
    let mut make = as_root(mke2fs);
    make.args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(root).arg(image);
    run(&mut make)
}
