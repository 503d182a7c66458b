//! Files of a recording: their names, opening and locking them, and the bounds of a directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::SegmentError;
use crate::segment::SegmentName;

/// Bounds of a directory of recordings. The oldest segments that nobody writes are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size at which a segment is closed and the next begun.
    pub segment_bytes: u64,
    /// Bytes of all recordings in the directory.
    pub total_bytes: u64,
    /// Segments of all recordings in the directory.
    pub segments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, total_bytes: 1 << 30, segments: 1000 }
    }
}

/// Opens for appending and locks. A link is followed only where the person named the file.
pub(super) fn open(path: &Path, follow: bool) -> Result<File, SegmentError> {
    let flags = if follow { 0 } else { libc::O_NOFOLLOW };
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(SegmentError::io("open", path))?;
    let regular = file.metadata().map_err(SegmentError::io("open", path))?.is_file();
    match regular.then(|| file.try_lock()) {
        Some(Err(TryLockError::WouldBlock)) => Err(SegmentError::Busy(path.to_owned())),
        Some(Err(TryLockError::Error(source))) => Err(SegmentError::io("lock", path)(source)),
        Some(Ok(())) | None => Ok(file),
    }
}

/// Makes the directory, for its owner alone.
pub(super) fn make(directory: &Path) -> Result<(), SegmentError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(SegmentError::io("create", directory))
}

/// A stream's name stands in file names.
pub(super) fn check_stream(stream: &str) -> Result<(), SegmentError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let named = !stream.is_empty() && !stream.starts_with('.') && stream.len() <= 200;
    if named && stream.chars().all(plain) {
        return Ok(());
    }
    Err(SegmentError::Stream(stream.to_owned()))
}

/// File of a segment.
pub(super) fn path(directory: &Path, stream: &str, segment: u64) -> PathBuf {
    let name = SegmentName { stream: stream.to_owned(), segment, compressed: false };
    directory.join(name.to_string())
}

/// Segments of a stream with their files, in order.
pub(super) fn segments(
    directory: &Path,
    stream: &str,
) -> Result<Vec<(u64, PathBuf)>, SegmentError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(SegmentError::io("read", directory))? {
        let entry = entry.map_err(SegmentError::io("read", directory))?;
        match SegmentName::of(&entry.path()) {
            Some(name) if name.stream == stream => segments.push((name.segment, entry.path())),
            _ => {}
        }
    }
    segments.sort();
    Ok(segments)
}

/// Deletes the oldest segments until the directory is within its limits. Segments that somebody
/// writes are locked and stay.
pub(super) fn prune(directory: &Path, limits: &Limits) -> io::Result<()> {
    let mut segments: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = fs::symlink_metadata(entry.path())?;
        if metadata.is_file() && SegmentName::of(&entry.path()).is_some() {
            segments.push((metadata.modified()?, entry.path(), metadata.len()));
        }
    }
    segments.sort();
    let mut total: u64 = segments.iter().map(|(.., bytes)| bytes).sum();
    let mut count = segments.len();
    for (_, path, bytes) in segments {
        if total <= limits.total_bytes && count <= limits.segments {
            break;
        }
        if File::open(&path)?.try_lock().is_ok() {
            fs::remove_file(&path)?;
            total -= bytes;
            count -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_name_leads_nowhere_else() {
        assert!(check_stream("github-20260102T030405Z-77").is_ok());
        for name in ["", "../x", "a/b", ".hidden", "a\nb"] {
            assert!(check_stream(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_oldest_go_first_and_what_is_written_or_foreign_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (age, name) in ["a.000001.jsonl", "b.000001.jsonl", "c.000001.jsonl"].iter().enumerate()
        {
            fs::write(at(name), [0; 100]).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            File::options().append(true).open(at(name)).unwrap().set_modified(time).unwrap();
        }
        fs::write(at("mine.txt"), [0; 1000]).unwrap();
        let busy = open(&at("a.000001.jsonl"), false).unwrap();
        let limits = Limits { total_bytes: 200, ..Limits::default() };
        prune(directory.path(), &limits).unwrap();
        drop(busy);
        let left = |name| at(name).exists();
        assert!(left("a.000001.jsonl") && !left("b.000001.jsonl"));
        assert!(left("c.000001.jsonl") && left("mine.txt"));
    }
}
