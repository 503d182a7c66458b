//! `mcp-monitor verify`: whether recordings are as they were written, and what that rests on.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::{Value, json};

use super::{exit, finish};
use crate::{
    event::{Shown, format_time, printable},
    segment::{
        self, ChainHash, Position, Recording, Report, Trust,
        checkpoint::hex,
        key::{self, HOST_KEY},
        recordings,
    },
};

/// Losses that are shown to people.
const LOSSES_SHOWN: usize = 10;

/// Checks that recordings are as they were written: nothing changed, removed, put in or moved.
///
/// Checkpoints in the recording are trusted when they were made with this host's key, or with a
/// key that --key names. Exit code 1 when something is wrong, 4 when a file cannot be read.
#[derive(Args)]
pub struct Arguments {
    /// Recordings, or directories of them; plain or compressed with zstd
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A checkpoint (any line's `chain`) that was kept elsewhere: must be in one of them
    #[arg(long, value_name = "HASH", value_parser = parse_hash)]
    checkpoint: Option<ChainHash>,
    /// Trust checkpoints of this public key (the host's audit.pub) and no others; may be repeated
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_hash(text: &str) -> Result<ChainHash, String> {
    ChainHash::from_hex(text.as_bytes()).ok_or_else(|| "64 lower-case hex digits are wanted".into())
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    finish(run(arguments))
}

fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let trust = trust(arguments)?;
    let all = recordings(&arguments.paths)?;
    if all.is_empty() {
        anyhow::bail!("there are no recordings (*.jsonl, *.jsonl.zst) in the directories named");
    }
    let mut summary = Summary { trust, ..Summary::default() };
    let mut out = io::stdout().lock();
    let mut values = Vec::new();
    for recording in &all {
        let report = segment::verify(recording, &summary.trust);
        summary.add(&report);
        let unknown = report.unknown(&summary.trust);
        if arguments.json {
            values.push(to_json(recording, &report, &summary.trust, &unknown));
        } else {
            write_text(&mut out, recording, &report, &summary.trust, &unknown)?;
        }
    }
    let anchor_missing = summary.trust.anchor.filter(|_| !summary.anchored);
    if arguments.json {
        let findings = summary.code() != 0;
        let value = json!({"recordings": values, "findings": findings, "checkpoint_found":
            summary.trust.anchor.map(|_| summary.anchored)});
        writeln!(out, "{value:#}")?;
    } else if let Some(anchor) = anchor_missing {
        writeln!(
            out,
            "WRONG: no line has the chain {anchor}: the recording that held it was cut off, made \
             anew, or is not among these"
        )?;
    }
    Ok(summary.code())
}

/// The keys that are trusted: those named, or this host's.
fn trust(arguments: &Arguments) -> anyhow::Result<Trust> {
    let mut trust = Trust { anchor: arguments.checkpoint, ..Trust::default() };
    trust.only = !arguments.keys.is_empty();
    for path in &arguments.keys {
        trust.keys.push(key::public(path)?.to_bytes());
    }
    let host = key::public_path(Path::new(HOST_KEY));
    if !trust.only && host.exists() {
        trust.keys.push(key::public(&host)?.to_bytes());
    }
    Ok(trust)
}

/// What all recordings together come to.
#[derive(Default)]
struct Summary {
    trust: Trust,
    anchored: bool,
    wrong: bool,
    unreadable: bool,
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.anchored |= report.anchor.is_some();
        match &report.bad {
            Some(bad) if bad.fault.is_io() => self.unreadable = true,
            Some(_) => self.wrong = true,
            None => {}
        }
        self.wrong |= unsigned(report, &self.trust);
    }

    fn code(&self) -> u8 {
        match (self.wrong || self.trust.anchor.is_some() && !self.anchored, self.unreadable) {
            (true, _) => exit::FINDINGS,
            (_, true) => exit::DATA,
            _ => 0,
        }
    }
}

/// Keys were named, and none of them has signed anything.
fn unsigned(report: &Report, trust: &Trust) -> bool {
    trust.only && report.signed.is_none() && report.bad.is_none()
}

fn shown(path: &Path) -> Shown<'_> {
    Shown(path.as_os_str().as_encoded_bytes())
}

