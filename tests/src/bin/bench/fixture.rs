//! A HOME, rules of a usual size, and processes that work inside and outside of a monitored tree.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use end_to_end::Backend;
use tempfile::TempDir;

use crate::beside;

/// Rules besides those that the workload needs.
const PATTERNS: usize = 20;

/// What a monitored tree has recorded.
#[derive(Clone, Copy)]
pub enum Record {
    /// Every event.
    All,
    /// Violations, of which the workload has none.
    Violations,
}

impl Record {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Violations => "violations",
        }
    }
}

/// Files and rules that go when it is dropped.
pub struct Fixture {
    folder: TempDir,
    backend: Backend,
    workload: PathBuf,
    monitor: PathBuf,
}

impl Fixture {
    /// Writes everything.
    pub fn new(backend: Backend) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mcp-monitor-bench-").tempdir_in("/tmp")?;
        let (workload, monitor) = (beside("workload")?, beside("mcp-monitor")?);
        let fixture = Self { folder, backend, workload, monitor };
        for name in ["home/projects/demo/src", "home/.ssh", "rules/servers"] {
            fs::create_dir_all(fixture.folder.path().join(name))?;
        }
        fs::write(fixture.file(), "fn main() {}\n")?;
        // So that there are labels to look for.
        fs::write(fixture.path("home/.ssh/id_ed25519"), "secret\n")?;
        for record in [Record::All, Record::Violations] {
            let path = fixture.path(&format!("rules/servers/{}.toml", record.name()));
            fs::write(path, fixture.rules(record)?)?;
        }
        Ok(fixture)
    }

    /// The backend under measurement.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The file that is opened: seven components deep.
    pub fn file(&self) -> PathBuf {
        self.path("home/projects/demo/src/main.rs")
    }

    /// Where the monitor records.
    pub fn events(&self) -> PathBuf {
        self.path("events.jsonl")
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn rules(&self, record: Record) -> Result<String> {
        let mut text = format!("schema = 1\nserver = \"{}\"\n[files]\nread = [\n", record.name());
        for pattern in patterns(PATTERNS) {
            writeln!(text, "  \"{pattern}\",")?;
        }
        write!(
            text,
            "  \"${{HOME}}/projects/**\", \"/usr/**\", \"/etc/**\", \"/proc/**\", \"/sys/**\",\n]\n\
             write = [\"/dev/null\"]\n\
             [exec]\nallow = [\"{}\"]\n\
             [network]\nconnect = [\"127.0.0.1:1-65535\"]\n\
             [record]\nevents = \"{}\"\n\
             [response]\nmode = \"enforce\"\n",
            self.workload.display(),
            record.name()
        )?;
        Ok(text)
    }

    /// A worker outside of every monitored tree.
    pub fn outside(&self) -> Result<Worker> {
        let mut command = Command::new(&self.workload);
        command.arg("serve").arg(self.file());
        Worker::start(command)
    }

    /// A worker in a tree that a new monitor watches.
    pub fn inside(&self, record: Record) -> Result<Worker> {
        let file = self.file();
        Worker::start(self.monitored(record, ["serve".as_ref(), file.as_os_str()])?)
    }

    /// The monitor with a workload as its server.
    pub fn monitored<'a>(
        &self,
        record: Record,
        arguments: impl IntoIterator<Item = &'a std::ffi::OsStr>,
    ) -> Result<Command> {
        if let Err(error) = fs::remove_file(self.events())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).context("cannot remove the last recording");
        }
        let mut command = Command::new(&self.monitor);
        command.args(["run", "--backend", &self.backend.to_string(), "--server", record.name()]);
        command.arg("--rules").arg(self.path("rules")).arg("--home").arg(self.path("home"));
        command.arg("--events").arg(self.events()).arg("--key").arg(self.path("audit.key"));
        command.arg("--").arg(&self.workload).args(arguments);
        command.stderr(File::create(self.path("stderr"))?);
        Ok(command)
    }

    /// What the last monitor said to people.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }
}

/// Rules of the kinds that people write: trees, names beneath a tree, names anywhere. The names
/// have nothing in common, so that the automaton grows with their number.
pub fn patterns(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|i| {
        let name = name(i);
        match i % 4 {
            0 => format!("/srv/{name}/**"),
            1 => format!("/opt/{name}/lib/*.so"),
            2 => format!("/var/lib/app/**/{name}.db"),
            _ => format!("**/{name}/*.tmp"),
        }
    })
}

/// A name of eight letters that no other number gives.
pub fn name(number: usize) -> String {
    let mut word = (number as u32).wrapping_mul(0x9e37_79b1);
    (0..8)
        .map(|_| {
            let letter = b'a' + (word & 15) as u8;
            word >>= 4;
            char::from(letter)
        })
        .collect()
}

/// What one kind of call took.
pub struct Measured {
    /// CPU time of the caller a call, nanoseconds.
    pub cpu_ns: f64,
    /// Time a call, nanoseconds.
    pub elapsed_ns: f64,
    /// Calls made.
    pub count: u64,
}

/// A `workload serve`.
pub struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut worker = Self { child, stdin, stdout };
        worker.expect("ready")?;
        Ok(worker)
    }

    /// The worker, or the monitor around it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has calls made.
    pub fn ask(&mut self, call: &str) -> Result<Measured> {
        writeln!(self.stdin.as_ref().context("still open")?, "{call}")?;
        let line = self.expect(call)?;
        let words: Vec<&str> = line.split(' ').collect();
        let [_, cpu, elapsed, count] = words.as_slice() else {
            bail!("the workload said `{line}`")
        };
        Ok(Measured { cpu_ns: cpu.parse()?, elapsed_ns: elapsed.parse()?, count: count.parse()? })
    }

    /// Ends it, and waits until the monitor is gone.
    pub fn end(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("the workload ended: {status}") }
    }

    fn expect(&mut self, first: &str) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.split_whitespace().next() != Some(first) {
            bail!("the workload said `{}` instead of `{first}`", line.trim());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has ended already where `end` was called; both calls then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Anonymous memory of a process, bytes.
pub fn rss_anon(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no RssAnon")?;
    Ok(kilobytes.trim().parse::<u64>()? << 10)
}

/// Memory of the BPF maps that a process holds, bytes.
pub fn map_memory(id: u32) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(format!("/proc/{id}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        if text.contains("map_type:") {
            let locked = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            total += locked.context("a map without memlock")?.trim().parse::<u64>()?;
        }
    }
    Ok(total)
}

/// Lines of a recording that hold one of these texts, by text.
pub fn count_lines<const N: usize>(path: &Path, texts: [&str; N]) -> Result<[u64; N]> {
    let mut counts = [0; N];
    let finders = texts.map(memchr::memmem::Finder::new);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        for (count, finder) in counts.iter_mut().zip(&finders) {
            *count += u64::from(finder.find(&line).is_some());
        }
        line.clear();
    }
    Ok(counts)
}

/// Events that a recording says were lost.
pub fn lost(path: &Path) -> Result<u64> {
    let mut total = 0;
    let finder = memchr::memmem::Finder::new("\"type\":\"loss\"");
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if finder.find(&line).is_some() {
            let event: serde_json::Value = serde_json::from_slice(&line)?;
            total += event["count"].as_u64().context("a loss without a count")?;
        }
        line.clear();
    }
    Ok(total)
}
