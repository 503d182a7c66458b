//! podman with storage, state and cgroups of the test's own, which are gone with it.
//!
//! Images are made of folders; nothing is fetched from anywhere. It runs in a mount namespace of its
//! own: `/sys/fs/cgroup` is cgroup v2 there, also on machines that keep the first version, what it
//! writes to `/run` and `/var/lib` goes to the test's folder, and what it mounts goes with its last
//! process.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    ptr,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    Lab,
    lab::skip,
    run::{MARKER, eventually},
};

const PROGRAM: &str = "/usr/bin/podman";
/// Which of the runtimes works where rights are few: crun insists on raising limits.
const FRUGAL: &str = "/usr/bin/runc";
/// Where the kernel's interface of cgroups is looked for.
const CGROUPS: &CStr = c"/sys/fs/cgroup";
/// Where it and its runtimes keep what they have to know, whatever they are told.
const STATE: [&CStr; 2] = [c"/run", c"/var/lib"];

/// podman, ready to run containers.
pub struct Podman<'a> {
    lab: &'a Lab,
    cgroups: PathBuf,
    /// Stand in for [`STATE`].
    state: [CString; 2],
}

impl<'a> Podman<'a> {
    /// The podman of this machine; the test is skipped where there is none.
    pub fn of(lab: &'a Lab) -> Result<Self> {
        if !Path::new(PROGRAM).exists() {
            return skip("no podman here: `cargo xtask test` installs it where apt can");
        }
        let folder = lab.folder().join("podman");
        fs::create_dir(&folder)?;
        let runtime = match Path::new(FRUGAL).exists() {
            true => "runtime = \"runc\"\n",
            false => "",
        };
        let place = folder.display();
        fs::write(
            folder.join("containers.conf"),
            format!(
                "[containers]\nnetns = \"none\"\npids_limit = 0\n\
                 default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
                 lock_type = \"file\"\ntmp_dir = \"{place}/tmp\"\n{runtime}"
            ),
        )?;
        fs::write(
            folder.join("storage.conf"),
            format!(
                "[storage]\ndriver = \"overlay\"\ngraphroot = \"{place}/storage\"\n\
                 runroot = \"{place}/run\"\n"
            ),
        )?;
        let state = ["state-run", "state-lib"].map(|name| folder.join(name));
        state.iter().try_for_each(fs::create_dir)?;
        let state = state.map(|path| CString::new(path.as_os_str().as_bytes()));
        let [run, lib] = state;
        Ok(Self { lab, cgroups: lab.cgroups()?, state: [run?, lib?] })
    }

    /// A cgroup for all of the test's containers, as a path beneath the root of the hierarchy.
    fn parent(&self) -> String {
        format!("/mcp-monitor-test-{}", self.lab.marker())
    }

    /// podman as a command.
    fn command(&self) -> Command {
        let folder = self.lab.folder().join("podman");
        let mut command = Command::new(PROGRAM);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &folder);
        command.env("CONTAINERS_CONF", folder.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
        command.env(MARKER, self.lab.marker()).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let state = self.state.clone();
        let has_others = self.cgroups.as_os_str().as_bytes() != CGROUPS.to_bytes();
        // SAFETY: between fork and exec only system calls are made, of strings that are there.
        unsafe { command.pre_exec(move || mounts_of_its_own(&state, has_others)) };
        command
    }

    /// Makes an image of a folder.
    pub fn import(&self, root: &Path, name: &str) -> Result<()> {
        let archive = root.with_extension("tar");
        let mut tar = Command::new("tar");
        tar.arg("-c").arg("-f").arg(&archive).arg("-C").arg(root).arg(".");
        ensure!(tar.status().context("cannot start tar")?.success(), "tar failed");
        let imported = self.command().arg("import").arg(&archive).arg(name).output()?;
        ensure!(imported.status.success(), "{imported:?}");
        Ok(fs::remove_file(archive)?)
    }

    /// A container of an image, to be run with these options of podman's.
    fn container(&self, options: &[&str], image: &str, words: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["run", "--interactive", "--rm", "--cgroup-parent", &self.parent()]);
        command.arg("--env").arg(format!("{MARKER}={}", self.lab.marker()));
        command.args(options).arg(image).args(words);
        command
    }

    /// Runs a container to its end.
    pub fn run(&self, options: &[&str], image: &str, words: &[&str]) -> Result<Output> {
        self.container(options, image, words).output().context("cannot start podman")
    }

    /// Starts a container.
    pub fn start(&self, options: &[&str], image: &str, words: &[&str]) -> Result<Container> {
        let name = format!("container-{}", self.lab.next_run());
        let said = |extension: &str| self.lab.folder().join(&name).with_extension(extension);
        let mut command = self.container(options, image, words);
        command.stdin(Stdio::piped());
        // Files, not pipes: whoever keeps a pipe open would keep us waiting for its end.
        command.stdout(File::create(said("stdout"))?).stderr(File::create(said("stderr"))?);
        let child = command.spawn().context("cannot start podman")?;
        Ok(Container { child, stdout: said("stdout"), stderr: said("stderr") })
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // Nothing is left of a test that passes; of others what is left is found by the test's own
        // look for leftovers.
        let _ = self.command().args(["rm", "--all", "--force", "--time", "0"]).output();
        remove(&self.cgroups.join(self.parent().trim_start_matches('/')));
    }
}

/// Removes cgroups, from the leaves up.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // The kernel may need a moment after its last process has ended.
    let _ = eventually("the cgroup is gone", || fs::remove_dir(cgroup).is_ok() || !cgroup.exists());
}

/// Leaves the mount namespace, for one with `state` in the places of [`STATE`]; with `cgroups`
/// cgroup v2 is where cgroups are looked for.
fn mounts_of_its_own(state: &[CString; 2], cgroups: bool) -> io::Result<()> {
    let check = |result: i32| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    let mount = |from: &CStr, to: &CStr, kind: &CStr, flags| {
        // SAFETY: the strings end with NUL and live across the call; no data is passed.
        check(unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, ptr::null()) })
    };
    // SAFETY: takes a number.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)?;
    for (own, place) in state.iter().zip(STATE) {
        mount(own, place, c"none", libc::MS_BIND)?;
    }
    if cgroups {
        mount(c"cgroup2", CGROUPS, c"cgroup2", 0)?;
    }
    Ok(())
}

/// A container that runs, in the foreground of its podman.
pub struct Container {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Container {
    /// What it has written so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// Its standard input; closed when dropped.
    pub fn stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().context("has no standard input any more")
    }

    fn complaints(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until it has written this.
    pub fn wait_for(&mut self, wanted: &str) -> Result<()> {
        eventually(wanted, || {
            self.said().contains(wanted) || !matches!(self.child.try_wait(), Ok(None))
        })?;
        if !self.said().contains(wanted) {
            bail!("ended before it said {wanted}: {} {}", self.said(), self.complaints());
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn finish(&mut self) -> Result<Output> {
        drop(self.child.stdin.take());
        eventually("the container has ended", || !matches!(self.child.try_wait(), Ok(None)))
            .with_context(|| format!("{} {}", self.said(), self.complaints()))?;
        let status = self.child.wait()?;
        Ok(Output { status, stdout: fs::read(&self.stdout)?, stderr: fs::read(&self.stderr)? })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Both do nothing for one that has ended. The container itself is ended with its podman's
        // storage.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
