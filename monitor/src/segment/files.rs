//! Which files make up a recording. A file named `STREAM.NNNNNN.jsonl`, or `….jsonl.zst`, is a
//! segment of a stream, and those of one stream in one directory are one recording, in the order
//! of their numbers. Every other file is a recording of its own.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{ReadError, bundle};

const PLAIN: &str = ".jsonl";
const COMPRESSED: &str = ".zst";
const DIGITS: usize = 6;

/// The files of one recording, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// What people call it: the file, or the directory and the stream's name.
    pub name: PathBuf,
    /// Its files.
    pub files: Vec<PathBuf>,
}

impl Recording {
    /// One file, whatever its name.
    pub fn file(path: &Path) -> Self {
        Self { name: path.to_owned(), files: vec![path.to_owned()] }
    }
}

/// What the name of a segment's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentName {
    /// The stream.
    pub stream: String,
    /// Position of the segment.
    pub segment: u64,
    /// Compressed with zstd.
    pub compressed: bool,
}

impl SegmentName {
    /// The inverse of `to_string`; `None` for files that are no segments.
    pub fn parse(name: &str) -> Option<Self> {
        let (plain, compressed) = match name.strip_suffix(COMPRESSED) {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        let (stream, number) = plain.strip_suffix(PLAIN)?.rsplit_once('.')?;
        let digits = number.len() >= DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
        if stream.is_empty() || !digits {
            return None;
        }
        Some(Self { stream: stream.to_owned(), segment: number.parse().ok()?, compressed })
    }

    /// The name of the file at a path.
    pub fn of(path: &Path) -> Option<Self> {
        Self::parse(path.file_name()?.to_str()?)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, segment, compressed } = self;
        write!(f, "{stream}.{segment:0DIGITS$}{PLAIN}")?;
        f.write_str(if *compressed { COMPRESSED } else { "" })
    }
}

/// The recordings that files and directories hold, by name. Of a directory only files that are
/// named as segments or end with `.jsonl` or `.jsonl.zst` are taken; of a bundle its segments.
///
/// # Errors
/// When a path is not there or a directory cannot be read.
pub fn recordings(paths: &[PathBuf]) -> Result<Vec<Recording>, ReadError> {
    let mut found = Found::default();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|error| ReadError::io(path, error))?;
        if metadata.is_dir() {
            found.directory(path)?;
        } else if bundle::is_bundle(path) {
            let segments = bundle::segments(path).map_err(|error| ReadError::io(path, error))?;
            segments.iter().for_each(|segment| found.file(segment));
        } else {
            found.file(path);
        }
    }
    let Found { streams, single } = found;
    let streams = streams.into_iter().map(|((directory, stream), segments)| {
        let name = directory.join(stream);
        Recording { name, files: segments.into_values().collect() }
    });
    let single = single.into_keys().map(|path| Recording::file(&path));
    let mut all: Vec<Recording> = streams.chain(single).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

#[derive(Default)]
struct Found {
    streams: BTreeMap<(PathBuf, String), BTreeMap<u64, PathBuf>>,
    single: BTreeMap<PathBuf, ()>,
}

impl Found {
    fn directory(&mut self, path: &Path) -> Result<(), ReadError> {
        let failed = |error| ReadError::io(path, error);
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            let ours = name.ends_with(b".jsonl") || name.ends_with(b".jsonl.zst");
            if ours && entry.file_type().map_err(failed)?.is_file() {
                self.file(&entry.path());
            }
        }
        Ok(())
    }

    /// A crash can leave a segment both plain and compressed: the plain one is surely whole.
    fn file(&mut self, path: &Path) {
        let Some(name) = SegmentName::of(path) else {
            self.single.insert(path.to_owned(), ());
            return;
        };
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let stream = self.streams.entry((directory, name.stream)).or_default();
        match stream.entry(name.segment) {
            Entry::Vacant(vacant) => {
                vacant.insert(path.to_owned());
            }
            Entry::Occupied(mut occupied) if !name.compressed => {
                occupied.insert(path.to_owned());
            }
            Entry::Occupied(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segment_files_have_a_segment_name() {
        for (name, segment) in [
            ("run.a.000012.jsonl", ("run.a", 12, false)),
            ("run.1000000.jsonl.zst", ("run", 1_000_000, true)),
        ] {
            let parsed = SegmentName::parse(name).unwrap();
            assert_eq!((parsed.stream.as_str(), parsed.segment, parsed.compressed), segment);
            assert_eq!(parsed.to_string(), name);
        }
        for name in
            ["notes.jsonl", "run.12.jsonl", "run.000012.json", "run.00001x.jsonl", ".000001.jsonl"]
        {
            assert_eq!(SegmentName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn segments_of_a_stream_are_one_recording_in_order_and_other_files_stand_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let names = [
            "b.000002.jsonl",
            "b.000001.jsonl",
            "b.000001.jsonl.zst",
            "a.000010.jsonl",
            "a.000009.jsonl.zst",
            "one.jsonl",
            "notes.txt",
        ];
        names.iter().for_each(|name| fs::write(at(name), "").unwrap());
        fs::create_dir(at("folder.jsonl")).unwrap();
        let expected = [
            ("a", vec!["a.000009.jsonl.zst", "a.000010.jsonl"]),
            ("b", vec!["b.000001.jsonl", "b.000002.jsonl"]),
            ("one.jsonl", vec!["one.jsonl"]),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, files)| Recording {
                name: at(name),
                files: files.into_iter().map(at).collect(),
            })
            .collect();
        assert_eq!(recordings(&[directory.path().to_owned()]).unwrap(), expected);
        let shuffled: Vec<PathBuf> = names[..6].iter().map(|name| at(name)).collect();
        assert_eq!(recordings(&shuffled).unwrap(), expected);
        let missing = recordings(&[at("missing")]).unwrap_err().to_string();
        assert!(missing.contains("missing: "), "{missing}");
    }
}
