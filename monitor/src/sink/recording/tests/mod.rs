//! Recordings written, continued, broken and checked.

mod disk;
mod keeping;

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::*;
use crate::{
    event::{Body, Event, PolicyText, tests::sample},
    segment::{
        self, Fault, Header, HeaderLine, Reader, Recording, Report, Trust, recordings, verify,
    },
};

fn event(seq: u64) -> Event {
    Event { seq, ..sample(format!("/home/user/file-{seq}").as_bytes()) }
}

fn header() -> Header {
    let source = crate::event::SourceText { text: "schema = 1\n".into(), ..Default::default() };
    let policy = PolicyText { policy: 3, sources: vec![source], ..Default::default() };
    let host = Header::of_host("lsm", &["file_open".to_owned()]).unwrap();
    Header { began_ns: 5, policies: vec![policy], ..host }
}

fn open(
    destination: Destination,
    options: &RecordingOptions,
) -> Result<SegmentWriter, SegmentError> {
    SegmentWriter::open(destination, header(), options.clone(), None)
}

fn signed(destination: Destination, options: &RecordingOptions) -> SegmentWriter {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let header = Header { began_ns: crate::enrich::clock::boot_ns(), ..header() };
    SegmentWriter::open(destination, header, options.clone(), Some(key)).unwrap()
}

fn limited(limits: Limits) -> RecordingOptions {
    RecordingOptions { limits, ..RecordingOptions::default() }
}

fn write_with(options: &RecordingOptions, destination: Destination, count: u64) -> Totals {
    let mut writer = open(destination, options).unwrap();
    let first = writer.next_seq();
    (first..first + count).for_each(|seq| writer.write(&event(seq)));
    writer.finish()
}

fn write(destination: Destination, count: u64) -> Totals {
    write_with(&RecordingOptions::default(), destination, count)
}

fn check(path: &Path) -> Report {
    verify(&Recording::file(path), &Trust::default())
}

fn stream(directory: &Path) -> Destination {
    Destination::Directory { directory: directory.to_owned(), stream: "run".to_owned() }
}

/// The files of a directory's recording, in order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn check_all(directory: &Path) -> Report {
    let all = recordings(&[directory.to_owned()]).unwrap();
    assert_eq!(all.len(), 1);
    verify(&all[0], &Trust::default())
}

/// A recording that is no file.
fn check_bytes(bytes: &[u8]) -> Report {
    segment::check(Reader::of("bytes", io::Cursor::new(bytes.to_vec())).unwrap(), &Trust::default())
}

#[test]
fn the_chain_is_what_the_format_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    write(Destination::File(path.clone()), 2);
    let mut before = [0; 32];
    for line in fs::read_to_string(&path).unwrap().lines() {
        let (object, rest) = line.rsplit_once(",\"chain\":\"").unwrap();
        let hash = blake3::hash(&[&before, object.as_bytes(), b"}"].concat());
        assert_eq!(rest, format!("{}\"}}", hash.to_hex()));
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["v"], 1);
        before = *hash.as_bytes();
    }
}

#[test]
fn a_recording_holds_its_header_and_every_event() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let totals = write(Destination::File(path.clone()), 1000);
    assert_eq!((totals.events, totals.lost, totals.reason), (1000, 0, None));
    let text = fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    let first = HeaderLine::parse(lines.next().unwrap().as_bytes()).unwrap();
    assert_eq!((first.segment, first.first_seq, first.previous), (1, 0, None));
    assert_eq!(first.header, header());
    for (seq, line) in lines.enumerate() {
        assert_eq!(Event::parse(line.as_bytes()).unwrap(), event(seq as u64));
    }
    let report = check(&path);
    assert!(report.bad.is_none());
    assert_eq!((report.lines, report.segments), (1001, 1));
    assert_eq!(report.seqs, Some((0, 999)));
}

