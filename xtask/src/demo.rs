//! `cargo xtask demo`: from a fresh clone to a caught attack.
//!
//! Builds what the demonstration needs and starts it; the demonstration itself is the tests'
//! `demo`, whose MCP client would make this crate slow to build.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::command::{as_root, run};
use crate::{build, real_server, setup};

/// Sets up, builds, installs the real server, and shows.
pub fn show() -> Result<()> {
    let mut clock = Clock::default();
    clock.time("the compiler of the kernel programs", setup::bpf_compiler)?;
    let (agent, [demo]) =
        clock.time("kernel programs, mcp-monitor, MCP client", || build::agent_and(["demo"]))?;
    let servers = clock.time("Node.js and the real server", real_server::installed)?;
    clock.time("the demo itself", || {
        run(as_root(demo).arg("--monitor").arg(&agent).arg("--servers").arg(&servers))
    })?;
    println!("{clock}");
    Ok(())
}

/// What took how long, downloads included.
#[derive(Default)]
struct Clock {
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn time<T>(&mut self, what: &'static str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let result = act();
        self.laps.push((what, started.elapsed()));
        result
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nIt took, with downloads:")?;
        for (what, lap) in &self.laps {
            writeln!(f, "{:8.1} s  {what}", lap.as_secs_f64())?;
        }
        let total: Duration = self.laps.iter().map(|(_, lap)| lap).sum();
        write!(f, "{:8.1} s  in all", total.as_secs_f64())
    }
}
