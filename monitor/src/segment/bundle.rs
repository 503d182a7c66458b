//! Recordings inside a bundle of `mcp-monitor collect`: a tar archive, compressed with zstd.
//! Nothing is unpacked: an entry is read where it stands, and named `BUNDLE/ENTRY`. The names in
//! an archive are only compared, so that a hostile one reaches no file.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::reader::WINDOW_LOG_MAX;

/// Where the segments stand in a bundle.
pub const RECORDINGS: &str = "recordings/";
/// How the name of a bundle ends.
pub const SUFFIX: &str = ".tar.zst";

const BLOCK: usize = 512;
/// Entries that are looked at.
const ENTRIES_MAX: usize = 1 << 16;

type Input = zstd::Decoder<'static, io::BufReader<File>>;

/// Whether a file is a bundle, by its name.
pub(super) fn is_bundle(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes())
}

/// The segments in a bundle, as paths that [`open`] takes.
pub(super) fn segments(bundle: &Path) -> io::Result<Vec<PathBuf>> {
    let mut input = decoder(bundle)?;
    let mut found = Vec::new();
    for _ in 0..ENTRIES_MAX {
        let Some((name, size)) = next(&mut input)? else { return Ok(found) };
        if name.starts_with(RECORDINGS) {
            found.push(bundle.join(&name));
        }
        skip(&mut input, padded(size))?;
    }
    Err(damaged("it has too many entries"))
}

/// Opens `BUNDLE/ENTRY`; `None` where the path leads through no bundle.
pub(super) fn open(path: &Path) -> Option<io::Result<Box<dyn Read + Send>>> {
    let bundle = path.ancestors().skip(1).find(|above| is_bundle(above) && above.is_file())?;
    let entry = path.strip_prefix(bundle).ok()?.to_str()?;
    Some(entry_of(bundle, entry))
}

fn entry_of(bundle: &Path, entry: &str) -> io::Result<Box<dyn Read + Send>> {
    let mut input = decoder(bundle)?;
    while let Some((name, size)) = next(&mut input)? {
        if name == entry {
            return Ok(Box::new(input.take(size)));
        }
        skip(&mut input, padded(size))?;
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the bundle has no such entry"))
}

fn decoder(bundle: &Path) -> io::Result<Input> {
    let mut input = zstd::Decoder::new(File::open(bundle)?)?;
    input.window_log_max(WINDOW_LOG_MAX)?;
    Ok(input)
}

/// Name and size of the next entry; `None` at the end.
fn next(input: &mut impl Read) -> io::Result<Option<(String, u64)>> {
    let mut block = [0; BLOCK];
    input.read_exact(&mut block)?;
    if block == [0; BLOCK] {
        return Ok(None);
    }
    let header = tar::Header::from_byte_slice(&block);
    if header.as_ustar().is_none() {
        return Err(damaged("it is no archive of ours"));
    }
    let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
    Ok(Some((name, header.entry_size()?)))
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}

fn skip(input: &mut impl Read, bytes: u64) -> io::Result<()> {
    match io::copy(&mut input.take(bytes), &mut io::sink())? == bytes {
        true => Ok(()),
        false => Err(damaged("it ends within an entry")),
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged bundle: {why}"))
}
