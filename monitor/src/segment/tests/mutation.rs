//! Whatever somebody without the key does to a recorded incident, thousands of times at random:
//! it is found where it begins, or it lies behind the last checkpoint and the report says that the
//! end is open.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::*;

/// Mutations of each kind of recording.
const CASES: u64 = 2500;

/// A recording's files, as lines with their newlines.
type Files = Vec<Vec<Vec<u8>>>;

/// splitmix64: the same cases every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn plain(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    match path.extension().is_some_and(|extension| extension == "zst") {
        true => zstd::decode_all(bytes.as_slice()).unwrap(),
        false => bytes,
    }
}

fn load(recording: &Recording) -> Files {
    recording.files.iter().map(|path| lines(&plain(path))).collect()
}

fn store(directory: &Path, files: &Files) -> Recording {
    let name = |number: usize| directory.join(format!("run.{:06}.jsonl", number + 1));
    for (number, lines) in files.iter().enumerate() {
        fs::write(name(number), lines.concat()).unwrap();
    }
    Recording { name: directory.join("run"), files: (0..files.len()).map(name).collect() }
}

/// Does one thing to the lines; what it was, for the message of a failure.
fn mutate(random: &mut Random, files: &mut Files) -> String {
    let kind = random.below(9);
    let file = random.below(files.len());
    let line = random.below(files[file].len());
    let what = match kind {
        0 => {
            let bit = random.below(files[file][line].len() * 8);
            files[file][line][bit / 8] ^= 1 << (bit % 8);
            format!("flip bit {bit}")
        }
        1 => {
            files[file].remove(line);
            "drop".to_owned()
        }
        2 => {
            let copy = files[file][line].clone();
            let to = random.below(files[file].len() + 1);
            files[file].insert(to, copy);
            format!("copy to {to}")
        }
        3 => {
            let (other, place) = somewhere(random, files);
            let moved = files[other][place].clone();
            files[other][place] = std::mem::replace(&mut files[file][line], moved);
            format!("swap with {other}:{place}")
        }
        4 => {
            files[file].truncate(line);
            "cut off the file's end".to_owned()
        }
        5 => {
            let keep = random.below(files[file][line].len());
            files[file][line].truncate(keep);
            files[file].truncate(line + usize::from(keep != 0));
            format!("cut off the file's end behind byte {keep}")
        }
        6 => {
            files.remove(file);
            "drop the segment".to_owned()
        }
        7 => {
            let to = random.below(files.len());
            files.swap(file, to);
            format!("swap segment with {to}")
        }
        _ => {
            let copy = files[file].clone();
            let to = random.below(files.len() + 1);
            files.insert(to, copy);
            format!("copy segment to {to}")
        }
    };
    format!("{file}:{line}: {what}")
}

fn somewhere(random: &mut Random, files: &Files) -> (usize, usize) {
    let file = random.below(files.len());
    (file, random.below(files[file].len()))
}

/// Computes all chains anew, as somebody without the key can.
fn rechain(files: &mut Files) {
    let mut chain = Chain::default();
    let mut before = ChainHash::default();
    for line in files.iter_mut().flatten() {
        let Some((object, _)) = line.strip_suffix(b"\n").and_then(split) else { continue };
        let mut object = object.to_vec();
        if kind_and_seq(line).is_some_and(|(kind, _)| kind == b"header") {
            if let Some(at) = memchr::memmem::find(&object, b"\"previous\":\"") {
                let digits = at + b"\"previous\":\"".len();
                object[digits..digits + 64].copy_from_slice(before.to_string().as_bytes());
            }
            before = ChainHash::default();
        }
        line.clear();
        before = chain.line(before, line, |out| {
            out.extend_from_slice(&object);
            out.push(b'}');
        });
    }
}

/// Where the first difference is, as file and line from 0.
fn first_difference(one: &Files, other: &Files) -> (usize, usize) {
    let file = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let none = Vec::new();
    let (one, other) = (one.get(file).unwrap_or(&none), other.get(file).unwrap_or(&none));
    (file, one.iter().zip(other).take_while(|(one, other)| one == other).count())
}

fn chains(files: &Files) -> Vec<ChainHash> {
    let line = |line: &Vec<u8>| split(line.strip_suffix(b"\n").unwrap()).unwrap().1;
    files.iter().flatten().map(line).collect()
}

/// What a report without a fault may say of a recording that is not the original.
fn is_honest(report: &Report, original: &[ChainHash]) -> bool {
    let last = report.last.as_ref().map(|(_, chain)| *chain);
    let missing = original.len() as u64 - report.lines.min(original.len() as u64);
    // Without the oldest segments, and whole from there on: it says what it follows on.
    let cut_at_front = report.follows.is_some()
        && report.ended
        && last == original.last().copied()
        && original.get(missing as usize - 1) == report.follows.as_ref();
    // With its end open: what is signed stands where it stood.
    let skipped = match report.follows {
        Some(follows) => original.iter().position(|chain| *chain == follows).map(|at| at + 1),
        None => Some(0),
    };
    let open_end = !report.ended
        && report.signed.as_ref().is_none_or(|signed| {
            skipped.is_some_and(|skipped| {
                original.get(skipped + signed.lines as usize - 1) == Some(&signed.chain)
            })
        });
    cut_at_front || open_end
}