#[test]
fn a_file_that_is_named_again_is_continued() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    write(Destination::File(path.clone()), 3);
    write(Destination::File(path.clone()), 3);
    let report = check(&path);
    assert!(report.bad.is_none());
    assert_eq!((report.lines, report.segments), (8, 2));
    assert_eq!(report.seqs, Some((0, 5)));
}

#[test]
fn what_is_no_recording_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    for (text, message) in [
        ("important\n", "is not a recording"),
        ("{\"v\":2,\"type\":\"header\"}\n", "has format 2, this version writes 1"),
    ] {
        fs::write(&path, text).unwrap();
        let error =
            open(Destination::File(path.clone()), &RecordingOptions::default()).err().unwrap();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_line_that_is_there_in_part_is_wrong_unless_the_file_is_being_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let mut writer = open(Destination::File(path.clone()), &RecordingOptions::default()).unwrap();
    writer.write(&event(0));
    writer.flush();
    assert!(check(&path).writing);
    fs::write(&path, [fs::read(&path).unwrap().as_slice(), b"{\"v\":1"].concat()).unwrap();
    let report = check(&path);
    assert!(report.writing && report.bad.is_none());
    drop(writer);
    let report = check(&path);
    assert!(!report.writing && matches!(report.bad.unwrap().fault, Fault::Cut));
}

#[test]
fn two_writers_do_not_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let _first = open(Destination::File(path.clone()), &RecordingOptions::default()).unwrap();
    let error = open(Destination::File(path), &RecordingOptions::default()).err().unwrap();
    assert!(matches!(error, SegmentError::Busy(_)));
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_at_once() {
    let missing = Destination::File("/nonexistent/events.jsonl".into());
    let error = open(missing, &RecordingOptions::default()).err().unwrap().to_string();
    assert!(error.starts_with("cannot open /nonexistent/events.jsonl: "), "{error}");
    let full = Destination::File("/dev/full".into());
    let error = open(full, &RecordingOptions::default()).err().unwrap().to_string();
    assert!(error.starts_with("cannot write /dev/full: "), "{error}");
}

#[test]
fn what_is_no_file_can_be_written_too() {
    let totals = write(Destination::File("/dev/null".into()), 10);
    assert_eq!((totals.events, totals.lost), (10, 0));
}

#[test]
fn half_a_line_is_cut_off_and_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    for tail in [b"{\"v\":1,\"type\":\"op".as_slice(), &[0; 5000], b"junk\njunk\n"] {
        let _ = fs::remove_file(&path);
        write(Destination::File(path.clone()), 3);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole, tail].concat()).unwrap();
        write(Destination::File(path.clone()), 2);
        let report = check(&path);
        assert!(report.bad.is_none());
        assert_eq!(report.seqs, Some((0, 5)));
        let text = fs::read_to_string(&path).unwrap();
        let repaired = text.lines().nth(5).unwrap();
        let Body::Agent { action, message } = Event::parse(repaired.as_bytes()).unwrap().body
        else {
            panic!("{repaired}")
        };
        assert_eq!(action, "repaired");
        assert!(message.contains(&format!("{} bytes", tail.len())), "{message}");
    }
}

#[test]
fn a_crash_before_the_first_line_leaves_nothing_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    fs::write(&path, "{\"v\":1,\"type\":\"header\",\"segm").unwrap();
    write(Destination::File(path.clone()), 2);
    let report = check(&path);
    assert!(report.bad.is_none());
    assert_eq!((report.segments, report.seqs), (1, Some((0, 2))));
}

fn recording(count: u64) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    write(Destination::File(path.clone()), count);
    fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_changed_byte_is_found(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = recording(4);
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != value);
        bytes[at] = value;
        prop_assert!(check_bytes(&bytes).bad.is_some());
    }

    #[test]
    fn any_end_can_be_continued(keep in any::<prop::sample::Index>()) {
        let bytes = recording(4);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        fs::write(&path, &bytes[..keep.index(bytes.len())]).unwrap();
        write(Destination::File(path.clone()), 2);
        prop_assert!(check(&path).bad.is_none());
    }
}
