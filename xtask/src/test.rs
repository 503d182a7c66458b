//! `cargo xtask test` and `vm-test`: unit tests, then the same end-to-end tests on this machine
//! and in the test machines.

use std::io::{BufRead, BufReader};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::command::{as_root, cargo, say};
use crate::machine::{Boot, Kernel, Processors, boot, build_debian, build_image};
use crate::results::Results;
use crate::{build, check, package, real_server, setup, workspace};

/// How long a machine may say nothing. Tests run the monitor several times, and every start loads
/// all programs, which the kernel's verifier takes its time for.
const MACHINE_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Behaviours of the monitor's own process: what they need of the kernel, others test on every one.
/// In the matrix they run once with each backend: here, and on the newest kernel with lsm.
const OF_USERSPACE: [&str; 13] = [
    "agent::",
    "detectors::",
    "disk::",
    "endurance::",
    "fleet::",
    "grants::",
    "learning::",
    "measures::",
    "metrics::",
    "real_server::",
    "recording::",
    "reports::",
    "running::",
];

/// Behaviours that take no longer in a hook than others do, nor share anything between hooks that
/// others do not: where hooks are preempted, too, the others are tested.
const OF_ANY_PREEMPTION: [&str; 11] = [
    "addresses::",
    "arguments::",
    "automaton::",
    "changes::",
    "host_names::",
    "inside::",
    "launching::",
    "machine::",
    "matching::",
    "processes::",
    "unix_sockets::",
];

/// Which boots, and which tests in them. Without options: the whole matrix.
#[derive(Args, Default)]
pub struct Selection {
    /// Only this kernel: 6.1 or 6.12
    #[arg(long)]
    kernel: Option<Kernel>,
    /// Only the boot with `preempt=full`, under which hooks are preempted, too
    #[arg(long)]
    preempt_full: bool,
    /// Only this backend: lsm or tracepoint
    #[arg(long)]
    backend: Option<String>,
    /// Only the package, on the machine that Debian's systemd boots
    #[arg(long, conflicts_with_all = ["kernel", "preempt_full", "backend"])]
    systemd: bool,
    /// Only the tests whose name holds this
    filter: Option<String>,
}

impl Selection {
    /// The boots and their backends.
    fn boots(&self) -> Vec<(Boot, String)> {
        if self.systemd {
            return Vec::new();
        }
        if self.is_whole() {
            return self.matrix();
        }
        let kernels = self.kernel.map_or_else(|| Kernel::ALL.to_vec(), |kernel| vec![kernel]);
        let backends = match self.backend.as_deref() {
            Some(backend) => vec![backend],
            None if self.preempt_full => vec!["lsm"],
            None => vec!["lsm", "tracepoint"],
        };
        let of = |kernel| backends.iter().map(move |backend| (kernel, *backend));
        let boots = kernels.into_iter().flat_map(of);
        boots.map(|(kernel, backend)| self.boot(kernel, backend, self.preempt_full, &[])).collect()
    }

    /// Each kernel with each backend, and the newest once with `preempt=full`.
    fn matrix(&self) -> Vec<(Boot, String)> {
        let without = [&OF_USERSPACE[..], &OF_ANY_PREEMPTION].concat();
        vec![
            self.boot(Kernel::V6_12, "lsm", false, &[]),
            self.boot(Kernel::V6_1, "lsm", false, &OF_USERSPACE),
            self.boot(Kernel::V6_12, "lsm", true, &without),
            self.boot(Kernel::V6_12, "tracepoint", false, &OF_USERSPACE),
            self.boot(Kernel::V6_1, "tracepoint", false, &OF_USERSPACE),
        ]
    }

    fn boot(
        &self,
        kernel: Kernel,
        backend: &str,
        preempt_full: bool,
        without: &[&str],
    ) -> (Boot, String) {
        let preempt = if preempt_full { "-preempt" } else { "" };
        let name = format!("{kernel}{preempt}-{backend}");
        let mut command = ["end-to-end", "--backend", backend].map(str::to_owned).to_vec();
        match &self.filter {
            Some(filter) => command.push(filter.clone()),
            None => command.extend(without.iter().map(|file| format!("--skip={file}"))),
        }
        let patience = MACHINE_PATIENCE;
        let processors = Processors::InTurn;
        let boot = Boot { name, kernel, preempt_full, processors, command, patience };
        (boot, backend.to_owned())
    }

