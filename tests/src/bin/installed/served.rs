//! A server of an ordinary user's, started as people start them: by `run`, through the agent.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::machine::eventually;

/// Where the servers' files are.
pub const FOLDER: &str = "/srv/subject";

/// A server that runs.
pub struct Served {
    child: Child,
    out: PathBuf,
}

impl Served {
    /// Starts a shell with this script as a server of this user.
    pub fn start(user: &str, name: &str, script: &str) -> Result<Self> {
        let out = Path::new("/run").join(format!("served-{name}"));
        let file = File::create(&out)?;
        let mut run = Command::new("runuser");
        run.args(["-u", user, "--", "mcp-monitor", "run", "--server", "subject", "--"]);
        run.args(["/bin/sh", "-c", script]).current_dir("/").stdin(Stdio::null());
        run.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let child = run.stdout(file.try_clone()?).stderr(file).spawn().context("runuser")?;
        Ok(Self { child, out })
    }

    /// What it and its launcher have said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits until it has said something.
    pub fn wait_for(&mut self, wanted: &str) -> Result<()> {
        eventually(
            wanted,
            || Ok(self.said().contains(wanted) || self.child.try_wait()?.is_some()),
        )?;
        ensure!(self.said().contains(wanted), "ended before {wanted}: {}", self.said());
        Ok(())
    }

    /// Waits for the end; the exit code.
    pub fn finish(&mut self) -> Result<i32> {
        eventually("the server has ended", || Ok(self.child.try_wait()?.is_some()))
            .with_context(|| self.said())?;
        Ok(self.child.wait()?.code().unwrap_or(-1))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both do nothing for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries a forbidden file over and over until there is a file `stop`; says `tick` for each refusal,
/// and `LEAK` if one is not refused.
pub const ATTEMPTS: &str = "echo begun $$; while [ ! -e /srv/subject/stop ]; do \
     if cat /srv/subject/forbidden 2>/dev/null; then echo LEAK; else echo tick; fi; sleep 0.1; done";
