//! What an event costs on its way to the recording, and on its way back, in CPU time of one core:
//! records of opens as the kernel makes them: `cargo bench -p mcp-monitor --bench events`.
//!
//! Each step is timed in rounds that take turns, so that a slow spell of the machine meets all of
//! them; the median round is printed, with the lowest and highest.

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use ed25519_dalek::SigningKey;
use mcp_monitor::{
    decode::{blank, decode, encode},
    enrich::{Clock, Enricher, Merge, Source},
    event::Event,
    segment::{Header, Recording, Trust, verify},
    sink::recording::{Destination, RecordingOptions, SegmentWriter},
};
use monitor_common::{policy::InodeKey, record};
use nix::time::{ClockId, clock_gettime};

const EVENTS: u64 = 200_000;
const ROUNDS: usize = 9;

/// Records of opens of 1000 files.
fn records() -> Vec<Vec<u8>> {
    let record = |number: u64| {
        let mut record = blank(record::kind::OPEN);
        (record.tgid, record.tid, record.ppid, record.uid) = (4321, 4322, 4320, 1000);
        (record.start_ns, record.time_ns) = (987_654_321_012, 1_987_654_321_012 + number * 3000);
        (record.instance, record.policy, record.cgroup) = (1, 1, 12_345);
        record.inode = InodeKey { ino: 1_048_576 + number, dev: 259 << 20 | 1, generation: 77 };
        (record.inode_mode, record.nlink, record.fs_magic) = (0o100_644, 1, 0xef53);
        (record.mnt_ns, record.did) = (4_026_531_841, record::did::READ);
        record.comm = *b"node\0\0\0\0\0\0\0\0\0\0\0\0";
        let path = format!("/home/user/projects/server/node_modules/package-{number}/index.js");
        encode(record, [path.as_bytes(), b"", b"", b""])
    };
    (0..1000).map(record).collect()
}

/// An enricher that knows the process, and the event that told it.
fn enricher(next_seq: u64, out: &mut Vec<Event>) -> Result<Enricher> {
    let mut enricher = Enricher::new(next_seq, Clock::measure());
    enricher.name(1, "filesystem");
    let mut exec = blank(record::kind::EXEC);
    (exec.tgid, exec.start_ns, exec.instance) = (4321, 987_654_321_012, 1);
    let exec = encode(exec, [b"/usr/bin/node", b"", b"/home/user/projects/server", b"node\0"]);
    enricher.record(&decode(&exec)?, out);
    Ok(enricher)
}

fn events(records: &[Vec<u8>]) -> Result<Vec<Event>> {
    let mut out = Vec::new();
    let mut enricher = enricher(0, &mut Vec::new())?;
    for record in records {
        enricher.record(&decode(record)?, &mut out);
    }
    Ok(out)
}

/// Rounds of one step, in events a second.
struct Step {
    name: &'static str,
    run: Box<dyn FnMut() -> Result<u64>>,
    rates: Vec<f64>,
}

fn step(name: &'static str, run: impl FnMut() -> Result<u64> + 'static) -> Step {
    Step { name, run: Box::new(run), rates: Vec::new() }
}

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let recording = directory.path().join("bench.jsonl");
    record_all(&recording, &records())?;
    let mut steps = steps(directory.path().join("live.jsonl"), &recording)?;
    for _ in 0..ROUNDS {
        for step in &mut steps {
            let start = cpu_time()?;
            let count = (step.run)()?;
            step.rates.push(count as f64 / (cpu_time()? - start).as_secs_f64());
        }
    }
    let bytes = fs::metadata(&recording)?.len() / EVENTS;
    println!("events a second of one core's time, lines of {bytes} bytes");
    for Step { name, rates, .. } in &mut steps {
        rates.sort_by(f64::total_cmp);
        let [low, middle, high] = [0, ROUNDS / 2, ROUNDS - 1].map(|place| rates[place]);
        let megabytes = middle * bytes as f64 / 1e6;
        println!(
            "{name:<44} {middle:>10.0}  ({low:.0} to {high:.0})  {megabytes:.0} MB/s of lines"
        );
    }
    by_the_clock(&directory.path().join("segments"))
}

