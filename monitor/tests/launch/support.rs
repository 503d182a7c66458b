//! Starts the launcher and finds out what became of its processes.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A launcher that runs.
pub struct Launched {
    pub child: Child,
    stderr: BufReader<ChildStderr>,
    said: BTreeMap<String, String>,
}

/// What became of it.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// The launcher with a command, its streams piped.
pub fn launcher(command: &[&str]) -> Command {
    let mut launcher = Command::new(std::env::current_exe().unwrap());
    launcher.arg("launch").args(command);
    launcher.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // sudo's variables of whoever runs the tests are not part of a case.
    launcher.env_remove("SUDO_UID").env_remove("SUDO_GID");
    launcher
}

impl Launched {
    pub fn start(launcher: &mut Command) -> Self {
        let mut child = launcher.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, said: BTreeMap::new() }
    }

    /// A `name=value` line of the launcher's standard error, read up to there.
    pub fn said(&mut self, name: &str) -> String {
        let mut line = String::new();
        while !self.said.contains_key(name) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no {name} before the end");
            if let Some((name, value)) = line.trim_end().split_once('=') {
                self.said.insert(name.into(), value.into());
            }
        }
        self.said[name].clone()
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn cgroup(&mut self) -> PathBuf {
        self.said("cgroup").into()
    }

    /// A line of standard output.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        let stdout = self.child.stdout.as_mut().unwrap();
        while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    pub fn finish(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let mut stdout = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        Outcome { status: self.child.wait().unwrap(), stdout, stderr }
    }
}

/// Runs a command to its end.
pub fn run(command: &[&str]) -> Outcome {
    Launched::start(&mut launcher(command)).finish()
}

/// The directory that the outcome's launcher named is gone.
pub fn assert_cgroup_gone(outcome: &Outcome) {
    let path = outcome.stderr.lines().find_map(|line| line.strip_prefix("cgroup=")).unwrap();
    assert!(!Path::new(path).exists(), "{path} was left behind");
}

pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that exists and is no zombie.
pub fn alive(pid: &str) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// The process's state letter.
pub fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The exit code, 128 + signal for a killed launcher.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}