    /// Whether this is the whole matrix, but for a filter.
    fn is_whole(&self) -> bool {
        self.kernel.is_none() && self.backend.is_none() && !self.preempt_full && !self.systemd
    }

    /// The boot of Debian's systemd, on which the package is installed. A filter alone is meant for
    /// the end-to-end tests.
    fn systemd(&self) -> Option<Boot> {
        let command = ["installed".to_owned()].into_iter().chain(self.filter.clone());
        (self.systemd || (self.is_whole() && self.filter.is_none())).then(|| Boot {
            name: format!("{}-systemd", Kernel::V6_12),
            kernel: Kernel::V6_12,
            preempt_full: false,
            processors: Processors::InTurn,
            command: command.collect(),
            patience: MACHINE_PATIENCE,
        })
    }
}

/// Which of the tests.
#[derive(Args)]
pub struct Parts {
    /// Only this part
    #[arg(long)]
    only: Option<Part>,
    /// Only the tests whose name holds this
    filter: Option<String>,
}

/// A part of all tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Unit tests
    Unit,
    /// End-to-end tests on this machine
    Host,
    /// End-to-end tests on the kernels of the matrix
    Machines,
}

/// Unit tests, formatting and lints, end-to-end tests here, end-to-end tests on the matrix.
pub fn parts(parts: Parts) -> Result<()> {
    let Parts { only, filter } = parts;
    let wanted = |part| only.is_none_or(|only| only == part);
    let mut results = Results::new();
    let mut runs = Vec::new();
    setup::everything()?;
    if wanted(Part::Unit) {
        build::kernel_programs()?;
        unit(&mut results, filter.as_deref())?;
    }
    if only.is_none() && filter.is_none() {
        for (name, clean) in check::each()? {
            results.end("check", name, clean);
        }
    }
    if wanted(Part::Host) || wanted(Part::Machines) {
        let programs = programs()?;
        setup::podman();
        if wanted(Part::Host) {
            setup::browser();
            runs.push(host(&mut results, filter.as_deref())?);
        }
        if wanted(Part::Machines) {
            let selection = Selection { filter, ..Selection::default() };
            runs.extend(machines(&mut results, &selection, &programs)?);
        }
    }
    if only.is_none() {
        results.refuse_untested(&runs);
    }
    finish(&results)
}

/// The end-to-end tests on the test machines alone.
pub fn on_machines(selection: &Selection) -> Result<()> {
    setup::machines()?;
    setup::podman();
    let mut results = Results::new();
    let programs = if selection.systemd { Vec::new() } else { programs()? };
    machines(&mut results, selection, &programs)?;
    finish(&results)
}

/// A command on a test machine, for a look by hand.
#[derive(Args)]
pub struct OnMachine {
    /// The kernel: 6.1 or 6.12
    #[arg(long, default_value_t = Kernel::V6_12)]
    kernel: Kernel,
    /// Boot with `preempt=full`
    #[arg(long)]
    preempt_full: bool,
    /// Put this program on its PATH, too; it must be static
    #[arg(long)]
    with: Vec<PathBuf>,
    /// The command; `mcp-monitor`, `actor`, `end-to-end` and busybox's tools are on the PATH
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Runs one command on a test machine and exits with its code.
pub fn one_command(what: OnMachine) -> Result<()> {
    setup::machines()?;
    setup::podman();
    let OnMachine { kernel, preempt_full, with, command } = what;
    let image = build_image(&[programs()?, with].concat(), real_servers().as_deref())?;
    let name = format!("{kernel}-command");
    let patience = MACHINE_PATIENCE;
    let processors = Processors::InTurn;
    let plan = Boot { name, kernel, preempt_full, processors, command, patience };
    std::process::exit(boot(&plan, &image, |line| println!("{line}"))?);
}

/// Builds what the tests run and returns it: the agent, the tests, the actor, the machines' init.
fn programs() -> Result<Vec<PathBuf>> {
    let (agent, tests) = build::agent_and(["end-to-end", "actor", "init"])?;
    Ok([agent].into_iter().chain(tests).collect())
}

fn unit(results: &mut Results, filter: Option<&str>) -> Result<()> {
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]).args(filter);
    tests.env("MCP_MONITOR_BPF_OBJECT", workspace::bpf_object());
    listen(results, "unit", &mut tests)
}

