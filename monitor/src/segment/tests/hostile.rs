//! Files that are no recordings, or want to be too much for whoever reads them.

use std::{
    fs,
    io::{self, Read, Write as _},
};

use super::*;

fn check_bytes(bytes: &[u8]) -> Report {
    check(Reader::of("bytes", io::Cursor::new(bytes.to_vec())).unwrap(), &Trust::default())
}

fn lines_of(recording: &Recording) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reader = Reader::open(recording);
    while let Some(block) = reader.next_block().unwrap() {
        for line in block.lines() {
            lines.push(String::from_utf8(line.unwrap().bytes.to_vec()).unwrap());
        }
    }
    lines
}

#[test]
fn lines_come_in_order_with_their_places_from_plain_and_compressed_files() {
    let directory = tempfile::tempdir().unwrap();
    let recording = incident(directory.path());
    let zst = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "zst");
    assert!(recording.files.iter().any(zst) && !recording.files.iter().all(zst));
    let mut reader = Reader::open(&recording);
    let (mut seqs, mut kinds) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block().unwrap() {
        assert!(block.begins_file());
        let mut next = (1, 0);
        for line in block.lines() {
            let line = line.unwrap();
            assert_eq!((line.line, line.offset), next);
            next = (line.line + 1, line.offset + line.bytes.len() as u64 + 1);
            kinds.push(line.kind);
            seqs.extend(line.seq);
            match line.kind {
                Kind::Header => assert_eq!(line.header().unwrap().header.backend, "lsm"),
                Kind::Checkpoint => assert_eq!(line.checkpoint().unwrap().key, trust().keys[0]),
                Kind::Event => assert_eq!(line.event().unwrap().seq, line.seq.unwrap()),
            }
        }
    }
    let expected: Vec<u64> = (0..50).filter(|seq| !(31..35).contains(seq)).collect();
    assert_eq!(seqs, expected);
    assert_eq!(kinds[0], Kind::Header);
    assert_eq!(kinds.last(), Some(&Kind::Checkpoint));
}

#[test]
fn lines_longer_than_a_block_are_read_and_longer_ones_than_ours_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.jsonl");
    let line = |length: usize| {
        let mut out = Vec::new();
        Chain::default().line(ChainHash::default(), &mut out, |out| {
            out.extend_from_slice(b"{\"v\":1,\"type\":\"open\",\"seq\":0,\"x\":\"");
            out.resize(length, b'x');
            out.extend_from_slice(b"\"}");
        });
        out
    };
    let lengths = [100, 3 << 20, 200, LINE_MAX - 200, 80];
    fs::write(&path, lengths.map(line).concat()).unwrap();
    let read: Vec<usize> = lines_of(&Recording::file(&path)).iter().map(String::len).collect();
    assert_eq!(read, lengths.map(|length| line(length).len() - 1));
    let mut bytes = [line(100), line(LINE_MAX)].concat();
    for _ in 0..2 {
        let bad = check_bytes(&bytes).bad.unwrap();
        assert!(matches!(bad.fault, Fault::NoHeader | Fault::TooLong), "{bad}");
        bytes = bytes.split_off(line(100).len());
    }
}

