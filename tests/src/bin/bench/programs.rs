//! What a run of each kernel program costs, from the kernel's own statistics of BPF programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use aya::programs::loaded_programs;

use crate::fixture::{Fixture, Record, Worker};

const CALLS: [&str; 5] = ["getppid", "open", "exec", "connect", "send"];
const STATES: [&str; 3] = ["untagged", "tagged, not recorded", "tagged, recorded"];
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel keeps the statistics while this lives.
pub struct Enabled {
    before: String,
}

impl Enabled {
    /// Switches them on.
    pub fn new() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).context(SWITCH)?;
        fs::write(SWITCH, "1").context(SWITCH)?;
        Ok(Self { before })
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, &self.before);
    }
}

/// What the kernel has counted of one program.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    /// Time in it.
    pub ns: u64,
    /// Runs.
    pub runs: u64,
}

impl Spent {
    /// Since then.
    pub fn since(self, before: Self) -> Self {
        Self { ns: self.ns - before.ns, runs: self.runs - before.runs }
    }

    /// Nanoseconds a run.
    pub fn each(self) -> f64 {
        self.ns as f64 / self.runs as f64
    }
}

/// All loaded programs, by id, with their names.
pub fn all() -> BTreeMap<u32, (String, Spent)> {
    loaded_programs()
        .flatten()
        .map(|info| {
            let name = info.name_as_str().unwrap_or("?").to_owned();
            let spent = Spent { ns: info.run_time().as_nanos() as u64, runs: info.run_count() };
            (info.id(), (name, spent))
        })
        .collect()
}

/// Measures and prints.
pub fn measure(fixture: &Fixture) -> Result<()> {
    let _enabled = Enabled::new()?;
    let mut table = Table::new();
    let mut outside = fixture.outside()?;
    for record in [Record::Violations, Record::All] {
        let before: BTreeSet<u32> = all().into_keys().collect();
        let mut inside = fixture.inside(record)?;
        let own: BTreeSet<u32> = all().into_keys().filter(|id| !before.contains(id)).collect();
        match record {
            Record::Violations => {
                spend(&mut outside, &own, 0, &mut table)?;
                spend(&mut inside, &own, 1, &mut table)?;
            }
            Record::All => spend(&mut inside, &own, 2, &mut table)?,
        }
        inside.end()?;
    }
    outside.end()?;
    println!(
        "| call | program | {} |",
        STATES.map(|state| format!("{state}, ns a run")).join(" | ")
    );
    println!("| --- | --- | --- | --- | --- |");
    for ((call, program), states) in &table {
        let cells = states.map(|cell| match cell {
            Some((each, runs)) if (runs - 1.0).abs() < 0.1 => format!("{each:.0}"),
            Some((each, runs)) => format!("{each:.0} ({runs:.1} runs a call)"),
            None => "–".to_owned(),
        });
        println!("| {} | `{program}` | {} |", CALLS[*call], cells.join(" | "));
    }
    Ok(())
}

type Table = BTreeMap<(usize, String), [Option<(f64, f64)>; STATES.len()]>;

/// Has each call made, and notes what the programs spent on it. What runs less than once in ten
/// calls belongs to somebody else.
fn spend(
    worker: &mut Worker,
    programs: &BTreeSet<u32>,
    state: usize,
    table: &mut Table,
) -> Result<()> {
    for (number, call) in CALLS.iter().enumerate() {
        let before = all();
        let calls = worker.ask(call)?.count;
        for (id, (name, spent)) in all() {
            let Some((_, earlier)) = before.get(&id).filter(|_| programs.contains(&id)) else {
                continue;
            };
            let spent = spent.since(*earlier);
            let runs = spent.runs as f64 / calls as f64;
            if runs > 0.1 {
                let row = table.entry((number, name)).or_default();
                row[state] = Some((spent.each(), runs));
            }
        }
    }
    Ok(())
}
