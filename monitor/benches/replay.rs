//! What replay does in a second: a recording of a million events as the kernel programs make them,
//! plain and in the page cache, by its own rules and by others:
//! `cargo bench -p mcp-monitor --bench replay`.
//!
//! Wall time counts, for the whole machine is meant; the median of several rounds is printed, with
//! the lowest and highest, the processor time beside it, and the most memory that was ever held.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mcp_monitor::{
    decode::{blank, decode, encode},
    enrich::{Clock, Enricher},
    judge,
    replay::{Options, Replay},
    rules::{self, Bindings, Compiled, SearchPath},
    segment::{Header, Recording},
    sink::recording::{Destination, RecordingOptions, SegmentWriter},
};
use monitor_common::{
    policy::InodeKey,
    record::{Peer, Record, change, did, kind},
};
use nix::time::{ClockId, clock_gettime};

const EVENTS: u64 = 1_000_000;
const ROUNDS: usize = 7;

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let recording = directory.path().join("million.jsonl");
    record(&recording)?;
    let bytes = fs::metadata(&recording)?.len();
    std::io::copy(&mut fs::File::open(&recording)?, &mut std::io::sink())?;
    println!("{EVENTS} events, lines of {} bytes", bytes / EVENTS);
    let other = directory.path().join("rules");
    fs::create_dir_all(other.join("servers"))?;
    let text = "schema = 1\nserver = \"default\"\n[files]\nread = [\"/home/user/projects/**\"]\n";
    fs::write(other.join("servers/default.toml"), text)?;
    measure("replay", &recording, None)?;
    measure("replay --rules", &recording, Some(&other))?;
    println!("most memory: {}", peak()?);
    Ok(())
}

fn measure(name: &str, recording: &Path, rules: Option<&PathBuf>) -> Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (start, cpu) = (Instant::now(), cpu_time()?);
        let mut replay = Replay::new(Options { rules: rules.cloned(), ..Options::default() });
        replay.recording(&Recording::file(recording), &mut |_| {}, &mut |_| {})?;
        ensure!(replay.counts.events == EVENTS, "{:?}", replay.counts);
        ensure!(replay.counts.other_alerts == 0, "{:?}", replay.counts);
        ensure!(replay.counts.other_verdicts == 0, "{:?}", replay.counts);
        ensure!(replay.differences.is_empty() != rules.is_some(), "differences");
        rounds.push((start.elapsed(), cpu_time()? - cpu));
    }
    rounds.sort();
    let rate = |(wall, _): (Duration, Duration)| EVENTS as f64 / wall.as_secs_f64();
    let [fastest, middle, slowest] = [0, ROUNDS / 2, ROUNDS - 1].map(|place| rounds[place]);
    println!(
        "{name:<16} {:>9.0} events a second  ({:.0} to {:.0}), {:.2} s of {:.2} s processor time",
        rate(middle),
        rate(slowest),
        rate(fastest),
        middle.0.as_secs_f64(),
        middle.1.as_secs_f64(),
    );
    Ok(())
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn peak() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.context("VmHWM")?.trim().to_owned())
}

/// Writes the recording.
fn record(path: &Path) -> Result<()> {
    let home = PathBuf::from("/home/user");
    let bindings = Bindings {
        own_homes: vec![home.clone()],
        home,
        user: "user".to_owned(),
        cwd: "/home/user/projects".into(),
        tmpdir: "/tmp".into(),
        arguments: vec!["server".into()],
        ..Bindings::default()
    };
    let loaded = rules::load(&SearchPath::built_in(), None, &bindings)?;
    let compiled = Arc::new(rules::compile(&loaded)?);
    let mut header = Header::of_host("lsm", &[])?;
    header.policies = vec![loaded.text(1, 1)];
    let destination = Destination::File(path.to_owned());
    let mut writer = SegmentWriter::open(destination, header, RecordingOptions::default(), None)?;
    let mut enricher = Enricher::new(0, Clock::measure());
    enricher.name(1, "default");
    enricher.explain(1, compiled.clone());
    let mut out = Vec::new();
    for number in 0..EVENTS {
        let (record, path, second) = happening(number);
        let strings = [path.as_bytes(), second.as_bytes(), b"/home/user/projects", b"node\0x.js\0"];
        let record = decided(record, strings, &compiled)?;
        enricher.record(&decode(&encode(record, strings))?, &mut out);
        out.drain(..).for_each(|event| writer.write(&event));
    }
    enricher.end(&mut out);
    out.drain(..).for_each(|event| writer.write(&event));
    ensure!(writer.finish().lost == 0, "events were lost");
    Ok(())
}

/// The verdict that the kernel programs would reach.
fn decided(mut record: Record, strings: [&[u8]; 4], rules: &Compiled) -> Result<Record> {
    let mut seen = Vec::new();
    Enricher::new(0, Clock::between(0, 0)).record(&decode(&encode(record, strings))?, &mut seen);
    record.decision = judge::judge(&seen[0], rules);
    Ok(record)
}

/// What a busy server does: mostly opens of a thousand files, by processes that come and go.
fn happening(number: u64) -> (Record, String, String) {
    let tgid = 4000 + (number / 1000 % 1000) as u32;
    let (kind, path) = match number % 1000 {
        0 => (kind::FORK, String::new()),
        1 => (kind::EXEC, "/usr/bin/node".to_owned()),
        999 => (kind::EXIT, String::new()),
        500 => (kind::OPEN, "/home/user/.ssh/id_ed25519".to_owned()),
        at if at % 20 == 2 => (kind::CHANGE, format!("/home/user/projects/out/{at}.tmp")),
        at if at % 50 == 3 => (kind::CONNECT, String::new()),
        at => {
            (kind::OPEN, format!("/home/user/projects/server/node_modules/package-{at}/index.js"))
        }
    };
    let mut record = blank(kind);
    (record.tgid, record.tid, record.ppid, record.uid) = (tgid, tgid, 3999, 1000);
    (record.start_ns, record.time_ns) = (u64::from(tgid) << 20, 1_987_654_321_012 + number * 3000);
    (record.instance, record.policy, record.cgroup) = (1, 1, 12_345);
    record.comm = *b"node\0\0\0\0\0\0\0\0\0\0\0\0";
    record.mnt_ns = 4_026_531_841;
    match kind {
        kind::FORK => {
            (record.tgid, record.tid, record.start_ns) = (3999, 3999, 1);
            (record.target.tgid, record.target.instance) = (tgid, 1);
            record.target.start_ns = u64::from(tgid) << 20;
        }
        kind::CONNECT => {
            let address = monitor_common::network::mapped_v4(0x0a00_0001);
            record.peer = Peer { address, port: 443, family: 2, socket_type: 1, protocol: 6 };
        }
        _ => {
            record.inode = InodeKey { ino: 1_048_576 + number, dev: 259 << 20 | 1, generation: 77 };
            (record.inode_mode, record.nlink, record.fs_magic) = (0o100_644, 1, 0xef53);
            record.did = did::READ;
        }
    }
    let renames = kind == kind::CHANGE;
    record.op = if renames { change::RENAME } else { 0 };
    let second = if renames { path.replace(".tmp", ".js") } else { String::new() };
    (record, path, second)
}
