//! How a recording is kept: segments begun, closed, compressed and deleted, and checkpoints.

use std::time::{Duration, SystemTime};

use super::*;

#[test]
fn segments_rotate_by_size_and_the_oldest_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 20_000, segments: 3, ..Limits::default() };
    write_with(&limited(limits), stream(directory.path()), 1000);
    assert_eq!(files(directory.path()).len(), 3);
    let newest = fs::read_to_string(files(directory.path()).pop().unwrap()).unwrap();
    let newest = HeaderLine::parse(newest.lines().next().unwrap().as_bytes()).unwrap();
    assert_eq!((newest.header.began_ns, newest.header.processes), (5, header().processes));
    let report = check_all(directory.path());
    assert!(report.bad.is_none());
    assert_eq!(report.segments, 3);
    assert!(report.follows.is_some());
    assert_eq!(report.seqs.unwrap().1, 999);
    write_with(&limited(limits), stream(directory.path()), 10);
    let report = check_all(directory.path());
    assert!(report.bad.is_none());
    assert_eq!(report.seqs.unwrap().1, 1009);
}

#[test]
fn a_stream_continues_behind_a_broken_and_an_empty_segment() {
    let directory = tempfile::tempdir().unwrap();
    write(stream(directory.path()), 5);
    let first = store::path(directory.path(), "run", 1);
    let whole = fs::read(&first).unwrap();
    fs::write(&first, [&whole, b"{\"v\"".as_slice()].concat()).unwrap();
    fs::write(store::path(directory.path(), "run", 2), "").unwrap();
    write(stream(directory.path()), 5);
    let report = check_all(directory.path());
    assert!(report.bad.is_none());
    assert_eq!((report.segments, report.seqs), (2, Some((0, 10))));
}

#[test]
fn a_segment_of_another_stream_does_not_fit() {
    let one = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 5_000, ..Limits::default() };
    write_with(&limited(limits), stream(one.path()), 20);
    write_with(&limited(limits), stream(other.path()), 30);
    let names = [files(one.path())[0].clone(), files(other.path())[1].clone()];
    let mixed = Recording { name: "mixed".into(), files: names.to_vec() };
    assert!(matches!(verify(&mixed, &Trust::default()).bad.unwrap().fault, Fault::Follows { .. }));
}

fn names(directory: &Path) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    files(directory).iter().map(name).collect()
}

#[test]
fn closed_segments_are_compressed_for_their_owner_alone_and_the_stream_goes_on_behind_them() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 20_000, ..Limits::default() };
    write_with(&limited(limits), stream(directory.path()), 80);
    let expected = ["run.000001.jsonl.zst", "run.000002.jsonl.zst", "run.000003.jsonl"];
    assert_eq!(names(directory.path()), expected);
    for path in files(directory.path()) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // A crash before the next header was written leaves only compressed segments with lines.
    fs::write(directory.path().join("run.000003.jsonl"), "").unwrap();
    let before = check_all(directory.path()).seqs.unwrap().1;
    write_with(&limited(limits), stream(directory.path()), 1);
    let report = check_all(directory.path());
    assert!(report.bad.is_none());
    assert_eq!(report.seqs, Some((0, before + 1)));
    let expected = [expected[0], expected[1], "run.000003.jsonl.zst", "run.000004.jsonl"];
    assert_eq!(names(directory.path()), expected, "what was left plain is compressed now");
}

#[test]
fn a_segment_is_closed_when_it_is_old_and_holds_events() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { segment_age: Duration::ZERO, ..Limits::default() };
    let mut writer = signed(stream(directory.path()), &limited(limits));
    writer.flush();
    assert_eq!(files(directory.path()).len(), 1, "nothing is in it yet");
    for seq in 0..3 {
        writer.write(&event(seq));
        writer.flush();
        writer.flush();
    }
    writer.finish();
    let report = check_all(directory.path());
    assert!(report.bad.is_none() && report.ended);
    assert_eq!((report.segments, report.seqs), (4, Some((0, 2))));
}

#[test]
fn segments_that_are_too_old_are_deleted_and_that_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 20_000, ..Limits::default() };
    write_with(&limited(limits), stream(directory.path()), 80);
    let hour = Duration::from_secs(3600);
    let old = fs::File::options().append(true).open(&files(directory.path())[0]).unwrap();
    old.set_modified(SystemTime::now() - 3 * hour).unwrap();
    let limits = Limits { age: Some(2 * hour), ..limits };
    let mut writer = open(stream(directory.path()), &limited(limits)).unwrap();
    writer.finish();
    assert_eq!(names(directory.path())[0], "run.000002.jsonl.zst");
    let told = writer.notices();
    let [Notice::Agent { action: "retention", message }] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(message.starts_with("1 of the oldest segments"), "{message}");
    let report = check_all(directory.path());
    assert!(report.bad.is_none() && report.follows.is_some());
}

