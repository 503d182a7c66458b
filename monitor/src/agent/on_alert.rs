//! The command that is run for each alert (`[on_alert]`): to rotate a token, say, or to page
//! somebody. It is bounded in every way, because whoever makes alerts must not make processes
//! without end: so many at one time, so long each, and so many alerts that wait.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use prometheus::IntCounterVec;

use super::config;

/// Alerts that wait for a place.
const WAITING_MAX: usize = 64;
/// How often a command is looked at while it runs.
const LOOK: Duration = Duration::from_millis(20);
/// All of its environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What became of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The command ended well.
    Done,
    /// It could not be started, or ended otherwise.
    Failed,
    /// It ran for too long and was killed.
    Overdue,
    /// It was not started, because too many alerts waited.
    Dropped,
}

const OUTCOMES: [Outcome; 4] = [Outcome::Done, Outcome::Failed, Outcome::Overdue, Outcome::Dropped];

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Overdue => "overdue",
            Self::Dropped => "dropped",
        }
    }
}

/// Hands alerts to the command.
pub struct OnAlert {
    waiting: Option<SyncSender<Arc<str>>>,
    results: IntCounterVec,
    told: [u64; OUTCOMES.len()],
}

impl OnAlert {
    /// Ready to run what is configured, which may be nothing. Results are counted by their names.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(config: &config::OnAlert, results: IntCounterVec) -> io::Result<Self> {
        for outcome in OUTCOMES {
            results.with_label_values(&[outcome.name()]).inc_by(0);
        }
        let mut on_alert = Self { waiting: None, results, told: [0; OUTCOMES.len()] };
        if config.command.is_empty() {
            return Ok(on_alert);
        }
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..config.at_once {
            let (receiver, results) = (receiver.clone(), on_alert.results.clone());
            let (command, limit) = (config.command.clone(), Duration::from_secs(config.seconds));
            let work = move || {
                while let Some(alert) = next(&receiver) {
                    let outcome = run(&command, &alert, limit);
                    results.with_label_values(&[outcome.name()]).inc();
                }
            };
            thread::Builder::new().name("on_alert".to_owned()).spawn(work)?;
        }
        on_alert.waiting = Some(sender);
        Ok(on_alert)
    }

    /// Has the command run for an alert, given as its line. It never waits.
    pub fn alert(&self, line: &Arc<str>) {
        if let Some(waiting) = &self.waiting
            && waiting.try_send(line.clone()).is_err()
        {
            self.results.with_label_values(&[Outcome::Dropped.name()]).inc();
        }
    }

    /// What has gone wrong since the last call, in words.
    pub fn trouble(&mut self) -> Option<String> {
        let mut parts = Vec::new();
        for (told, outcome) in self.told.iter_mut().zip(OUTCOMES) {
            let count = self.results.with_label_values(&[outcome.name()]).get();
            let new = count - std::mem::replace(told, count);
            let what = match outcome {
                Outcome::Done => continue,
                Outcome::Failed => "failed",
                Outcome::Overdue => "was killed because it took too long",
                Outcome::Dropped => "was not started because too many alerts waited",
            };
            if new > 0 {
                parts.push(format!("{what} for {new} alerts"));
            }
        }
        (!parts.is_empty()).then(|| format!("the command of on_alert {}", parts.join(", and ")))
    }
}

fn next(waiting: &Mutex<Receiver<Arc<str>>>) -> Option<Arc<str>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn run(command: &[String], alert: &str, limit: Duration) -> Outcome {
    let Some((program, arguments)) = command.split_first() else { return Outcome::Failed };
    let Ok(input) = input(alert) else { return Outcome::Failed };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/").process_group(0);
    command.stdin(Stdio::from(input)).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return Outcome::Failed };
    let group = Pid::from_raw(child.id() as i32);
    let end = Instant::now() + limit;
    let in_time = loop {
        match has_ended(group) {
            true => break true,
            false if Instant::now() >= end => break false,
            false => thread::sleep(LOOK),
        }
    };
    // Before its number is free for others: with it goes what it has left running.
    let _ = killpg(group, Signal::SIGKILL);
    match child.wait() {
        _ if !in_time => Outcome::Overdue,
        Ok(status) if status.success() => Outcome::Done,
        _ => Outcome::Failed,
    }
}

/// A file in memory: whoever does not read it makes nobody wait.
fn input(alert: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("alert", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(alert.as_bytes())?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file)
}

fn has_ended(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(waitid(Id::Pid(child), flags), Ok(WaitStatus::StillAlive))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use prometheus::Opts;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn counters() -> IntCounterVec {
        IntCounterVec::new(Opts::new("results", "Results"), &["result"]).unwrap()
    }

    fn of(results: &IntCounterVec, outcome: Outcome) -> u64 {
        results.with_label_values(&[outcome.name()]).get()
    }

    #[test]
    fn the_command_gets_one_alert_and_a_clean_environment() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let script = format!("cat > {0}; env >> {0}; pwd >> {0}", out.display());
        assert_eq!(run(&shell(&script), "{\"v\":1}", Duration::from_secs(60)), Outcome::Done);
        let said = fs::read_to_string(out).unwrap();
        assert!(said.starts_with("{\"v\":1}\n") && said.ends_with("/\n"), "{said}");
        assert!(!said.contains("CARGO") && said.contains(PATH), "{said}");
    }

    #[test]
    fn what_fails_is_told_from_what_takes_too_long() {
        let quick = Duration::from_millis(100);
        let patient = Duration::from_secs(60);
        assert_eq!(run(&shell("exit 3"), "", patient), Outcome::Failed);
        assert_eq!(run(&["/no/such".to_owned()], "", patient), Outcome::Failed);
        assert_eq!(run(&shell("while :; do sleep 1; done"), "", quick), Outcome::Overdue);
        assert_eq!(run(&shell("exec <&-; exit 0"), &"x".repeat(1 << 20), patient), Outcome::Done);
    }

    #[test]
    fn what_a_command_leaves_running_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}", file.display());
        assert_eq!(run(&shell(&script), "", Duration::from_secs(60)), Outcome::Done);
        let pid = fs::read_to_string(file).unwrap();
        let state = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok();
        while state().is_some_and(|stat| !stat.contains(") Z ")) {
            thread::sleep(LOOK);
        }
    }

    #[test]
    fn more_alerts_than_have_a_place_are_counted_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let go = folder.path().join("go");
        let script = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
        let config = config::OnAlert { command: shell(&script), at_once: 2, seconds: 600 };
        let results = counters();
        let mut on_alert = OnAlert::start(&config, results.clone()).unwrap();
        for _ in 0..1000 {
            on_alert.alert(&"{}".into());
        }
        let dropped = of(&results, Outcome::Dropped);
        assert!((1000 - 2 - WAITING_MAX as u64..=1000 - WAITING_MAX as u64).contains(&dropped));
        assert!(on_alert.trouble().is_some_and(|told| told.contains("too many alerts")));
        assert_eq!(on_alert.trouble(), None);
        fs::write(go, "").unwrap();
        while of(&results, Outcome::Done) + dropped < 1000 {
            thread::sleep(LOOK);
        }
        assert_eq!(of(&results, Outcome::Failed) + of(&results, Outcome::Overdue), 0);
    }

    #[test]
    fn nothing_is_run_where_nothing_is_configured() {
        let results = counters();
        let mut on_alert = OnAlert::start(&config::OnAlert::default(), results.clone()).unwrap();
        on_alert.alert(&"{}".into());
        assert_eq!(on_alert.trouble(), None);
        assert!(OUTCOMES.iter().all(|outcome| of(&results, *outcome) == 0));
    }
}