fn write_text(
    out: &mut impl Write,
    recording: &Recording,
    report: &Report,
    trust: &Trust,
    unknown: &[String],
) -> io::Result<()> {
    let host = report.header.as_ref().map_or("?", |header| header.header.host.as_str());
    writeln!(
        out,
        "{}: {} lines, {} events, {} segments, host {}",
        shown(&recording.name),
        report.lines,
        report.events,
        report.segments,
        printable(host)
    )?;
    if let Some((at, chain)) = &report.last {
        writeln!(out, "  chained  up to line {} of {}: {chain}", at.line, shown(&at.file))?;
    }
    if let Some(signed) = &report.signed {
        let time = format_time(signed.checkpoint.time_ns);
        let by = match trust.keys.contains(&signed.checkpoint.key) {
            true => "a trusted key",
            false => "an unknown key",
        };
        let (line, file) = (signed.at.line, shown(&signed.at.file));
        writeln!(out, "  signed   up to line {line} of {file}: {time} with {by}")?;
    }
    if let Some(at) = &report.anchor {
        writeln!(out, "  anchored at line {} of {}", at.line, shown(&at.file))?;
    }
    for (at, loss) in report.losses.iter().take(LOSSES_SHOWN) {
        let (ring, reason) = (printable(&loss.ring), printable(&loss.reason));
        writeln!(out, "  lost     {} events, {ring}: {reason} (line {})", loss.count, at.line)?;
    }
    if report.losses.len() > LOSSES_SHOWN {
        writeln!(out, "  lost     {} events in all", report.lost)?;
    }
    if let Some(bad) = &report.bad {
        let label = if bad.fault.is_io() { "UNREAD" } else { "WRONG" };
        writeln!(out, "  {label:<8} {bad}")?;
    }
    if unsigned(report, trust) {
        writeln!(out, "  WRONG    nothing in it is signed with the keys that --key names")?;
    }
    for sentence in unknown {
        writeln!(out, "  unknown  {sentence}")?;
    }
    Ok(())
}

fn to_json(recording: &Recording, report: &Report, trust: &Trust, unknown: &[String]) -> Value {
    let text =
        |path: &Path| crate::event::Bytes::from(path.as_os_str().as_encoded_bytes()).to_text();
    let place =
        |at: &Position| json!({"file": text(&at.file), "line": at.line, "offset": at.offset});
    let losses: Vec<Value> = report
        .losses
        .iter()
        .map(|(at, loss)| {
            let (ring, reason, count) = (&loss.ring, &loss.reason, loss.count);
            json!({"at": place(at), "ring": ring, "reason": reason, "count": count,
                "first_seq": loss.range.map(|range| range.0), "last_seq": loss.range.map(|range| range.1)})
        })
        .collect();
    let signed = report.signed.as_ref().map(|signed| {
        let checkpoint = &signed.checkpoint;
        json!({"at": place(&signed.at), "chain": signed.chain.to_string(),
            "time": format_time(checkpoint.time_ns), "next_seq": checkpoint.next_seq,
            "key": hex(&checkpoint.key), "trusted": trust.keys.contains(&checkpoint.key)})
    });
    let bad = report.bad.as_ref().map(|bad| {
        json!({"file": text(&bad.file), "line": bad.line, "offset": bad.offset,
            "message": bad.fault.to_string(), "unreadable": bad.fault.is_io()})
    });
    json!({
        "name": text(&recording.name),
        "files": recording.files.iter().map(|path| text(path)).collect::<Vec<_>>(),
        "host": report.header.as_ref().map(|header| &header.header.host),
        "lines": report.lines, "events": report.events, "segments": report.segments,
        "first_seq": report.seqs.map(|seqs| seqs.0), "last_seq": report.seqs.map(|seqs| seqs.1),
        "follows": report.follows.map(|chain| chain.to_string()),
        "last": report.last.as_ref().map(|(at, chain)| json!({"at": place(at), "chain": chain.to_string()})),
        "signed": signed, "ended": report.ended, "open_joints": report.joints.as_ref().map_or(0, |joints| joints.1), "writing": report.writing, "anchor": report.anchor.as_ref().map(place),
        "losses": losses, "lost": report.lost, "bad": bad, "unsigned": unsigned(report, trust),
        "unknown": unknown,
    })
}
