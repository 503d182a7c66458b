//! Writing a bundle: a tar archive in zstd, and a manifest of what went in.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::Serialize;
use serde_json::json;

const LEVEL: i32 = 3;
/// How far the end of a segment is looked through for the end of its last whole line.
const WINDOW: u64 = 64 << 10;

/// A bundle that is being written.
pub(super) struct Archive {
    tar: tar::Builder<zstd::Encoder<'static, File>>,
    manifest: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    size: u64,
    blake3: String,
}

impl Archive {
    /// For its owner alone. A file that is there already is not overwritten.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(path)?;
        let tar = tar::Builder::new(zstd::Encoder::new(file, LEVEL)?);
        Ok(Self { tar, manifest: Vec::new() })
    }

    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.copy(name, &mut &*bytes, bytes.len() as u64)
    }

    pub(super) fn json(&mut self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.add(name, &serde_json::to_vec_pretty(value)?)
    }

    /// The first `size` bytes of an input. One that has become shorter meanwhile is filled with
    /// zeros: what follows in the archive must stand where its header says.
    pub(super) fn copy(&mut self, name: &str, input: &mut impl Read, size: u64) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o600);
        header.set_cksum();
        let mut hashed =
            Hashed { input: input.chain(io::repeat(0)).take(size), hash: blake3::Hasher::new() };
        self.tar.append(&header, &mut hashed)?;
        let blake3 = hashed.hash.finalize().to_string();
        self.manifest.push(Entry { name: name.to_owned(), size, blake3 });
        Ok(())
    }

    /// A segment. Of a plain one that is being written only the whole lines are taken.
    pub(super) fn lines_of(&mut self, name: &str, file: &mut File) -> io::Result<()> {
        let length = file.metadata()?.len();
        let size = if name.ends_with(".zst") { length } else { whole_lines(file, length)? };
        file.seek(SeekFrom::Start(0))?;
        self.copy(name, file, size)
    }

    /// Writes the manifest and what is still held.
    pub(super) fn finish(mut self, instance: Option<u32>) -> io::Result<()> {
        let manifest = json!({
            "bundle": 1, "agent": env!("CARGO_PKG_VERSION"), "instance": instance,
            "entries": self.manifest,
        });
        self.json("manifest.json", &manifest)?;
        let mut file = self.tar.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    }
}

/// Bytes up to the end of the last whole line, or all where none is near.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let start = length.saturating_sub(WINDOW);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(length - start).read_to_end(&mut end)?;
    Ok(memchr::memrchr(b'\n', &end).map_or(length, |newline| start + newline as u64 + 1))
}

struct Hashed<R> {
    input: R,
    hash: blake3::Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
