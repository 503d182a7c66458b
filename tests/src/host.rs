//! A host agent under test: its configuration and state in the fixture's folder, its pins in a
//! directory of their own. When it is dropped nothing of it is left.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{Events, Lab, run::MARKER, run::eventually};

/// An ordinary user, known to every test machine.
pub const NOBODY: u32 = 65_534;

/// An agent that runs, or has run.
pub struct Host<'a> {
    lab: &'a Lab,
    child: Option<Child>,
    port: u16,
}

impl<'a> Host<'a> {
    /// Starts an agent; it is ready.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        Self::start_with(lab, "")
    }

    /// The same with more of a configuration.
    pub fn start_with(lab: &'a Lab, more: &str) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = lab.folder().display();
        let text = format!(
            "[control]\nsocket = \"{folder}/run/agent.sock\"\ngroup = \"nogroup\"\n\
             [kernel]\nbackend = \"{}\"\npins = \"{}\"\n\
             [rules]\ndirectory = \"{}\"\n\
             [recording]\ndirectory = \"{folder}/agent\"\nkey = \"{}\"\n\
             [metrics]\nlisten = \"127.0.0.1:{port}\"\n{more}",
            lab.backend(),
            pins(lab).display(),
            lab.rules().display(),
            lab.key().display(),
        );
        fs::write(lab.folder().join("agent.toml"), text)?;
        // Where an ordinary user may execute it.
        let copy = lab.folder().join("mcp-monitor");
        fs::copy(lab.monitor()?, copy)?;
        let mut host = Self { lab, child: None, port };
        host.begin()?;
        Ok(host)
    }

    /// Starts the agent again after its end.
    pub fn begin(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the agent runs already");
        let said = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.command();
        command.arg("agent").arg("--config").arg(self.lab.folder().join("agent.toml"));
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let before = self.said().matches(READY).count();
        self.child = Some(command.spawn().context("cannot start the agent")?);
        eventually("the agent is ready", || {
            self.said().matches(READY).count() > before || self.has_ended()
        })?;
        ensure!(!self.has_ended(), "the agent has ended: {}", self.said());
        Ok(())
    }

    /// Makes the program one of another build: its kernel programs do the same and are other bytes.
    pub fn rebuild(&self) -> Result<()> {
        // Of an ELF header (elf(5)): the beginning, unused bytes, and a machine, which is BPF.
        const BEGINNING: &[u8] = b"\x7fELF\x02\x01\x01";
        const UNUSED: usize = 15;
        const MACHINE: usize = 18;
        const MACHINE_BPF: u16 = 247;
        let path = self.lab.folder().join("mcp-monitor");
        let mut bytes = fs::read(&path)?;
        let is_object = |header: &[u8]| {
            header.starts_with(BEGINNING) && header[MACHINE..] == MACHINE_BPF.to_le_bytes()
        };
        let objects = bytes.windows(MACHINE + 2).position(is_object);
        bytes[objects.context("no kernel programs in it")? + UNUSED] += 1;
        // Launchers still execute the file before.
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, bytes)?;
        fs::set_permissions(&fresh, fs::metadata(&path)?.permissions())?;
        Ok(fs::rename(fresh, path)?)
    }

    /// Directories of pinned programs.
    pub fn programs(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(pins(self.lab))?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with("links-")).collect())
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// What the agent has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.lab.folder().join("agent.log")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.lab.folder().join("run/agent.sock")
    }

    /// Ends the agent by a signal and waits for its end.
    pub fn end_by(&mut self, signal: i32) -> Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        // SAFETY: takes numbers; the child has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        child.wait()?;
        Ok(())
    }

    /// The agent's process.
    pub fn id(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the agent does not run")?.id())
    }

    /// The monitor as a command, for any verb.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.lab.folder().join("mcp-monitor"));
        command.env(MARKER, self.lab.marker()).env_remove("SUDO_UID").env_remove("NOTIFY_SOCKET");
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// A verb that talks to the agent, as root.
    pub fn ask(&self, verb: &[&str]) -> Result<Output> {
        self.ask_as(0, verb)
    }

    /// A verb that talks to the agent, as another user.
    pub fn ask_as(&self, uid: u32, verb: &[&str]) -> Result<Output> {
        let mut command = self.command();
        command.arg(verb[0]).arg("--socket").arg(self.socket()).args(&verb[1..]);
        as_user(&mut command, uid);
        command.output().context("cannot start mcp-monitor")
    }

    /// What `status` says.
    pub fn status(&self) -> Result<Value> {
        let output = self.ask(&["status", "--json"])?;
        ensure!(output.status.success(), "{output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A server that an ordinary user starts through the agent: a shell with a script.
    pub fn serve(&self, options: &[&str], script: &str) -> Result<Served> {
        let name = format!("served-{}", self.lab.next_run());
        let said = |extension: &str| self.lab.folder().join(&name).with_extension(extension);
        let mut command = self.command();
        command.arg("run").arg("--socket").arg(self.socket()).args(options);
        command.args(["--", "/bin/sh", "-c", script]);
        command.stdout(File::create(said("stdout"))?).stderr(File::create(said("stderr"))?);
        as_user(&mut command, NOBODY);
        let child = command.spawn().context("cannot start mcp-monitor run")?;
        Ok(Served { child, stdout: said("stdout"), stderr: said("stderr") })
    }

    /// What the agent has recorded so far.
    pub fn events(&self) -> Result<Events> {
        Events::read(&self.lab.folder().join("agent/agent.000001.jsonl"))
    }

    /// `/metrics` as Prometheus gets it.
    pub fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The port of `/metrics`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends bytes to the control socket; what comes back before it is closed.
    pub fn send(&self, bytes: &[u8]) -> Result<String> {
        send(&self.socket(), bytes)
    }

    /// Ends what runs and removes everything of the agent's.
    pub fn detach_all(&mut self) -> Result<Output> {
        if self.child.is_some() {
            self.end_by(libc::SIGTERM)?;
        }
        let mut command = self.command();
        command.args(["agent", "--detach-all", "--config"]);
        command.arg(self.lab.folder().join("agent.toml"));
        command.output().context("cannot start mcp-monitor")
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        // What stays is found by the test's own look for leftovers.
        let _ = self.detach_all();
    }
}

/// Sends bytes to a control socket; what comes back before it is closed.
pub fn send(socket: &Path, bytes: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The agent may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What an agent says when it is ready.
const READY: &str = "watching with the";

fn pins(lab: &Lab) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/mcp-monitor-test-{}", lab.marker()))
}

fn as_user(command: &mut Command, uid: u32) {
    if uid != 0 {
        // The standard library drops the other groups, too.
        command.uid(uid).gid(uid);
    }
}

/// A server that runs through the agent.
pub struct Served {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Served {
    /// What the server has written so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// What the launcher has said so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until the server has written this.
    pub fn wait_for(&mut self, wanted: &str) -> Result<()> {
        eventually(wanted, || {
            self.stdout().contains(wanted) || !matches!(self.child.try_wait(), Ok(None))
        })?;
        if !self.stdout().contains(wanted) {
            bail!("ended before it said {wanted}: {}", self.stderr());
        }
        Ok(())
    }

    /// Waits for the end; the exit code.
    pub fn finish(&mut self) -> Result<i32> {
        eventually("the server has ended", || !matches!(self.child.try_wait(), Ok(None)))
            .with_context(|| format!("{} {}", self.stdout(), self.stderr()))?;
        Ok(self.child.wait()?.code().unwrap_or(-1))
    }

    /// Removes what it and its launcher have said.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.stdout)?;
        Ok(fs::remove_file(&self.stderr)?)
    }

    /// Kills the launcher.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both do nothing for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
