//! How soon a server runs under watch, and what the agent holds in memory meanwhile.

use std::time::Instant;

use anyhow::Result;

use crate::fixture::{Fixture, Record, map_memory, rss_anon};
use crate::statistics::Median;

/// Measures and prints.
pub fn measure(fixture: &Fixture, rounds: usize) -> Result<()> {
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    let (mut anonymous, mut maps) = (0, 0);
    for _ in 0..rounds {
        let start = Instant::now();
        let worker = fixture.outside()?;
        alone.push(start.elapsed().as_secs_f64() * 1e3);
        worker.end()?;

        let start = Instant::now();
        let worker = fixture.inside(Record::All)?;
        watched.push(start.elapsed().as_secs_f64() * 1e3);
        anonymous = anonymous.max(rss_anon(worker.id())?);
        maps = maps.max(map_memory(worker.id())?);
        worker.end()?;
    }
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("| what | value |\n| --- | --- |");
    println!("| a server's first line without the monitor, ms | {:.0} |", Median::of(alone));
    println!("| the same under `mcp-monitor run`, ms | {:.0} |", Median::of(watched));
    println!("| RssAnon of the idle agent, MB | {:.1} |", megabytes(anonymous));
    println!("| memory of its BPF maps (fdinfo), MB | {:.1} |", megabytes(maps));
    Ok(())
}
