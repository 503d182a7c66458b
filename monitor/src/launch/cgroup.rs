//! The cgroup that one instance lives in: where it stands, who is in it, and its end.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

use crate::rules::Resources;

/// Directory beneath the cgroup2 mount that holds every instance's cgroup.
const PARENT: &str = "mcp-monitor";

/// Why an instance's cgroup could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no cgroup2 file system.
    #[error(
        "no cgroup2 file system is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup`)"
    )]
    NotMounted,
    /// An operation on a file or directory of the hierarchy failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A limit is asked for that this hierarchy does not keep.
    #[error("cannot set resources.{controller}: {}", missing(controller, root))]
    Controller {
        /// The controller that would keep it, called as its key in `[resources]` is.
        controller: &'static str,
        /// Where the hierarchy is mounted.
        root: PathBuf,
    },
    /// Every number tried is taken.
    #[error("no free instance number beneath {}: remove what older runs left there", .0.display())]
    Taken(PathBuf),
}

/// What to do about a controller that is not there.
fn missing(controller: &str, root: &Path) -> String {
    let own = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let root = root.display();
    if own.split_whitespace().any(|name| name == controller) {
        return format!(
            "the {controller} controller is not enabled beneath {root}: \
             `echo +{controller} > {root}/cgroup.subtree_control`"
        );
    }
    format!(
        "{root} has no {controller} controller, because the kernel lacks it or cgroup v1 holds it: \
         boot with `cgroup_no_v1=all`, or remove the line from [resources]"
    )
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { action, path: path.to_owned(), source }
}

/// The directory that holds every instance's cgroup.
///
/// # Errors
/// When there is no cgroup2 file system.
pub fn parent() -> Result<PathBuf, CgroupError> {
    let root = crate::kernel::cgroup_root().map_err(|source| {
        failed("find the cgroup2 file system in", Path::new("/proc/self/mountinfo"), source)
    })?;
    Ok(root.ok_or(CgroupError::NotMounted)?.join(PARENT))
}

/// Removes the cgroups of launches that an agent could not finish because it was killed: nobody is in
/// them, and they are none of `known`. The cgroup of a launch that begins at this very moment goes,
/// too; that launch then fails.
pub fn remove_unfinished(known: &[u32]) {
    let Ok(parent) = parent() else { return };
    for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if number.is_some_and(|number| !known.contains(&number)) {
            // Fails when a process is inside.
            let _ = fs::remove_dir(entry.path());
        }
    }
    // Fails when an instance is left.
    let _ = fs::remove_dir(parent);
}

/// Whether this process is in the cgroup of an instance.
pub fn is_inside_an_instance() -> bool {
    is_process_inside_an_instance(Pid::this())
}

/// Whether a process is in the cgroup of an instance.
pub fn is_process_inside_an_instance(pid: Pid) -> bool {
    let inside = |line: &str| {
        line.strip_prefix("0::/")
            .is_some_and(|path| path.split_once('/').is_some_and(|(first, _)| first == PARENT))
    };
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.lines().any(inside))
}

/// An instance's cgroup. Dropping it removes the directory if nothing is inside.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    kill: File,
    freeze: File,
    events: File,
    id: u64,
}