#[test]
fn what_is_wrong_is_found_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let text = lines_of(&incident(directory.path()))[..6].join("\n") + "\n";
    let lines: Vec<&str> = text.lines().collect();
    let fault = |lines: &[&str], end: &str| {
        let report = check_bytes((lines.join("\n") + end).as_bytes());
        report.bad.map(|bad| (bad.line, bad.fault))
    };
    assert!(fault(&lines, "\n").is_none());
    assert!(matches!(fault(&lines, ""), Some((6, Fault::Cut))));
    assert!(matches!(fault(&lines[1..], "\n"), Some((1, Fault::NoHeader))));
    let removed = [&lines[..2], &lines[3..]].concat();
    assert!(matches!(fault(&removed, "\n"), Some((3, Fault::Chain))));
    let changed = text.replace("file-2", "file-9");
    let offset: usize = lines[..3].iter().map(|line| line.len() + 1).sum();
    let bad = check_bytes(changed.as_bytes()).bad.unwrap().to_string();
    let place = format!("bytes: line 4 (byte {offset}): the chain does not fit");
    assert!(bad.starts_with(&place), "{bad}");
    let unchained = [&lines[..2], &["{}"]].concat();
    assert!(matches!(fault(&unchained, "\n"), Some((3, Fault::NotChained))));
    let newer = lines[2].replacen("\"v\":1", "\"v\":2", 1);
    let newer = [&lines[..2], &[newer.as_str()]].concat();
    assert!(matches!(fault(&newer, "\n"), Some((3, Fault::Version(2)))));
    assert!(check_bytes(b"").bad.is_none(), "an empty segment may follow on a crash");
}

#[test]
fn an_empty_recording_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    fs::write(&path, "").unwrap();
    let bad = verify(&Recording::file(&path), &Trust::default()).bad.unwrap();
    assert!(matches!(bad.fault, Fault::NoHeader));
}

#[test]
fn a_loss_that_goes_backwards_is_wrong() {
    let mut chain = Chain::default();
    let mut out = Vec::new();
    let header = Header::of_host("lsm", &[]).unwrap();
    let place = Place { segment: 1, ..Place::default() };
    let before = chain.line(ChainHash::default(), &mut out, |out| header.write(out, &place));
    let mut event = event(0);
    let (ring, reason) = ("file".to_owned(), "x".to_owned());
    event.body = Body::Loss(Loss { ring, reason, count: 5, range: Some((0, 0)) });
    (event.observed, event.violation) = (None, None);
    let mut honest = out.clone();
    chain.line(before, &mut honest, |out| event.write(out));
    assert!(check_bytes(&honest).bad.is_none());
    if let Body::Loss(loss) = &mut event.body {
        loss.range = Some((7, 3));
    }
    chain.line(before, &mut out, |out| event.write(out));
    assert!(matches!(check_bytes(&out).bad.unwrap().fault, Fault::Seq { .. }));
}

/// An endless line, without a newline; what was taken of it is counted.
struct Endless(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Read for Endless {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        bytes.fill(b'x');
        self.0.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(bytes.len())
    }
}

#[test]
fn an_endless_line_is_refused_without_eating_memory() {
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let report = check(Reader::of("endless", Endless(taken.clone())).unwrap(), &Trust::default());
    assert!(matches!(report.bad.unwrap().fault, Fault::TooLong));
    let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
    assert!(taken <= 4 * LINE_MAX as u64, "{taken} bytes were read");
}

#[test]
fn a_small_file_that_unpacks_without_end_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, filling) in [("long.zst", 0), ("many.zst", b'\n')] {
        let path = directory.path().join(name);
        let mut encoder = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
        let chunk = vec![filling; 1 << 20];
        (0..256).for_each(|_| encoder.write_all(&chunk).unwrap());
        encoder.finish().unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 100_000);
        let bad = verify(&Recording::file(&path), &Trust::default()).bad.unwrap();
        assert!(matches!(bad.fault, Fault::TooLong | Fault::NotChained), "{bad}");
    }
}

#[test]
fn a_window_too_large_for_memory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("window.zst");
    let mut encoder = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(b"x\n").unwrap();
    encoder.finish().unwrap();
    let bad = verify(&Recording::file(&path), &Trust::default()).bad.unwrap();
    assert!(matches!(bad.fault, Fault::Compressed(_)), "{bad}");
}

#[test]
fn a_directory_in_place_of_a_file_is_a_failure_of_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let bad = verify(&Recording::file(directory.path()), &Trust::default()).bad.unwrap();
    assert!(bad.fault.is_io(), "{bad}");
}
