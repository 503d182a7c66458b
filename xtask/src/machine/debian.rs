//! The disk image of a machine that Debian's own systemd boots, from Debian's packages: what is
//! installed there is installed as people do it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Kernel, image};
use crate::command::{as_root, run, say};
use crate::{setup, workspace};

/// What is on it besides what every Debian has.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,passwd,kmod,podman,crun,uidmap,libpam-systemd,\
    dbus-user-session";
/// What nobody reads there.
const UNREAD: &str = "rm -rf \"$1\"/usr/share/doc \"$1\"/usr/share/locale \"$1\"/usr/share/man";
/// Where the tests and the packages under test lie.
const TESTS: &str = "opt/mcp-monitor-tests";
/// Runs what stands behind `--` of the kernel's command line, as `init` does on the other machines.
const START: &str = "#!/bin/sh\n\
    exec >/dev/ttyS1 2>&1\n\
    stty -F /dev/ttyS1 raw\n\
    set -- $(sed 's/.* -- //' /proc/cmdline)\n\
    insmod /modules/$(uname -r)/overlay.ko\n\
    HOME=/root PATH=/opt/mcp-monitor-tests:$PATH \"$@\"\n\
    echo \"init: exit code $?\"\n\
    systemctl poweroff --force\n";
const UNIT: &str = "[Unit]\nDescription=Tests of the installed package\n\
    [Service]\nType=simple\nExecStart=/opt/mcp-monitor-tests/start\n";
/// Terminals that nobody logs in on.
const MASKED: [&str; 3] = ["getty@.service", "serial-getty@.service", "apt-daily.timer"];

/// Builds the image with these programs and packages. Returns its path.
pub fn build(files: &[PathBuf]) -> Result<PathBuf> {
    let root = installed()?;
    let image = workspace::target().join("machine/debian.ext4");
    let added = workspace::target().join("machine/debian-added");
    add(&added, files)?;
    image::modules(&added, &Kernel::V6_12.release()?)?;
    run(as_root("rm").arg("-rf").arg(root.join(TESTS)))?;
    run(as_root("cp").args(["-R", "--no-dereference"]).arg(added.join(".")).arg(&root))?;
    image::make(&root, &image)?;
    Ok(image)
}

/// The folder of an installed Debian, of this machine's release; installed once.
fn installed() -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("which Debian is this?")?;
    let release = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let release = release.context("/etc/os-release has no VERSION_CODENAME")?.to_owned();
    let root = workspace::target().join(format!("machine/debian-{release}"));
    // Of an earlier version of this program something may be missing.
    let packages = root.with_extension("packages");
    let is_same = fs::read_to_string(&packages).is_ok_and(|list| list == PACKAGES);
    if is_same && root.join("init").symlink_metadata().is_ok() {
        return Ok(root);
    }
    say(format!("installing Debian's {release} into {}", root.display()));
    let mut install = as_root("mmdebstrap");
    install.args(["--quiet", "--mode=root", "--variant=minbase"]);
    install.arg(format!("--include={PACKAGES}")).arg(format!("--customize-hook={UNREAD}"));
    install.arg(&release).arg(&root).args(setup::debian_archives()?);
    run(as_root("rm").arg("-rf").arg(&root))?;
    run(&mut install)?;
    fs::write(packages, PACKAGES)?;
    // The last step: what is there is whole.
    run(as_root("ln").args(["-s", "sbin/init"]).arg(root.join("init")))?;
    Ok(root)
}

/// What the tests need, as it lies in the machine.
fn add(folder: &Path, files: &[PathBuf]) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let tests = folder.join(TESTS);
    let units = folder.join("etc/systemd/system");
    fs::create_dir_all(&tests)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    for file in files {
        image::copy(file, &tests.join(file.file_name().context("a file without a name")?))?;
    }
    fs::write(tests.join("start"), START)?;
    fs::set_permissions(tests.join("start"), fs::Permissions::from_mode(0o755))?;
    fs::write(units.join("tests.service"), UNIT)?;
    symlink("../tests.service", units.join("multi-user.target.wants/tests.service"))?;
    for unit in MASKED {
        symlink("/dev/null", units.join(unit))?;
    }
    Ok(())
}
