//! Everything that belongs to a server, and its end.
//!
//! The cgroup holds it all and ends it in one step that forks cannot outrun. A server that runs as
//! root can move its processes elsewhere; their tags go with them, and by these they are found.

use std::{
    fmt, io,
    path::Path,
    time::{Duration, Instant},
};

use nix::unistd::Pid;

use super::{cgroup::Cgroup, signals};

/// How long killed processes are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells which processes are tagged as the server's.
pub type Tagged = Box<dyn Fn() -> Vec<u32>>;

/// The tree of one instance. Dropped, it is ended.
pub struct Tree {
    cgroup: Cgroup,
    tagged: Tagged,
}

impl Tree {
    /// The tree in a cgroup.
    pub fn new(cgroup: Cgroup, tagged: Tagged) -> Self {
        Self { cgroup, tagged }
    }

    /// Where it lives.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The directory of the cgroup that is its own, if there is one.
    pub fn place(&self) -> Option<&Path> {
        Some(self.cgroup.path())
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
        self.cgroup.kill()
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
        let mut found = self.cgroup.populated()?;
        if found {
            self.cgroup.kill()?;
        }
        while self.cgroup.populated()? || self.kill_strays() > 0 {
            found = true;
            if Instant::now() >= end {
                let place = self.cgroup.path().display();
                let message = format!("processes do not end: see cgroup.procs in {place}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(found)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Fails when the guard has removed the cgroup, which is what is wanted.
        let _ = self.end();
        self.cgroup.remove();
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}
