//! What becomes of very many events: delivered and counted as lost, to the last one; and how much
//! memory the agent takes for it.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::fixture::{Fixture, Record, count_lines, lost, rss_anon};

/// Between two looks at the agent's memory.
const LOOK: Duration = Duration::from_millis(100);

/// A recording of this length holds events of the server.
const STARTED_BYTES: u64 = 4 << 20;

/// What came of one flood.
struct Outcome {
    opens: u64,
    opens_a_second: f64,
    /// Event lines of all kinds but `loss`.
    delivered: u64,
    /// Lines about the flooded file.
    recorded: u64,
    lost: u64,
    /// CPU time of the agent, seconds.
    cpu: f64,
    rss_anon: u64,
}

/// Measures and prints.
pub fn measure(fixture: &Fixture, count: u64, rate: u64) -> Result<()> {
    let threads = thread::available_parallelism()?.get() as u64;
    // What a flood of nothing records: the start and the end of the workload.
    let frame = flood(fixture, 0, threads, 0)?;
    println!(
        "| opens | threads | asked a second | reached | recorded | lost | unaccounted | recorded a \
         second | agent's CPU, s a million | RssAnon, MB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let throttled = rate * 30;
    for (count, rate) in [(throttled, rate), (count, 0)] {
        let outcome = flood(fixture, count, threads, rate)?;
        let missing =
            (outcome.opens + frame.delivered) as i64 - (outcome.delivered + outcome.lost) as i64;
        let asked = if rate == 0 { "all it can".to_owned() } else { rate.to_string() };
        println!(
            "| {} | {threads} | {asked} | {:.0} | {} | {} | {missing} | {:.0} | {:.1} | {:.1} |",
            outcome.opens,
            outcome.opens_a_second,
            outcome.recorded,
            outcome.lost,
            outcome.recorded as f64 / outcome.opens as f64 * outcome.opens_a_second,
            outcome.cpu / outcome.opens as f64 * 1e6,
            outcome.rss_anon as f64 / f64::from(1 << 20),
        );
    }
    Ok(())
}

fn flood(fixture: &Fixture, count: u64, threads: u64, rate: u64) -> Result<Outcome> {
    let words = [count, threads, rate].map(|number| OsString::from(number.to_string()));
    let file = fixture.file();
    let arguments = ["flood".as_ref(), file.as_os_str()].into_iter();
    let arguments = arguments.chain(words.iter().map(OsString::as_os_str));
    let mut command = fixture.monitored(Record::All, arguments)?;
    let mut agent = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let (mut most, mut cpu) = (0, 0.0);
    while agent.try_wait()?.is_none() {
        // Both fail when it ends in between. What its start took for a moment does not count.
        if fs::metadata(fixture.events()).is_ok_and(|recording| recording.len() > STARTED_BYTES) {
            most = most.max(rss_anon(agent.id()).unwrap_or(0));
        }
        cpu = cpu_seconds(agent.id()).unwrap_or(cpu);
        thread::sleep(LOOK);
    }
    let mut said = String::new();
    agent.stdout.take().context("a pipe")?.read_to_string(&mut said)?;
    let number = |key| {
        let words = said.split_whitespace();
        let value = words.filter_map(|word| word.split_once('=')).find(|(name, _)| *name == key);
        let value = value.with_context(|| format!("`{said}`: {}", fixture.stderr()))?.1;
        anyhow::Ok(value.parse::<u64>()?)
    };
    let (opens, ns) = (number("opened")?, number("ns")?);
    ensure!(opens == count, "{opens} opens instead of {count}");
    let path = format!("\"path\":\"{}\"", file.display());
    let texts =
        ["\"seq\":", "\"type\":\"loss\"", "\"type\":\"alert\"", "\"type\":\"agent\"", &path];
    let [lines, losses, alerts, own, recorded] = count_lines(&fixture.events(), texts)?;
    Ok(Outcome {
        opens,
        opens_a_second: opens as f64 / (ns as f64 / 1e9),
        delivered: lines - losses - alerts - own,
        recorded,
        lost: lost(&fixture.events())?,
        cpu,
        rss_anon: most,
    })
}

/// CPU time that a process has used.
fn cpu_seconds(id: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // Behind the name in parentheses, which may hold anything: utime and stime, fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<u64>).sum();
    // SAFETY: sysconf has no preconditions.
    Ok(ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
}
