//! What the host agent has to stand; each requirement fails the measurement when it is not met.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use end_to_end::{
    Backend,
    endurance::{self, IDLE_BYTES_MAX, IDLE_SHARE_MAX, Idle, Killed, alone},
};

const IDLE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 200;

/// Measures and prints. `brief` is how many instances run one after another, `kills` how often the
/// agent is killed.
pub fn measure(backend: Backend, brief: usize, kills: usize) -> Result<()> {
    println!("| what | result | took, s |\n| --- | --- | --- |");
    let Idle { share, bytes } = line("idle for a minute", || {
        let idle = alone(backend, |lab| endurance::idle(lab, IDLE))?;
        let Idle { share, bytes } = idle;
        Ok((format!("{:.3} % of a core, RssAnon {:.1} MB", share * 100.0, megabytes(bytes)), idle))
    })?;
    line(&format!("{kills} times `kill -9` under load"), || {
        let killed = alone(backend, |lab| endurance::kills(lab, kills))?;
        let Killed { times, refused, launches } = killed;
        let result = format!(
            "killed {times} times, {launches} times in a launch; {refused} forbidden opens, none \
             succeeded; no tag and no pin left"
        );
        Ok((result, ()))
    })?;
    line(&format!("{brief} instances, one after another"), || {
        let (before, after) = alone(backend, |lab| endurance::one_after_another(lab, brief))?;
        Ok((format!("after a tenth: {before}; after all: {after}"), ()))
    })?;
    line(&format!("{AT_ONCE} instances at once, rules of their own"), || {
        let bytes = alone(backend, |lab| endurance::at_once(lab, AT_ONCE))?;
        Ok((format!("each judged by its own; RssAnon {:.1} MB", megabytes(bytes)), ()))
    })?;
    // Told first, so that the others are measured all the same.
    ensure!(share < IDLE_SHARE_MAX, "idle: {share} of a core");
    ensure!(bytes < IDLE_BYTES_MAX, "idle: {bytes} bytes");
    Ok(())
}

/// Prints the result of one measurement and how long it took.
fn line<T>(what: &str, body: impl FnOnce() -> Result<(String, T)>) -> Result<T> {
    let start = Instant::now();
    let (result, value) = body()?;
    println!("| {what} | {result} | {:.0} |", start.elapsed().as_secs_f64());
    Ok(value)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
