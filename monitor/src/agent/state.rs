//! What the next agent needs to go on with the instances that run: a file each, beside the control
//! socket. They are gone after a reboot, as the pinned maps are.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{instances::Standby, request::Launch};
use crate::{
    enrich::clock,
    event::{Grant, PolicyText},
};

/// An instance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Saved {
    /// Position in the kernel's table.
    pub position: u32,
    /// The policy in force.
    pub policy: PolicyText,
    /// What comes into force when that lapses.
    #[serde(default)]
    pub standby: Option<Standby>,
    /// How it was launched.
    pub launch: Launch,
    /// Who launched it.
    pub uid: u32,
    /// When it began, CLOCK_BOOTTIME, ns.
    pub started_ns: u64,
    /// Others have started it, and it has no cgroup of its own.
    #[serde(default)]
    pub is_scattered: bool,
    /// It is cut off from IP networks.
    #[serde(default)]
    pub isolated: bool,
}

/// What has been granted for a while.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SavedGrants {
    /// Number of the latest.
    pub last: u32,
    /// Those that are not over, in the order of their numbers.
    pub given: Vec<Grant>,
}

/// The directory of the files.
#[derive(Clone, Debug)]
pub struct StateDirectory(PathBuf);

impl StateDirectory {
    /// Beside the control socket.
    pub fn of(socket: &Path) -> Self {
        Self(socket.with_file_name("instances"))
    }

    /// Makes it. The environment of servers stands in the files, so that only root may read them.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// The numbers of the instances that were saved.
    pub fn numbers(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Path::new(&entry.file_name()).file_stem()?.to_str()?.parse().ok())
            .collect()
    }

    /// All instances that were saved. What is no file of an agent's is told in words.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn read(&self) -> io::Result<(Vec<Saved>, Vec<String>)> {
        let (mut instances, mut wrong) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let saved = fs::read(&path).map_err(|error| error.to_string()).and_then(|bytes| {
                serde_json::from_slice(&bytes).map_err(|error| error.to_string())
            });
            match saved {
                Ok(saved) => instances.push(saved),
                Err(error) => wrong.push(format!("{}: {error}", path.display())),
            }
        }
        Ok((instances, wrong))
    }

    /// Replaces the file of an instance.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, saved: &Saved) -> io::Result<()> {
        replace(&self.file(saved.policy.instance), saved)
    }

    /// What was granted for a while.
    ///
    /// # Errors
    /// When the file is none of an agent's.
    pub fn grants(&self) -> io::Result<SavedGrants> {
        match fs::read(self.grants_file()) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(SavedGrants::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file of all grants.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_grants(&self, grants: &SavedGrants) -> io::Result<()> {
        replace(&self.grants_file(), grants)
    }

    /// Says that an agent is at work; about once a second.
    pub fn is_seen(&self) {
        // What it cannot say, the next agent does not know.
        let _ = overwrite(&self.seen(), &format!("{:020}", clock::boot_ns()));
    }

    /// When an agent was last at work, CLOCK_BOOTTIME, ns.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn last_seen(&self) -> io::Result<Option<u64>> {
        match fs::read_to_string(self.seen()) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says how much of each ring is in the recording: events, violations.
    pub fn has_recorded(&self, events: u64, violations: u64) {
        // As above.
        let _ = overwrite(&self.recorded_file(), &format!("{events:020} {violations:020}"));
    }

    /// How much of each ring was in the recording of the agent before.
    pub fn recorded(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(self.recorded_file()).ok()?;
        let (events, violations) = text.split_once(' ')?;
        Some((events.parse().ok()?, violations.parse().ok()?))
    }

    /// Forgets all grants: they were of a kernel that is not there any more.
    pub fn forget_grants(&self) {
        // Fails when there are none.
        let _ = fs::remove_file(self.grants_file());
    }

    fn grants_file(&self) -> PathBuf {
        self.0.with_file_name("grants.json")
    }

    fn recorded_file(&self) -> PathBuf {
        self.0.with_file_name("recorded")
    }

    fn seen(&self) -> PathBuf {
        self.0.with_file_name("seen")
    }

    /// Removes the file of an instance.
    pub fn forget(&self, instance: u32) {
        // Fails when there is none.
        let _ = fs::remove_file(self.file(instance));
    }

    /// Removes everything.
    pub fn remove(&self) {
        // Fails when it is not there.
        let _ = fs::remove_dir_all(&self.0);
        let _ = fs::remove_file(self.seen());
        let _ = fs::remove_file(self.recorded_file());
        self.forget_grants();
    }

    fn file(&self, instance: u32) -> PathBuf {
        self.0.join(format!("{instance}.json"))
    }
}

/// Writes over a text of the same length. Cut off first, the file would cost a file system on a disk
/// blocks and a commit each time; this is done every second.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(false).open(path)?.write_all(text.as_bytes())
}

/// Replaces a file that only root may read.
pub(super) fn replace(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    let file =
        fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    let mut file = io::BufWriter::new(file);
    serde_json::to_writer(&mut file, content)?;
    file.flush()?;
    fs::rename(new, path)
}