/// The whole way into a directory, as `run` records: rotation, checkpoints, and compression by a
/// thread beside.
fn by_the_clock(directory: &Path) -> Result<()> {
    const TIMES: u64 = 10;
    let records = records();
    let destination =
        Destination::Directory { directory: directory.to_owned(), stream: "bench".to_owned() };
    let key = SigningKey::from_bytes(&[7; 32]);
    let header = Header::of_host("lsm", &[])?;
    let options = RecordingOptions::default();
    let mut writer = SegmentWriter::open(destination, header, options, Some(key))?;
    let start = Instant::now();
    let done = (0..TIMES)
        .try_fold(0, |done, _| Ok::<_, anyhow::Error>(done + feed(&mut writer, &records)?))?;
    let fed = start.elapsed();
    let totals = writer.finish();
    anyhow::ensure!(totals.lost == 0, "{} events were lost: {:?}", totals.lost, totals.reason);
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<std::io::Result<Vec<_>>>()?;
    let plain = names.iter().filter(|name| name.as_encoded_bytes().ends_with(b".jsonl")).count();
    println!(
        "by the clock, into signed segments: {:.0} events a second; {plain} of {} segments are not \
         compressed",
        done as f64 / fed.as_secs_f64(),
        names.len()
    );
    Ok(())
}

/// Of this thread, so that other work on the machine counts little.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn record_all(path: &Path, records: &[Vec<u8>]) -> Result<u64> {
    let _ = fs::remove_file(path);
    let header = Header::of_host("lsm", &[])?;
    let (destination, options) = (Destination::File(path.to_owned()), RecordingOptions::default());
    let mut writer = SegmentWriter::open(destination, header, options, None)?;
    let done = feed(&mut writer, records)?;
    let totals = writer.finish();
    anyhow::ensure!(totals.lost == 0, "{} events were lost: {:?}", totals.lost, totals.reason);
    Ok(done)
}

/// Puts records through everything in front of the recording, and into it.
fn feed(writer: &mut SegmentWriter, records: &[Vec<u8>]) -> Result<u64> {
    let (mut enriched, mut merge) = (Vec::new(), Merge::default());
    let mut enricher = enricher(writer.next_seq(), &mut enriched)?;
    let mut done = 0;
    while done < EVENTS {
        for record in records {
            merge.push(Source::Events, record);
        }
        while let Some(record) = merge.drain() {
            enricher.record(&decode(record)?, &mut enriched);
            for event in enriched.drain(..) {
                writer.write(&event);
                done += 1;
            }
        }
        writer.flush();
    }
    Ok(done)
}

fn steps(live: PathBuf, recording: &Path) -> Result<Vec<Step>> {
    let records = records();
    let events = events(&records)?;
    let text = fs::read(recording)?;
    let lines: Vec<Vec<u8>> =
        text.split(|&byte| byte == b'\n').skip(1).take(1000).map(<[u8]>::to_vec).collect();
    let path = recording.to_owned();
    let to_hash = lines.clone();
    let mut line = Vec::new();
    let to_decode = records.clone();
    let to_enrich = records.clone();
    Ok(vec![
        step("decode", move || {
            for number in 0..EVENTS {
                black_box(decode(&to_decode[number as usize % 1000])?);
            }
            Ok(EVENTS)
        }),
        step("decode, enrich", move || {
            let mut out = Vec::new();
            let mut enricher = enricher(0, &mut out)?;
            for number in 0..EVENTS {
                out.clear();
                enricher.record(&decode(&to_enrich[number as usize % 1000])?, &mut out);
                black_box(&out);
            }
            Ok(EVENTS)
        }),
        step("serialise", move || {
            for number in 0..EVENTS {
                line.clear();
                events[number as usize % 1000].write(&mut line);
                black_box(&line);
            }
            Ok(EVENTS)
        }),
        step("merge, decode, enrich, serialise, chain, file", move || record_all(&live, &records)),
        step("parse", move || {
            for number in 0..EVENTS {
                black_box(Event::parse(&lines[number as usize % 1000])?);
            }
            Ok(EVENTS)
        }),
        step("BLAKE3 of a line", move || {
            for number in 0..EVENTS {
                black_box(blake3::hash(&to_hash[number as usize % 1000]));
            }
            Ok(EVENTS)
        }),
        step("verify", move || {
            let report = verify(&Recording::file(&path), &Trust::default());
            anyhow::ensure!(report.bad.is_none(), "{:?}", report.bad);
            Ok(report.lines)
        }),
    ])
}
