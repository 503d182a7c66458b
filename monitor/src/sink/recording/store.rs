//! Files of a recording: their names, opening and locking them, and the bounds of a directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Limits, SegmentError};
use crate::segment::SegmentName;

/// Ending of a compressed copy that is being made.
pub(super) const DRAFT: &str = ".zst.draft";

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
) -> Result<Vec<(SegmentName, PathBuf)>, SegmentError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(SegmentError::io("read", directory))? {
        let path = entry.map_err(SegmentError::io("read", directory))?.path();
        match SegmentName::of(&path) {
            Some(name) if name.stream == stream => segments.push((name, path)),
            _ => {}
        }
    }
    // Of a segment that is there twice, the plain one is the last.
    segments.sort_by_key(|(name, _)| (name.segment, !name.compressed));
    Ok(segments)
}

/// Deletes segments that are too old, and then the oldest until the directory is within its
/// limits. Segments that somebody writes are locked and stay. Tells how many of a stream went.
pub(super) fn prune(directory: &Path, stream: &str, limits: &Limits) -> io::Result<u64> {
    let mut segments: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some(plain) = draft_of(&path) {
            // Left by a crash, unless the one who compresses holds the plain file.
            if lock(&plain).is_none_or(|locked| locked.is_ok()) {
                remove(&path)?;
            }
        } else if SegmentName::of(&path).is_some() {
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => {
                    segments.push((found.modified()?, path, found.len()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    segments.sort();
    let mut total: u64 = segments.iter().map(|(.., bytes)| bytes).sum();
    let mut count = segments.len();
    let mut own = 0;
    let oldest = limits.age.and_then(|age| SystemTime::now().checked_sub(age));
    for (modified, path, bytes) in segments {
        let expired = oldest.is_some_and(|oldest| modified < oldest);
        if !expired && total <= limits.total_bytes && count <= limits.segments {
            break;
        }
        if lock(&path).is_some_and(|locked| locked.is_ok()) {
            remove(&path)?;
            total -= bytes;
            count -= 1;
            own += u64::from(SegmentName::of(&path).is_some_and(|name| name.stream == stream));
        }
    }
    Ok(own)
}

/// The segment that a draft is a compressed copy of.
fn draft_of(path: &Path) -> Option<PathBuf> {
    let plain = path.to_str()?.strip_suffix(DRAFT)?;
    SegmentName::of(Path::new(plain))?;
    Some(plain.into())
}

/// Tries to lock a file; `None` when there is none.
fn lock(path: &Path) -> Option<Result<(), TryLockError>> {
    File::open(path).ok().map(|file| file.try_lock())
}

/// Somebody else may have been faster.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
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
        assert_eq!(prune(directory.path(), "b", &limits).unwrap(), 1);
        drop(busy);
        let left = |name| at(name).exists();
        assert!(left("a.000001.jsonl") && !left("b.000001.jsonl"));
        assert!(left("c.000001.jsonl") && left("mine.txt"));
    }
}
