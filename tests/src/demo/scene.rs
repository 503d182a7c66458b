//! The stage of the demonstration: a HOME, a victim, and how servers are started on it.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::Backend;

/// The real server: the name of its npm package.
pub const SERVER_PACKAGE: &str = "@modelcontextprotocol/server-filesystem";
/// Whose rules it runs under, the product's own unless others are put before them.
pub const SERVER: &str = "filesystem";
/// Where the rules expect a system's Node.js.
const NODE: [&str; 2] = ["/usr/bin/node", "/usr/local/bin/node"];

/// A fixture in a folder that the caller makes and removes.
pub struct Scene {
    folder: PathBuf,
    monitor: PathBuf,
    backend: Option<Backend>,
    owner: Option<(u32, u32)>,
    environment: Vec<(String, String)>,
    rules: Option<PathBuf>,
    secret: String,
}

impl Scene {
    /// Furnishes a folder: HOME with a private key and a project.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn new(folder: &Path, monitor: &Path, backend: Option<Backend>) -> Result<Self> {
        let monitor = fs::canonicalize(monitor);
        let scene = Self {
            folder: fs::canonicalize(folder)?,
            monitor: monitor.context("mcp-monitor is not there: `cargo xtask build` builds it")?,
            backend,
            owner: caller(),
            environment: Vec::new(),
            rules: None,
            secret: format!("canary-{:016x}", RandomState::new().build_hasher().finish()),
        };
        for name in ["tmp", "home/.ssh", "home/project/src"] {
            fs::create_dir_all(scene.folder.join(name))?;
        }
        fs::write(scene.key(), format!("not a real key: {}\n", scene.secret("key")))?;
        let project = scene.project();
        fs::write(project.join("notes.md"), format!("# Notes\n\n{}\n", scene.secret("notes")))?;
        fs::write(project.join("src/hello.py"), "print('helo')\n")?;
        scene.hand_over()?;
        Ok(scene)
    }

    /// Puts other rules before the product's own.
    #[must_use]
    pub fn rules(self, directory: &Path) -> Self {
        Self { rules: Some(directory.to_owned()), ..self }
    }

    /// Adds an environment variable for everything that is started.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The private key that is worth stealing.
    pub fn key(&self) -> PathBuf {
        self.folder.join("home/.ssh/id_ed25519")
    }

    /// The only directory that servers are given.
    pub fn project(&self) -> PathBuf {
        self.folder.join("home/project")
    }

    /// What must not leave, by where it lies; no two scenes have the same.
    pub fn secret(&self, place: &str) -> String {
        format!("{place}-{}", self.secret)
    }

    /// A folder of the scene for something of the caller's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn place(&self, relative: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
        let place = self.folder.join(relative);
        fs::create_dir_all(&place)?;
        for (name, content) in files {
            fs::write(place.join(name), content)?;
        }
        self.hand_over()?;
        Ok(place)
    }

    /// A process that has nothing to do with the server, with a token in its environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn victim(&self) -> Result<Victim> {
        let mut command = process::Command::new("sleep");
        command.arg("300").stdin(Stdio::null()).stdout(Stdio::null());
        command.env_clear().env("DEPLOY_TOKEN", self.secret("token"));
        command.envs(self.environment.iter().cloned());
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command.spawn().map(Victim).context("cannot start sleep")
    }

    /// A server written for Node.js on the project, alone as most people run it.
    pub fn alone(&self, script: &Path) -> Command {
        let [program, script, project] = self.server(script);
        let mut command = Command::new(program);
        command.args([script, project]);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        self.surround(&mut command);
        command
    }

    /// Where a recording of this name is.
    pub fn recording(&self, name: &str) -> PathBuf {
        self.folder.join("tmp").join(name)
    }

    /// The same through the monitor, which records to a file of this name.
    pub fn guarded(&self, script: &Path, recording: &str) -> (Command, PathBuf) {
        let events = self.recording(recording);
        let mut command = Command::new(&self.monitor);
        command.args(["run", "--server", SERVER, "--mode", "enforce"]);
        if let Some(backend) = self.backend {
            command.args(["--backend", &backend.to_string()]);
        }
        if let Some(rules) = &self.rules {
            command.arg("--rules").arg(rules);
        }
        command.arg("--home").arg(self.folder.join("home"));
        command.arg("--events").arg(&events).arg("--key").arg(self.folder.join("audit.key"));
        command.arg("--").args(self.server(script));
        self.surround(&mut command);
        (command, events)
    }

    fn server(&self, script: &Path) -> [PathBuf; 3] {
        let node = NODE.iter().find(|node| Path::new(node).exists()).unwrap_or(&NODE[0]);
        [node.into(), script.to_owned(), self.project()]
    }

    fn surround(&self, command: &mut Command) {
        command.current_dir(self.project());
        command.env("HOME", self.folder.join("home")).env("TMPDIR", self.folder.join("tmp"));
        command.envs(self.environment.iter().cloned());
    }

    /// Gives the fixture to the user as whom the monitor runs servers.
    fn hand_over(&self) -> Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let mut waiting = vec![self.folder.clone()];
        while let Some(path) = waiting.pop() {
            chown(&path, Some(uid), Some(gid))
                .with_context(|| format!("cannot give {} to user {uid}", path.display()))?;
            if path.is_dir() {
                for entry in fs::read_dir(&path)? {
                    waiting.push(entry?.path());
                }
            }
        }
        Ok(())
    }
}

/// Who started us through sudo.
fn caller() -> Option<(u32, u32)> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    Some((number("SUDO_UID")?, number("SUDO_GID")?)).filter(|(uid, _)| *uid != 0)
}

/// A process that ends with this value.
pub struct Victim(Child);

impl Victim {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have come to its own end; both calls then do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