impl Cgroup {
    /// Makes the cgroup of a new instance. `number` proposes instance numbers; one whose
    /// directory exists already is passed over.
    pub fn create(mut number: impl FnMut() -> u32) -> Result<(u32, Self), CgroupError> {
        let parent = parent()?;
        for _ in 0..64 {
            let instance = number();
            let path = parent.join(instance.to_string());
            match make(&parent, &path) {
                Ok(()) => return Ok((instance, Self::open(&path)?)),
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed("create", &path, source)),
            }
        }
        Err(CgroupError::Taken(parent))
    }

    /// A cgroup that is there.
    ///
    /// # Errors
    /// When it is not, or cannot be used.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let opened = || -> Result<Self, CgroupError> {
            let writable = |name| {
                let file = path.join(name);
                OpenOptions::new()
                    .write(true)
                    .open(&file)
                    .map_err(|source| failed("open", &file, source))
            };
            let events = path.join("cgroup.events");
            Ok(Self {
                kill: writable("cgroup.kill")?,
                freeze: writable("cgroup.freeze")?,
                events: File::open(&events).map_err(|source| failed("open", &events, source))?,
                id: fs::metadata(path).map_err(|source| failed("read", path, source))?.ino(),
                path: path.to_owned(),
            })
        };
        opened().inspect_err(|_| remove_directories(path))
    }

    /// The kernel's number of this cgroup, as records carry it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it stands in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets what everything inside may use together.
    ///
    /// # Errors
    /// When the hierarchy lacks a controller that this takes.
    pub fn limit(&self, resources: &Resources) -> Result<(), CgroupError> {
        /// Microseconds in which a share of processor time is given.
        const PERIOD_US: u64 = 100_000;
        let Resources { memory, pids, cpu } = *resources;
        let number = |number: u64| number.to_string();
        let cpu = cpu.map(|percent| format!("{} {PERIOD_US}", percent * PERIOD_US / 100));
        for (controller, file, value) in [
            ("memory", "memory.max", memory.map(number)),
            ("pids", "pids.max", pids.map(number)),
            ("cpu", "cpu.max", cpu),
        ] {
            let Some(value) = value else { continue };
            self.enable(controller)?;
            let path = self.path.join(file);
            fs::write(&path, value).map_err(|source| failed("write", &path, source))?;
        }
        Ok(())
    }

    /// Lets the parent, which is ours alone, hand a controller on.
    fn enable(&self, controller: &'static str) -> Result<(), CgroupError> {
        let parent = self.path.parent().unwrap_or(&self.path);
        let path = parent.join("cgroup.controllers");
        let given = fs::read_to_string(&path).map_err(|source| failed("read", &path, source))?;
        if !given.split_whitespace().any(|name| name == controller) {
            let root = parent.parent().unwrap_or(parent).to_owned();
            return Err(CgroupError::Controller { controller, root });
        }
        let path = parent.join("cgroup.subtree_control");
        let enabled = fs::write(&path, format!("+{controller}"));
        enabled.map_err(|source| failed("write", &path, source))
    }

    /// Moves a process in.
    pub fn add(&self, tgid: Pid) -> Result<(), CgroupError> {
        let path = self.path.join("cgroup.procs");
        fs::write(&path, tgid.to_string()).map_err(|source| failed("write", &path, source))
    }

    /// Sends SIGKILL to everything inside, in one step that forks cannot outrun.
    pub fn kill(&self) -> io::Result<()> {
        (&self.kill).write_all(b"1")
    }

    /// Stops everything inside, or lets it go on.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        (&self.freeze).write_all(if frozen { b"1" } else { b"0" })
    }

    /// Whether any process is left inside, in cgroups made beneath it too.
    pub fn populated(&self) -> io::Result<bool> {
        let mut text = [0; 128];
        // At a position of its own: the guard shares this descriptor.
        let length = self.events.read_at(&mut text, 0)?;
        Ok(text[..length].split(|&byte| byte == b'\n').any(|line| line == b"populated 1"))
    }

    /// Whether a process is inside, or in a cgroup made beneath.
    pub fn contains(&self, tgid: Pid) -> bool {
        has_named_member(self.path.file_name().unwrap_or_default(), tgid)
    }

    /// Removes the directory, which must be empty of processes.
    pub fn remove(&self) {
        remove_directories(&self.path);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // An empty one was made for nothing; one with processes in it stays.
        self.remove();
    }
}

/// Whether a line of `/proc/PID/cgroup` speaks of the instance's cgroup or of one beneath it.
fn is_within(line: &str, instance: &OsStr) -> bool {
    let Some(path) = line.strip_prefix("0::/") else { return false };
    let mut components = path.split('/');
    components.next() == Some(PARENT) && components.next().map(OsStr::new) == Some(instance)
}

/// Whether a process is in the cgroup of an instance, or in one made beneath it.
pub fn has_member(instance: u32, tgid: Pid) -> bool {
    has_named_member(OsStr::new(&instance.to_string()), tgid)
}

fn has_named_member(instance: &OsStr, tgid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{tgid}/cgroup"))
        .is_ok_and(|text| text.lines().any(|line| is_within(line, instance)))
}

/// Makes `path` and, where missing, its parent.
fn make(parent: &Path, path: &Path) -> io::Result<()> {
    // Another run that ends removes the parent when it was the last: try again.
    for _ in 0..16 {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::create_dir(parent) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            },
            other => return other,
        }
    }
    fs::create_dir(path)
}

/// Removes a cgroup with those made beneath it, and the common parent when that was the last.
pub(super) fn remove_directories(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_only(&entry.path());
        }
    }
    // Both fail while something is inside; what is left then is named by the caller's own wait.
    let _ = fs::remove_dir(path);
    if let Some(parent) = path.parent().filter(|parent| parent.ends_with(PARENT)) {
        let _ = fs::remove_dir(parent);
    }
}

fn remove_only(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_only(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_by_the_whole_name() {
        let seven = OsStr::new("7");
        assert!(is_within("0::/mcp-monitor/7", seven));
        assert!(is_within("0::/mcp-monitor/7/beneath", seven));
        for outside in ["0::/", "0::/mcp-monitor", "0::/mcp-monitor/77", "1:cpu:/mcp-monitor/7", ""]
        {
            assert!(!is_within(outside, seven), "{outside}");
        }
    }
}
