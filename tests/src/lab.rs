//! What a test has to itself: a fixture HOME, a rules directory, a backend, runs of the monitor.

use std::cell::Cell;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::elsewhere;
use crate::leftovers;
use crate::registry::{Backend, Skip};
use crate::run::{MARKER, Run};

/// The name that [`Lab::policy`] gives the server under test.
pub(crate) const SERVER: &str = "subject";

/// Whether violations are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Verdicts are recorded as would-be.
    Observe,
    /// Verdicts are enforced.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        })
    }
}

/// Leaves a test as skipped, with the reason: `return skip("no io_uring here")`.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

/// The fixture of one test. Its folder goes when the test ends.
pub struct Lab {
    folder: TempDir,
    backend: Backend,
    marker: String,
    runs: Cell<u32>,
    has_policy: Cell<bool>,
}

impl Lab {
    pub(crate) fn new(backend: Backend) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new().prefix("mcp-monitor-e2e-").tempdir_in("/tmp")?;
        // Servers that drop to another user must reach their HOME.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        for name in ["home", "rules/servers", "rules/includes", "rules/sets"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        let marker = format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Ok(Self { folder, backend, marker, runs: Cell::new(0), has_policy: Cell::new(false) })
    }

    /// The backend under test.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The fixture's folder, with `home` and `rules` in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The HOME of the server under test, passed with `--home`.
    pub fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// The directory passed with `--rules`.
    pub fn rules(&self) -> PathBuf {
        self.folder().join("rules")
    }

    /// The key that signs this test's recordings; the machine's own is left alone.
    pub fn key(&self) -> PathBuf {
        self.folder().join("audit.key")
    }

    /// A path beneath the fixture HOME; nothing is created.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.home().join(relative)
    }

    /// Writes a file beneath the fixture HOME, with its folders.
    pub fn file(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        write(self.path(relative), content.as_ref())
    }

    /// Writes the rules of the server under test: the sections after `schema` and `server`.
    pub fn policy(&self, sections: &str) -> Result<PathBuf> {
        self.has_policy.set(true);
        let text = format!("schema = 1\nserver = \"{SERVER}\"\n{sections}");
        self.rule_file(&format!("servers/{SERVER}.toml"), &text)
    }

    /// Writes a file of the rules directory as it stands, such as `includes/tools.toml`.
    pub fn rule_file(&self, relative: &str, text: &str) -> Result<PathBuf> {
        write(self.rules().join(relative), text.as_bytes())
    }

    /// A run of `mcp-monitor run`, to be completed and started: see [`Run`]. Names the server and
    /// the rules directory if [`Lab::policy`] has written one, and else runs under the default.
    pub fn run(&self, mode: Mode) -> Run<'_> {
        let events = self.folder().join(format!("events-{}.jsonl", self.next_run()));
        Run::new(self, mode, events, self.has_policy.get())
    }

    /// The `mcp-monitor` under test: `$MCP_MONITOR`, or the one beside this executable.
    pub fn monitor(&self) -> Result<PathBuf> {
        match env::var_os("MCP_MONITOR") {
            Some(path) => Ok(path.into()),
            None => beside("mcp-monitor"),
        }
    }

    /// The program that performs the techniques.
    pub fn actor(&self) -> Result<PathBuf> {
        beside("actor")
    }

    /// Runs the actor without the monitor and returns what it wrote.
    pub fn actor_alone<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let mut command = Command::new(self.actor()?);
        command.args(arguments).current_dir(self.home()).env(MARKER, self.marker());
        let output = command.output().context("cannot run the actor")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where the unified cgroup hierarchy is mounted.
    pub fn cgroups(&self) -> Result<PathBuf> {
        leftovers::cgroup_root()
    }

    /// The running kernel's version, such as `(6, 12)`.
    pub fn kernel(&self) -> Result<(u32, u32)> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut numbers = release.split(['.', '-']).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => bail!("the kernel's release `{}` has no version", release.trim()),
        }
    }

    /// A number for the files of another run.
    pub(crate) fn next_run(&self) -> u32 {
        self.runs.set(self.runs.get() + 1);
        self.runs.get()
    }

    pub(crate) fn marker(&self) -> &str {
        &self.marker
    }

    /// Replays everything that was recorded: see [`elsewhere`].
    pub(crate) fn replay_all(&self) -> Result<()> {
        elsewhere::replay_all(self.folder(), &self.monitor()?)
    }

    /// Whether processes of this test still run; they are ended then.
    pub(crate) fn end(self) -> Result<()> {
        leftovers::no_process_of(&self.marker)
    }
}

fn write(path: PathBuf, content: &[u8]) -> Result<PathBuf> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn beside(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not there: `cargo xtask test` builds it", path.display());
    }
    Ok(path)
}
