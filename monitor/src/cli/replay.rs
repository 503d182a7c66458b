//! `mcp-monitor replay`: a recording judged again, by its own rules or by other ones.

use std::{
    fs,
    io::{self, BufWriter, IsTerminal as _, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{exit, finish, rule_options::is_directory};
use crate::{
    event::{Event, Shown, parse_time, printable},
    replay::{Change, Counts, Difference, Differences, Options, Replay},
    segment::{Recording, recordings},
    sink::terminal::{Terminal, shows_colour},
};

/// Judges recorded events again: by the rules that were in force, or by others.
///
/// Without --rules the recorded alerts come out again. With it the differences are shown: what
/// would have been denied, what let through, what would break. Exit code 1 when there are
/// violations or differences.
#[derive(Args)]
pub struct Arguments {
    /// Recordings: files, or directories of segments
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Compare with these rules; what they lack is taken from the recording
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Only the events of this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Only events from this time on: 2026-01-31, 2026-01-31T12:30 or with seconds, UTC
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<u64>,
    /// Only events before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<u64>,
    /// Print alert lines as recorded; of differences one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    finish(run(arguments))
}

/// A time, of which the end may be left out.
fn time(text: &str) -> Result<u64, String> {
    const WHOLE: &str = "0000-00-00T00:00:00.000000000";
    let text = text.strip_suffix('Z').unwrap_or(text);
    let rest = WHOLE.get(text.len()..).filter(|_| matches!(text.len(), 10 | 16 | 19 | 21..=29));
    let whole = rest.map(|rest| format!("{text}{rest}Z"));
    whole.and_then(|whole| parse_time(&whole)).ok_or_else(|| {
        "write a time in UTC, such as 2026-01-31, 2026-01-31T12:30 or 2026-01-31T12:30:05.25Z"
            .to_owned()
    })
}

fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    is_directory(arguments.rules.as_deref())?;
    let recordings = recordings(&arguments.paths)?;
    if recordings.is_empty() {
        bail!("there are no recordings (*.jsonl, *.jsonl.zst) in what was named");
    }
    let progress = progress(&recordings);
    let mut replay = Replay::new(Options {
        rules: arguments.rules.clone(),
        server: arguments.server.clone(),
        from_ns: arguments.from,
        to_ns: arguments.to,
    });
    let mut out = Out::new(arguments);
    for recording in &recordings {
        replay.recording(recording, &mut |alert| out.alert(alert), &mut |bytes| {
            progress.inc(bytes);
        })?;
    }
    progress.finish_and_clear();
    let Replay { counts, differences, .. } = &replay;
    if arguments.rules.is_some() {
        out.differences(counts, differences)?;
    }
    out.finish()?;
    say(counts, arguments.rules.is_some());
    let found = match arguments.rules {
        Some(_) => !differences.is_empty(),
        None => counts.violations != 0 || counts.other_alerts != 0 || counts.other_verdicts != 0,
    };
    Ok(if found { exit::FINDINGS } else { 0 })
}

/// A bar on a terminal; of compressed files nobody knows how much is in them.
fn progress(recordings: &[Recording]) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let files = || recordings.iter().flat_map(|recording| &recording.files);
    let plain = files().all(|file| file.extension().is_none_or(|ending| ending != "zst"));
    let bytes = files().filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum();
    let (bar, form) = match plain {
        true => (ProgressBar::new(bytes), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
        false => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
    bar.set_style(ProgressStyle::with_template(form).unwrap_or(ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// What is said to people about the replay itself, on standard error.
fn say(counts: &Counts, compared: bool) {
    let say = |text: String| {
        let _ = writeln!(io::stderr(), "mcp-monitor: {text}");
    };
    let Counts { runs, events, violations, alerts, same_alerts, other_alerts, .. } = counts;
    say(format!(
        "replayed {events} events of {runs} runs: {violations} violations, {alerts} alerts"
    ));
    match (other_alerts, same_alerts) {
        _ if compared => {}
        (0, 0) => {}
        (0, same) => say(format!("{same} alerts came out as recorded, and no other")),
        (other, same) => say(format!(
            "{same} alerts came out as recorded; {other} are only in the recording or only in the \
             replay"
        )),
    }
    if let Some(first) = &counts.first_other {
        say(format!(
            "{} events have another verdict than the recorded rules give, the first at {}",
            counts.other_verdicts,
            printable(first)
        ));
    }
    if counts.unjudged != 0 {
        say(format!(
            "{} events were taken as recorded: the recording lacks what their rules need",
            counts.unjudged
        ));
    }
    if counts.open_ends != 0 {
        say(format!(
            "{} runs have no end: still running, stopped with the agent, or cut off",
            counts.open_ends
        ));
    }
    if counts.lost != 0 {
        say(format!("{} events are missing, as the recording itself says", counts.lost));
    }
    if counts.partial && compared {
        say(
            "not all types of events were recorded ([record] in the rules): of the others nothing \
             can be said"
                .to_owned(),
        );
    }
}

/// Standard output.
struct Out {
    terminal: Terminal<BufWriter<io::Stdout>>,
    json: bool,
    compares: bool,
    line: Vec<u8>,
    failed: Option<io::Error>,
}

impl Out {
    fn new(arguments: &Arguments) -> Self {
        let colour = shows_colour(&io::stdout());
        Self {
            terminal: Terminal::new(BufWriter::new(io::stdout()), colour),
            json: arguments.json,
            compares: arguments.rules.is_some(),
            line: Vec::new(),
            failed: None,
        }
    }

    fn alert(&mut self, alert: &Event) {
        if self.compares {
            return;
        }
        if !self.json {
            return self.terminal.event(alert);
        }
        self.line.clear();
        alert.write(&mut self.line);
        self.line.push(b'\n');
        let written = self.terminal.out().write_all(&self.line);
        self.failed = self.failed.take().or(written.err());
    }

    fn differences(&mut self, counts: &Counts, differences: &Differences) -> anyhow::Result<()> {
        let sorted = differences.sorted();
        let out = self.terminal.out();
        if self.json {
            let all = json!({
                "events": counts.events,
                "compared": differences.compared,
                "unjudged": counts.unjudged,
                "lost": counts.lost,
                "complete": !counts.partial,
                "differences": sorted,
            });
            writeln!(out, "{all:#}")?;
            return Ok(());
        }
        if sorted.is_empty() {
            writeln!(out, "{} events: the same verdict on every one", differences.compared)?;
            return Ok(());
        }
        let rows: Vec<[String; 5]> = sorted.iter().copied().map(row).collect();
        let head = ["server", "what", "events", "category", "rule"].map(str::to_owned);
        let mut widths = [0; 5];
        for row in rows.iter().chain([&head]) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let [a, b, c, d, _] = widths;
        for ([server, what, count, category, rule], example) in
            [(&head, None)].into_iter().chain(rows.iter().zip(sorted.iter().map(Some)))
        {
            writeln!(out, "{server:<a$}  {what:<b$}  {count:>c$}  {category:<d$}  {rule}")?;
            if let Some(example) = example {
                let subject = Shown(example.first_subject.as_bytes());
                let exe = Shown(example.first_exe.as_bytes());
                writeln!(out, "{:a$}  first {} {exe}: {subject}", "", example.first_time)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.terminal.out().flush().context("cannot write")?;
        self.failed.take().map_or(Ok(()), |error| Err(error).context("cannot write"))
    }
}

fn row(difference: &Difference) -> [String; 5] {
    let Difference { server, change, was, becomes, category, rule, count, .. } = difference;
    let rule = match rule {
        Some(rule) if rule.line != 0 => {
            format!("{}:{} {}", printable(&rule.file), rule.line, printable(&rule.text))
        }
        Some(rule) => format!("{} {} {}", printable(&rule.file), rule.list, printable(&rule.text)),
        None => "(no single rule)".to_owned(),
    };
    let what = match change {
        Change::Breaks | Change::Denied => format!("{change} ({becomes})"),
        Change::LetThrough => format!("{change} ({was} before)"),
        Change::Reported | Change::Silent => change.to_string(),
    };
    [printable(server).to_string(), what, count.to_string(), (*category).to_owned(), rule]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_leave_out_their_end() {
        let day = time("2026-01-31").unwrap();
        assert_eq!(time("2026-01-31T00:00"), Ok(day));
        assert_eq!(time("2026-01-31T00:00:01.5Z"), Ok(day + 1_500_000_000));
        for wrong in ["", "2026", "2026-01-31T", "2026-02-30", "2026-01-31T12:30:05.", "yesterday"]
        {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
