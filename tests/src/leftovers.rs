//! What a run may not leave behind: processes, cgroups, pins, BPF links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::MARKER;

/// Links and cgroups go away after the process that held them: RCU grace periods, one after the other
/// for each LSM hook, and the kernel's own workers.
const GRACE: Duration = Duration::from_secs(60);
const PINS: &str = "/sys/fs/bpf";

/// What the machine held before a test.
pub struct Baseline {
    links: BTreeSet<u32>,
    cgroups: BTreeSet<PathBuf>,
    pins: BTreeSet<PathBuf>,
}

impl Baseline {
    /// Looks at the machine as it is.
    pub fn take() -> Result<Self> {
        Ok(Self {
            links: link_ids()?,
            cgroups: named(&cgroup_root()?),
            pins: named(Path::new(PINS)),
        })
    }

    /// Fails if the machine holds more than it did.
    pub fn compare(&self) -> Result<()> {
        let deadline = Instant::now() + GRACE;
        loop {
            let left = self.left()?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind: {}", left.join(", "));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn left(&self) -> Result<Vec<String>> {
        let now = Self::take()?;
        let mut left: Vec<_> = now
            .cgroups
            .difference(&self.cgroups)
            .chain(now.pins.difference(&self.pins))
            .map(|path| path.display().to_string())
            .collect();
        left.extend(now.links.difference(&self.links).map(|id| format!("BPF link {id}")));
        // On a machine that others use, too, what appeared may belong to their monitor.
        if !left.is_empty() && monitors_run()? {
            left.clear();
        }
        Ok(left)
    }
}

/// Waits for the end of all processes with this marker; those that remain are ended, and named.
pub fn no_process_of(marker: &str) -> Result<()> {
    let deadline = Instant::now() + GRACE;
    let mut processes = marked(marker)?;
    while !processes.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
        processes = marked(marker)?;
    }
    if processes.is_empty() {
        return Ok(());
    }
    for (tgid, _) in &processes {
        // SAFETY: kill only takes numbers. The marker in its environment says it is ours.
        unsafe { libc::kill(*tgid, libc::SIGKILL) };
    }
    let names: Vec<_> = processes.iter().map(|(tgid, name)| format!("{tgid} ({name})")).collect();
    bail!("processes outlived the test and were ended: {}", names.join(", "));
}

/// Where cgroup2 is mounted: not at /sys/fs/cgroup on machines that keep the first version.
pub fn cgroup_root() -> Result<PathBuf> {
    mcp_monitor::kernel::cgroup_root()?.context("cgroup2 is not mounted")
}

/// Process ids and names of the processes whose environment holds the marker.
fn marked(marker: &str) -> Result<Vec<(i32, String)>> {
    let wanted = format!("{MARKER}={marker}");
    let has_it = |folder: &Path| {
        let environ = fs::read(folder.join("environ")).unwrap_or_default();
        environ.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    Ok(processes()?.filter(|(_, folder)| has_it(folder)).map(|(id, at)| (id, comm(&at))).collect())
}

/// Whether some `mcp-monitor` runs.
fn monitors_run() -> Result<bool> {
    Ok(processes()?.any(|(_, folder)| comm(&folder) == "mcp-monitor"))
}

fn processes() -> Result<impl Iterator<Item = (i32, PathBuf)>> {
    let entries = fs::read_dir("/proc").context("cannot list /proc")?;
    Ok(entries.flatten().filter_map(|entry| {
        let tgid = entry.file_name().to_str()?.parse().ok()?;
        Some((tgid, entry.path()))
    }))
}

fn comm(folder: &Path) -> String {
    fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned()
}

/// The folders beneath this one that `mcp-monitor` made, by their name, and all beneath those.
fn named(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let ours = path.strip_prefix(root).is_ok_and(|path| {
                path.iter().any(|name| name.to_string_lossy().starts_with("mcp-monitor"))
            });
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // A cgroup's control files come and go with it.
            if ours && (is_folder || root == Path::new(PINS)) {
                found.insert(path.clone());
            }
            if is_folder {
                waiting.push(path);
            }
        }
    }
    // The folder that holds all instances may stay.
    found.remove(&root.join("mcp-monitor"));
    found
}

/// The ids of all BPF links.
fn link_ids() -> Result<BTreeSet<u32>> {
    const BPF_LINK_GET_NEXT_ID: i32 = 31;
    #[repr(C)]
    struct Attributes {
        start_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut ids = BTreeSet::new();
    let mut attributes = Attributes { start_id: 0, next_id: 0, open_flags: 0 };
    loop {
        // SAFETY: the kernel reads and writes the three fields, as many bytes as it is told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_LINK_GET_NEXT_ID,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ENOENT) {
                return Ok(ids);
            }
            return Err(error).context("cannot list the BPF links");
        }
        ids.insert(attributes.next_id);
        attributes.start_id = attributes.next_id;
    }
}
