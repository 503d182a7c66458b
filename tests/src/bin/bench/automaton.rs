//! What the automaton costs by the byte in the kernel, and that this does not depend on the number
//! of patterns. The function of the hooks is run by BPF_PROG_TEST_RUN on paths of several lengths;
//! the slope of the kernel's run times over the lengths is the cost of a byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use end_to_end::Backend;
use mcp_monitor::kernel::{self, Kernel, Options};
use mcp_monitor::rules::{self, Bindings, SearchPath};
use monitor_common::policy::set;

use crate::fixture::{name, patterns};
use crate::programs::{Enabled, Spent, all};
use crate::statistics::Median;

const LENGTHS: [usize; 3] = [64, 512, 2048];
const COUNTS: [usize; 2] = [20, 400];
const RUNS: u32 = 2000;
/// The kernel keeps 15 bytes of a program's name.
const PROGRAM: &str = "control_classif";

/// A set of rules, and the beginning of a path that keeps as many tables busy as the name says.
struct Case {
    name: &'static str,
    patterns: fn(usize) -> Vec<String>,
    beginning: &'static str,
    sets: bool,
}

const CASES: [Case; 2] = [
    Case {
        name: "one table, no set, never decided early",
        patterns: |count| (0..count).map(|i| format!("/srv/**/{}.db", name(i))).collect(),
        beginning: "/srv",
        sets: false,
    },
    Case {
        name: "all three tables, built-in sets and rules of all kinds",
        patterns: |count| patterns(count).collect(),
        beginning: "/var/lib/app",
        sets: true,
    },
];

/// Measures and prints.
pub fn measure(backend: Backend, rounds: usize) -> Result<()> {
    let backend = match backend {
        Backend::Lsm => kernel::Backend::Lsm,
        Backend::Tracepoint => kernel::Backend::Tracepoint,
    };
    let _enabled = Enabled::new()?;
    let mut kernel = Kernel::load(&Options { backend: Some(backend), ..Options::default() })?;
    println!("| rules | patterns | states | ns a byte | ns for 64 bytes |");
    println!("| --- | --- | --- | --- | --- |");
    for case in &CASES {
        let folder = tempfile::tempdir()?;
        let mut slots = Vec::new();
        for (number, count) in COUNTS.iter().enumerate() {
            let compiled = compile(folder.path(), case, *count)?;
            let states: usize = compiled.tables.iter().map(|table| table.states).sum();
            slots.push((*count, states, kernel.install(number as u32 + 1, &compiled)?));
        }
        let mut slopes = vec![Vec::new(); COUNTS.len()];
        let mut shortest = slopes.clone();
        for _ in 0..rounds {
            for (at, (.., slot)) in slots.iter().enumerate() {
                let times = times(&mut kernel, *slot, case.beginning)?;
                slopes[at].push(slope(&times));
                shortest[at].push(times[0]);
            }
        }
        for (at, (count, states, slot)) in slots.into_iter().enumerate() {
            let (each, short) = (Median::of(slopes[at].clone()), Median::of(shortest[at].clone()));
            println!("| {} | {count} | {states} | {each} | {short:.0} |", case.name);
            kernel.retire(slot)?;
        }
    }
    Ok(())
}

fn compile(folder: &Path, case: &Case, count: usize) -> Result<rules::Compiled> {
    for name in ["servers", "sets"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let mut text = "schema = 1\nserver = \"bench\"\n[files]\nread = [\n".to_owned();
    for pattern in (case.patterns)(count) {
        writeln!(text, "  \"{pattern}\",")?;
    }
    fs::write(folder.join("servers/bench.toml"), text + "]\n")?;
    if !case.sets {
        for name in set::NAMES {
            let text = format!("schema = 1\nset = \"{name}\"\naccess = []\n");
            fs::write(folder.join(format!("sets/{name}.toml")), text)?;
        }
    }
    let home = folder.join("home");
    let bindings = Bindings {
        own_homes: vec![home.clone()],
        home,
        user: "bench".to_owned(),
        cwd: folder.to_owned(),
        tmpdir: folder.join("tmp"),
        ..Bindings::default()
    };
    let loaded = rules::load(&SearchPath::new(Some(folder)), Some("bench"), &bindings)?;
    Ok(rules::compile(&loaded)?)
}

/// Nanoseconds of a run, by [`LENGTHS`].
fn times(kernel: &mut Kernel, slot: kernel::Slot, beginning: &str) -> Result<[f64; LENGTHS.len()]> {
    let mut times = [0.0; LENGTHS.len()];
    for (time, length) in times.iter_mut().zip(LENGTHS) {
        let mut path = beginning.to_owned();
        while path.len() < length {
            path.push_str(["/src", "/component", "/lib-0", "/part-"][path.len() % 4]);
        }
        path.truncate(length);
        let before = all();
        for _ in 0..RUNS {
            kernel.classify_path(slot, path.as_bytes())?;
        }
        *time = ours(&before)?.each();
    }
    Ok(times)
}

/// What our program spent since `before`: the one of its name that ran as often as we asked, as
/// other monitors may be at work on this machine.
fn ours(before: &BTreeMap<u32, (String, Spent)>) -> Result<Spent> {
    let spent: Vec<Spent> = all()
        .into_iter()
        .filter(|(_, (name, _))| name == PROGRAM)
        .filter_map(|(id, (_, spent))| Some(spent.since(before.get(&id)?.1)))
        .filter(|spent| spent.runs == u64::from(RUNS))
        .collect();
    ensure!(spent.len() <= 1, "another measurement is running on this machine");
    spent.first().copied().context("the kernel counted no runs: is bpf_stats_enabled 0?")
}

/// Least squares over [`LENGTHS`].
fn slope(times: &[f64; LENGTHS.len()]) -> f64 {
    let count = LENGTHS.len() as f64;
    let x_mean = LENGTHS.iter().sum::<usize>() as f64 / count;
    let y_mean = times.iter().sum::<f64>() / count;
    let pairs = LENGTHS.iter().zip(times).map(|(x, y)| (*x as f64 - x_mean, y - y_mean));
    let (xy, xx) = pairs.fold((0.0, 0.0), |(xy, xx), (x, y)| (xy + x * y, xx + x * x));
    xy / xx
}
