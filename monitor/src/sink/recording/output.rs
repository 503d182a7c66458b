//! A file that always ends with a whole line: when a write fails in the middle of one, the file is
//! cut back to the line before.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use super::{SegmentError, store};

/// See the module.
pub(super) struct Output {
    file: Arc<File>,
    regular: bool,
    /// Bytes up to the end of the last whole line.
    pub(super) good: u64,
    /// There may be more behind.
    torn: bool,
}

impl Output {
    pub(super) fn open(path: &Path, append: bool) -> Result<Self, SegmentError> {
        let file = store::open(path, append)?;
        let metadata = file.metadata().map_err(SegmentError::io("open", path))?;
        let (regular, good) = (metadata.is_file(), metadata.len());
        let mut output = Self { file: Arc::new(file), regular, good, torn: false };
        if !append && good != 0 {
            // Left by an attempt to rotate that failed.
            output.cut(0).map_err(SegmentError::io("truncate", path))?;
        }
        Ok(output)
    }

    /// Appends whole lines. On failure tells how many bytes of them, up to the end of a line, are
    /// in the file.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.torn {
            self.cut(self.good).map_err(|error| (0, error))?;
        }
        let mut done = 0;
        while done < lines.len() {
            let error = match (&*self.file).write(&lines[done..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    done += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let kept = memchr::memrchr(b'\n', &lines[..done]).map_or(0, |end| end + 1);
            self.good += kept as u64;
            self.torn = kept != done;
            if self.torn {
                // A failure here is met again by the next append.
                let _ = self.cut(self.good);
            }
            return Err((kept, error));
        }
        self.good += lines.len() as u64;
        Ok(())
    }

    pub(super) fn cut(&mut self, length: u64) -> io::Result<()> {
        if !self.regular {
            return Err(io::Error::other("half a line went out and cannot be taken back"));
        }
        self.file.set_len(length)?;
        (self.good, self.torn) = (length, false);
        Ok(())
    }

    /// The file, where it is one that can be waited for.
    pub(super) fn regular(&self) -> Option<Arc<File>> {
        self.regular.then(|| self.file.clone())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        if self.regular { self.file.sync_data() } else { Ok(()) }
    }
}