/// Runs the end-to-end tests here and returns the run's name and backend. This machine's own
/// kernel need not have BPF among its LSMs, so the backend is the one that works everywhere.
fn host(results: &mut Results, filter: Option<&str>) -> Result<(String, String)> {
    let tests = workspace::target().join(build::HOST).join("release/end-to-end");
    let (name, backend) = ("host-tracepoint", "tracepoint");
    let mut command = as_root(&tests);
    command.args(["--backend", backend]).args(filter).env("RUST_BACKTRACE", "1");
    if let Some(folder) = real_servers() {
        command.env("MCP_MONITOR_REAL_SERVERS", folder);
    }
    if let Some(programs) = setup::prometheus() {
        command.env("MCP_MONITOR_PROMETHEUS", programs);
    }
    if let Some(python) = setup::duckdb() {
        command.env("MCP_MONITOR_DUCKDB", python);
    }
    listen(results, name, &mut command)?;
    Ok((name.to_owned(), backend.to_owned()))
}

/// The folder of the real servers. Where there is none, their tests say that they were skipped,
/// and count as failed where nothing runs them.
fn real_servers() -> Option<PathBuf> {
    match real_server::installed() {
        Ok(folder) => Some(folder),
        Err(error) => {
            say(format!("no real server to test with: {error:#}"));
            None
        }
    }
}

/// Runs tests, passes their output on and takes their results.
fn listen(results: &mut Results, name: &str, command: &mut Command) -> Result<()> {
    say(format!("{name}: {:?}", command.get_program()));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start the tests")?;
    let stdout = child.stdout.take().context("the tests have no output")?;
    for bytes in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&bytes?).into_owned();
        println!("{line}");
        results.line(name, &line);
    }
    let status = child.wait()?;
    if !status.success() && !results.has_failed(name) {
        results.broke_off(name, &format!("broke off: {status}"));
    }
    Ok(())
}

/// Boots the selection, one machine more at a time than there are processors, because machines often
/// wait for grace periods. Returns name and backend of each run of the end-to-end tests.
fn machines(
    results: &mut Results,
    selection: &Selection,
    programs: &[PathBuf],
) -> Result<Vec<(String, String)>> {
    let boots = selection.boots();
    let mut machines = Vec::new();
    if !boots.is_empty() {
        let image = build_image(programs, real_servers().as_deref())?;
        machines.extend(boots.iter().map(|(boot, _)| (boot.clone(), image.clone())));
    }
    if let Some(boot) = selection.systemd() {
        machines.push((boot, build_debian(&package::under_test()?)?));
    }
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(results);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = machines.len().min(cores + 1);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((what, image)) = machines.get(next.fetch_add(1, Ordering::Relaxed)) {
                    machine(&shared, what, image);
                }
            });
        }
    });
    Ok(boots.into_iter().map(|(boot, backend)| (boot.name, backend)).collect())
}

fn machine(results: &Mutex<&mut Results>, what: &Boot, image: &Path) {
    let name = &what.name;
    let with_results = |act: &dyn Fn(&mut Results)| {
        act(&mut results.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let ended = boot(what, image, |line| {
        if !line.is_empty() {
            println!("[{name}] {line}");
        }
        with_results(&|results| results.line(name, line));
    });
    with_results(&|results| match &ended {
        Ok(0) => {}
        Ok(code) if !results.has_failed(name) => {
            results.broke_off(name, &format!("broke off with exit code {code}"));
        }
        Ok(_) => {}
        Err(error) => {
            println!("[{name}] {error:#}");
            results.broke_off(name, "the machine did not finish");
        }
    });
}

fn finish(results: &Results) -> Result<()> {
    println!("{results}");
    if results.failed() > 0 {
        // The closing line is the last: no error message behind it.
        std::process::exit(1);
    }
    Ok(())
}