#[test]
fn any_mutation_of_lines_and_segments_is_found_where_it_begins() {
    let scratch = tempfile::tempdir().unwrap();
    let original = load(&incident(scratch.path()));
    let chains = chains(&original);
    let mut random = Random(1);
    let (mut found, mut open) = (0, 0);
    for case in 0..CASES {
        let directory = tempfile::tempdir().unwrap();
        let mut files = original.clone();
        let what = mutate(&mut random, &mut files);
        if files.concat() == original.concat() {
            continue;
        }
        let report = verify(&store(directory.path(), &files), &trust());
        match &report.bad {
            Some(bad) => {
                let (file, line) = first_difference(&original, &files);
                let path = directory.path().join(format!("run.{:06}.jsonl", file + 1));
                let ends = |files: &Files| files.get(file).is_none_or(|lines| lines.len() == line);
                let at_end_of_file = ends(&original) || ends(&files);
                let next = directory.path().join(format!("run.{:06}.jsonl", file + 2));
                let here = *bad.file == *path && bad.line == line as u64 + 1;
                // The oldest segment that is there stands for itself: the next does not fit it.
                let there = (at_end_of_file || (file, line) == (0, 0))
                    && *bad.file == *next
                    && bad.line == 1;
                assert!(here || there, "case {case}, {what}: {bad}");
                found += 1;
            }
            None => {
                assert!(is_honest(&report, &chains), "case {case}, {what}: {report:?}");
                open += 1;
            }
        }
    }
    assert!(found > CASES / 2 && open > 0, "{found} found, {open} open");
}

#[test]
fn what_was_made_anew_without_the_key_is_found_at_the_next_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let original = load(&incident(scratch.path()));
    let chains = chains(&original);
    let mut random = Random(2);
    let (mut found, mut open) = (0, 0);
    for case in 0..CASES {
        let directory = tempfile::tempdir().unwrap();
        let mut files = original.clone();
        let what = mutate(&mut random, &mut files);
        rechain(&mut files);
        if files.concat() == original.concat() {
            continue;
        }
        let report = verify(&store(directory.path(), &files), &trust());
        match &report.bad {
            Some(_) => found += 1,
            None => {
                assert!(is_honest(&report, &chains), "case {case}, {what}: {report:?}");
                open += 1;
            }
        }
    }
    assert!(found > CASES / 2 && open > 0, "{found} found, {open} open");
}

#[test]
fn damaged_compression_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let recording = incident(scratch.path());
    let path: &PathBuf =
        recording.files.iter().find(|path| path.to_string_lossy().ends_with(".zst")).unwrap();
    let whole = fs::read(path).unwrap();
    let (lines, last) = {
        let report = verify(&recording, &trust());
        (report.lines, report.last)
    };
    let mut random = Random(3);
    let mut found = 0;
    for case in 0..500 {
        let mut bytes = whole.clone();
        if case % 4 == 0 {
            // To nothing, first of all.
            bytes.truncate(if case == 0 { 0 } else { random.below(bytes.len()) });
        } else {
            let bit = random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        fs::write(path, &bytes).unwrap();
        let report = verify(&recording, &trust());
        // A bit that means nothing leaves every line as it was.
        let same = report.lines == lines && report.last == last && report.ended;
        // Nothing is left of the first segment: told like one that the retention has deleted.
        let told = bytes.is_empty() && report.follows.is_some();
        assert!(report.bad.is_some() || same || told, "case {case}: {report:?}");
        found += u64::from(report.bad.is_some());
    }
    assert!(found > 400, "{found} of 500");
}

#[test]
fn an_anchor_kept_elsewhere_shows_that_the_end_was_cut_off() {
    let scratch = tempfile::tempdir().unwrap();
    let recording = incident(scratch.path());
    let mut files = load(&recording);
    let anchor = *chains(&files).last().unwrap();
    let trust = Trust { anchor: Some(anchor), ..trust() };
    let report = verify(&recording, &trust);
    assert!(report.bad.is_none() && report.anchor.is_some());
    files.last_mut().unwrap().pop();
    let directory = tempfile::tempdir().unwrap();
    let report = verify(&store(directory.path(), &files), &trust);
    assert!(report.bad.is_none() && report.anchor.is_none() && !report.ended);
}

#[test]
fn a_recording_made_anew_without_checkpoints_is_not_signed() {
    let scratch = tempfile::tempdir().unwrap();
    let mut files = load(&incident(scratch.path()));
    let keep = |line: &Vec<u8>| kind_and_seq(line).is_some_and(|(kind, _)| kind != b"checkpoint");
    files.iter_mut().for_each(|lines| lines.retain(keep));
    rechain(&mut files);
    let directory = tempfile::tempdir().unwrap();
    let report = verify(&store(directory.path(), &files), &trust());
    assert!(report.bad.is_none() && report.signed.is_none() && !report.ended);
}

#[test]
fn a_recording_made_anew_with_another_key_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let recording = incident(scratch.path());
    let other = Trust { keys: vec![[9; 32]], ..trust() };
    let bad = verify(&recording, &other).bad.unwrap();
    assert!(matches!(bad.fault, Fault::Key(_)), "{bad}");
    let nobody = verify(&recording, &Trust::default());
    assert!(nobody.bad.is_none() && nobody.ended, "without a key in mind any will do");
}

#[test]
fn the_test_itself_can_tell_a_whole_recording() {
    let scratch = tempfile::tempdir().unwrap();
    let recording = incident(scratch.path());
    let mut files = load(&recording);
    assert!(files.len() >= 4, "{} segments", files.len());
    let mut text = Vec::new();
    zstd::Decoder::new(fs::File::open(&recording.files[0]).unwrap())
        .unwrap()
        .read_to_end(&mut text)
        .unwrap();
    assert_eq!(lines(&text), files[0]);
    let before = files.clone();
    rechain(&mut files);
    assert!(files == before, "chains made anew from the same lines are the same");
    let directory = tempfile::tempdir().unwrap();
    let report = verify(&store(directory.path(), &files), &trust());
    assert!(report.bad.is_none() && report.ended && report.follows.is_none());
    assert_eq!(report.lost, 5);
}