#[test]
fn a_copy_that_a_crash_left_half_made_is_removed_and_one_in_the_making_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let draft = |name: &str| directory.path().join(format!("{name}{}", store::DRAFT));
    write(stream(directory.path()), 3);
    let busy = directory.path().join("other.000001.jsonl");
    let held = store::open(&busy, false).unwrap();
    for name in ["run.000001.jsonl", "gone.000001.jsonl", "other.000001.jsonl"] {
        fs::write(draft(name), "half").unwrap();
    }
    write(stream(directory.path()), 3);
    drop(held);
    let left = |name: &str| draft(name).exists();
    assert!(!left("run.000001.jsonl") && !left("gone.000001.jsonl"));
    assert!(left("other.000001.jsonl"));
}

#[test]
fn a_segment_that_is_there_plain_and_compressed_is_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 20_000, ..Limits::default() };
    write_with(&limited(limits), stream(directory.path()), 80);
    let path = files(directory.path())[0].clone();
    let whole = zstd::decode_all(fs::File::open(&path).unwrap()).unwrap();
    fs::write(path.with_extension(""), whole).unwrap();
    fs::write(&path, "half").unwrap();
    let report = check_all(directory.path());
    assert!(report.bad.is_none());
    assert_eq!(report.seqs, Some((0, 79)));
}

#[test]
fn checkpoints_are_made_in_time_and_at_the_end_and_name_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let often = RecordingOptions { checkpoint_every: Duration::ZERO, ..Default::default() };
    for (options, expected) in [(RecordingOptions::default(), 1), (often, 4)] {
        let _ = fs::remove_file(&path);
        let mut writer = signed(Destination::File(path.clone()), &options);
        for seq in 0..3 {
            writer.write(&event(seq));
            writer.flush();
            writer.flush();
        }
        let totals = writer.finish();
        let made: Vec<_> = writer
            .notices()
            .into_iter()
            .map(|notice| match notice {
                Notice::Checkpoint(chain, checkpoint) => (chain, checkpoint.end),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(made.len(), expected);
        assert_eq!(made.last().map(|(chain, _)| *chain), totals.checkpoint);
        assert_eq!(made.iter().filter(|(_, end)| *end).count(), 1);
        let report = check(&path);
        assert!(report.bad.is_none() && report.ended);
        let stated = report.header.unwrap().header.key.unwrap();
        assert_eq!(stated, segment::checkpoint::hex(&report.signed.unwrap().checkpoint.key));
    }
}

#[test]
fn a_signed_recording_is_continued_behind_its_last_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    for _ in 0..2 {
        let mut writer = signed(Destination::File(path.clone()), &RecordingOptions::default());
        let first = writer.next_seq();
        (first..first + 3).for_each(|seq| writer.write(&event(seq)));
        writer.finish();
    }
    let report = check(&path);
    assert!(report.bad.is_none() && report.ended);
    assert_eq!((report.segments, report.seqs), (2, Some((0, 5))));
}

#[test]
fn whenever_the_disk_is_waited_for_the_lines_are_the_same() {
    for sync in [Sync::Segment, Sync::Checkpoint, Sync::Flush] {
        let directory = tempfile::tempdir().unwrap();
        let checkpoint_every = Duration::ZERO;
        let options = RecordingOptions { sync, checkpoint_every, ..Default::default() };
        let mut writer = signed(stream(directory.path()), &options);
        for seq in 0..20 {
            writer.write(&event(seq));
            writer.flush();
        }
        let totals = writer.finish();
        assert_eq!((totals.lost, totals.reason), (0, None));
        let report = check_all(directory.path());
        assert!(report.bad.is_none() && report.ended);
        assert_eq!(report.seqs, Some((0, 19)));
    }
}

#[test]
fn a_recording_that_was_continued_has_an_open_end_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let options = RecordingOptions::default();
    signed(Destination::File(path.clone()), &options).finish();
    assert!(check(&path).ended);
    // Killed, as far as the file is concerned.
    let mut writer = signed(Destination::File(path.clone()), &options);
    writer.write(&event(0));
    drop(writer);
    let report = check(&path);
    assert!(report.bad.is_none() && !report.ended);
    assert_eq!(report.lines - report.signed.unwrap().lines, 2);
    assert_eq!(report.joints, None, "the first run was closed");
    // What was cut off while nobody wrote would be signed by whoever continues: that is told.
    let mut writer = signed(Destination::File(path.clone()), &options);
    writer.finish();
    let report = check(&path);
    assert!(report.bad.is_none() && report.ended);
    let (at, count) = report.joints.clone().unwrap();
    assert_eq!((at.line, count), (5, 1));
    let told = report.unknown(&Trust::default());
    assert!(told.iter().any(|sentence| sentence.contains("continued behind an end")), "{told:?}");
}
