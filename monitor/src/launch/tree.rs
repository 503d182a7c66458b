//! Everything that belongs to a server, and its end.
//!
//! The cgroup holds it all and ends it in one step that forks cannot outrun. A server that runs as
//! root can move its processes elsewhere; their tags go with them, and by these they are found. A
//! server that others have started stays where they have put it, and is known by its tags alone.

use std::{
    fmt, io,
    path::Path,
    time::{Duration, Instant},
};

use nix::unistd::Pid;

use super::{
    cgroup::{Cgroup, CgroupError},
    signals,
};

/// How long killed processes are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells which processes are tagged as the server's.
pub type Tagged = Box<dyn Fn() -> Vec<u32>>;

/// The tree of one instance. Dropped, it is ended.
pub struct Tree {
    /// `None`: its processes are in cgroups of others.
    cgroup: Option<Cgroup>,
    tagged: Tagged,
}

impl Tree {
    /// The tree in a cgroup.
    pub fn new(cgroup: Cgroup, tagged: Tagged) -> Self {
        Self { cgroup: Some(cgroup), tagged }
    }

    /// A tree that has no cgroup of its own.
    pub fn scattered(tagged: Tagged) -> Self {
        Self { cgroup: None, tagged }
    }

    /// Whether it has none.
    pub fn is_scattered(&self) -> bool {
        self.cgroup.is_none()
    }

    /// Moves a process in, where there is a place for it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add(&self, tgid: Pid) -> Result<(), CgroupError> {
        self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.add(tgid))
    }

    /// Whether a process belongs to it.
    pub fn contains(&self, tgid: Pid) -> bool {
        match &self.cgroup {
            Some(cgroup) => cgroup.contains(tgid),
            None => (self.tagged)().contains(&(tgid.as_raw() as u32)),
        }
    }

    /// Whether anything is where it belongs.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn populated(&self) -> io::Result<bool> {
        self.cgroup.as_ref().map_or(Ok(false), Cgroup::populated)
    }

    /// Stops everything that is where it belongs, or lets it go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.freeze(frozen))
    }

    /// Removes the place, which must be empty of processes.
    pub fn remove(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    /// The directory of the cgroup that is its own, if there is one.
    pub fn place(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::path)
    }

    /// Lets it live on without us.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Sends SIGKILL to everything that is where it belongs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::kill)
    }

    /// Sends SIGKILL to what has left the cgroup; how many there were.
    pub fn kill_strays(&self) -> usize {
        let strays = (self.tagged)();
        for &tgid in &strays {
            // Fails for one that has just ended.
            let _ = signals::send(Pid::from_raw(tgid as i32), libc::SIGKILL);
        }
        strays.len()
    }

    /// Ends the tree and waits until nothing of it is left; whether there was anything.
    ///
    /// # Errors
    /// When processes do not end.
    pub fn end(&self) -> io::Result<bool> {
        let end = Instant::now() + PATIENCE;
        let mut found = self.populated()?;
        if found {
            self.kill()?;
        }
        while self.populated()? || self.kill_strays() > 0 {
            found = true;
            if Instant::now() >= end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, self.lasting()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(found)
    }

    fn lasting(&self) -> String {
        match &self.cgroup {
            Some(cgroup) => {
                format!("processes do not end: see cgroup.procs in {}", cgroup.path().display())
            }
            None => format!("processes do not end: {:?}", (self.tagged)()),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Fails when the guard has removed the cgroup, which is what is wanted.
        let _ = self.end();
        self.remove();
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}
