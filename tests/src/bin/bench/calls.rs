//! What a call costs, by what is attached and whether the caller is tagged.

use anyhow::Result;

use crate::attached::Empty;
use crate::fixture::{Fixture, Record, Worker, count_lines, lost};
use crate::statistics::Median;

const CALLS: [&str; 5] = ["getppid", "open", "exec", "connect", "send"];
const TITLES: [&str; 5] =
    ["getppid", "open + close", "fork + exec + wait", "TCP connect + close", "UDP send + receive"];

/// Nanoseconds of each call: of the caller's CPU time, and by the clock.
type Times = [[f64; CALLS.len()]; 2];
const CLOCKS: [&str; 2] = ["CPU time of the caller", "time by the clock"];

/// One repetition.
struct Round {
    none: Times,
    empty: Times,
    untagged: Times,
    quiet: Times,
    recorded: Times,
}

/// Measures and prints.
pub fn measure(fixture: &Fixture, rounds: usize) -> Result<()> {
    let mut outside = fixture.outside()?;
    let mut all = Vec::new();
    let (mut made, mut recorded, mut missed) = (0, 0, 0);
    for _ in 0..rounds {
        let (round, opens) = round(fixture, &mut outside)?;
        let path = format!("\"path\":\"{}\"", fixture.file().display());
        let [opened] = count_lines(&fixture.events(), [&path])?;
        made += opens;
        recorded += opened;
        missed += lost(&fixture.events())?;
        all.push(round);
    }
    outside.end()?;
    print(&all);
    println!("Of {made} opens of tagged processes {recorded} were recorded, {missed} events lost.");
    Ok(())
}

/// Each state against "nothing attached" just before it, so that slow changes of the machine
/// cancel out. The times are made comparable: nothing attached is what it was the first time.
fn round(fixture: &Fixture, outside: &mut Worker) -> Result<(Round, u64)> {
    let none = times(outside)?.0;
    let scale = |now: Times, times: Times| -> Times {
        std::array::from_fn(|c| std::array::from_fn(|i| times[c][i] / now[c][i] * none[c][i]))
    };

    let attached = Empty::attach(fixture.backend())?;
    let empty = scale(none, times(outside)?.0);
    drop(attached);

    let now = times(outside)?.0;
    let mut inside = fixture.inside(Record::Violations)?;
    let untagged = scale(now, times(outside)?.0);
    let quiet = scale(now, times(&mut inside)?.0);
    inside.end()?;

    let now = times(outside)?.0;
    let mut inside = fixture.inside(Record::All)?;
    let (recorded, opens) = times(&mut inside)?;
    let recorded = scale(now, recorded);
    inside.end()?;
    Ok((Round { none, empty, untagged, quiet, recorded }, opens))
}

/// Times, and the opens that were made for them.
fn times(worker: &mut Worker) -> Result<(Times, u64)> {
    let mut times = Times::default();
    let mut opens = 0;
    for (i, call) in CALLS.iter().enumerate() {
        let measured = worker.ask(call)?;
        (times[0][i], times[1][i]) = (measured.cpu_ns, measured.elapsed_ns);
        if *call == "open" {
            opens = measured.count;
        }
    }
    Ok((times, opens))
}

fn print(rounds: &[Round]) {
    for (clock, name) in CLOCKS.iter().enumerate() {
        println!("By {name}:\n");
        println!(
            "| call | nothing attached, ns | empty programs | untagged | untagged / empty | \
             tagged, not recorded | tagged, recorded |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        for (call, title) in TITLES.iter().enumerate() {
            let ratio = |of: fn(&Round) -> &Times, to: fn(&Round) -> &Times| {
                Median::of(
                    rounds.iter().map(|round| of(round)[clock][call] / to(round)[clock][call]),
                )
            };
            let none: fn(&Round) -> &Times = |round| &round.none;
            println!(
                "| {title} | {:.0} | {} | {} | {} | {} | {} |",
                Median::of(rounds.iter().map(|round| round.none[clock][call])).middle(),
                ratio(|round| &round.empty, none),
                ratio(|round| &round.untagged, none),
                ratio(|round| &round.untagged, |round| &round.empty),
                ratio(|round| &round.quiet, none),
                ratio(|round| &round.recorded, none),
            );
        }
        println!();
    }
}
