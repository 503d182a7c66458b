//! Evidence about an instance in one file, `BUNDLE.tar.zst`, that `verify`, `replay` and `report`
//! read as it is:
//!
//! ```text
//! recordings/…     the segments, byte for byte
//! rules/…          the rule files, includes and sets that were in force
//! files.json       programs and touched files: BLAKE3, size, mode, times
//! processes.json   processes of the instance that still run
//! report.json      what `report` says, with the result of verification
//! copies/N         contents, where asked for; never of secrets or what may be their copies
//! manifest.json    name, size and BLAKE3 of every entry before it
//! ```

mod alive;
mod archive;
mod digest;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde_json::json;
use thiserror::Error;

use self::{
    archive::Archive,
    digest::{Digest, Touched},
};
use crate::{
    event::{Event, PolicyText, Shown},
    report::{self, Report, model::Instance},
    segment::{Kind, RECORDINGS, ReadError, Reader, Recording},
};

/// Why there is no bundle.
#[derive(Debug, Error)]
pub enum CollectError {
    /// A recording cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file cannot be put in, or the bundle cannot be written.
    #[error("cannot {what} {}: {source}", Shown(path.as_os_str().as_encoded_bytes()))]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No recording knows the instance.
    #[error("no recording there tells of instance {0}: name the directory or file that does")]
    Instance(u32),
    /// There are no recordings.
    #[error("there are no recordings there: name a directory or file that holds some")]
    Nothing,
}

/// What went into a bundle.
pub struct Collected {
    /// What the recordings say.
    pub report: Report,
    /// Segments.
    pub segments: usize,
    /// Files whose digest was taken.
    pub digests: usize,
    /// Files that were copied.
    pub copies: usize,
    /// Processes that still run.
    pub alive: usize,
}

/// Collects evidence about an instance, or about all that recordings tell of, into `bundle`.
/// `copies` is how many bytes of files may be copied.
///
/// # Errors
/// When a recording cannot be read or the bundle cannot be written. What else is missing, such as
/// a file that is gone, stands in the bundle.
pub fn collect(
    recordings: &[Recording],
    instance: Option<u32>,
    bundle: &Path,
    copies: u64,
) -> Result<Collected, CollectError> {
    let chosen = match instance {
        Some(instance) => of_instance(recordings, instance)?,
        None => recordings.to_vec(),
    };
    if chosen.is_empty() {
        return Err(instance.map_or(CollectError::Nothing, CollectError::Instance));
    }
    let report = report::read(&chosen)?;
    let failed = |source| CollectError::Io { what: "write", path: bundle.to_owned(), source };
    let archive = Archive::create(bundle).map_err(failed)?;
    let filled = fill(archive, &chosen, report, instance, copies);
    if filled.is_err() {
        // Half a bundle is none. That it cannot be removed changes nothing about the error.
        let _ = fs::remove_file(bundle);
    }
    filled
}

fn fill(
    mut archive: Archive,
    recordings: &[Recording],
    report: Report,
    instance: Option<u32>,
    copies: u64,
) -> Result<Collected, CollectError> {
    let failed = |source| CollectError::Io { what: "write", path: "the bundle".into(), source };
    let segments = add_segments(&mut archive, recordings)?;
    add_rules(&mut archive, recordings)?;
    let told = || {
        let all = report.instances.items.iter();
        all.filter(|told| instance.is_none_or(|wanted| told.instance == wanted))
    };
    let here = told().filter(|told| alive::is_this_boot(&report, told)).collect::<Vec<_>>();
    let (digests, copied) = add_files(&mut archive, &here, copies).map_err(failed)?;
    let processes = here.iter().flat_map(|told| alive::processes(told)).collect::<Vec<_>>();
    archive.json("processes.json", &processes).map_err(failed)?;
    archive.json("report.json", &report).map_err(failed)?;
    archive.finish(instance).map_err(failed)?;
    Ok(Collected { segments, digests, copies: copied, alive: processes.len(), report })
}

/// The recordings that tell of an instance, whole: a part of a stream cannot be verified.
fn of_instance(recordings: &[Recording], instance: u32) -> Result<Vec<Recording>, CollectError> {
    let mut chosen = Vec::new();
    for recording in recordings {
        if tells_of(recording, instance)? {
            chosen.push(recording.clone());
        }
    }
    Ok(chosen)
}

fn tells_of(recording: &Recording, instance: u32) -> Result<bool, CollectError> {
    // Quotes within strings are escaped in JSON, so that this stands nowhere else.
    let field = format!("\"instance\":{instance},");
    let finder = memchr::memmem::Finder::new(field.as_bytes());
    let mut reader = Reader::open(recording);
    loop {
        match reader.next_block() {
            Ok(Some(block)) => {
                let mut lines = block.lines().flatten();
                if lines.any(|line| finder.find(line.bytes).is_some()) {
                    return Ok(true);
                }
            }
            Ok(None) => return Ok(false),
            Err(error) if error.fault.is_io() => return Err(error.into()),
            Err(_) => return Ok(false),
        }
    }
}

fn add_segments(archive: &mut Archive, recordings: &[Recording]) -> Result<usize, CollectError> {
    let mut names = BTreeMap::<String, u32>::new();
    let mut count = 0;
    for path in recordings.iter().flat_map(|recording| &recording.files) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let same = names.entry(name.to_string()).or_default();
        // Streams of several directories may have one name.
        let directory = if *same == 0 { String::new() } else { format!("{same}/") };
        *same += 1;
        let name = format!("{RECORDINGS}{directory}{name}");
        let failed = |source| CollectError::Io { what: "collect", path: path.to_owned(), source };
        archive.lines_of(&name, &mut File::open(path).map_err(failed)?).map_err(failed)?;
        count += 1;
    }
    Ok(count)
}

/// The rules of all policies, each text once.
fn add_rules(archive: &mut Archive, recordings: &[Recording]) -> Result<(), CollectError> {
    let mut texts = BTreeMap::<String, String>::new();
    let mut take = |policy: &PolicyText| {
        for source in &policy.sources {
            let hash = blake3::hash(source.text.as_bytes()).to_hex();
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            let name: String = source.name.chars().filter(|c| plain(*c)).take(40).collect();
            let kind: String = source.kind.chars().filter(|c| plain(*c)).take(10).collect();
            texts.insert(format!("rules/{kind}s/{name}-{}.toml", &hash[..8]), source.text.clone());
        }
    };
    for recording in recordings {
        let mut reader = Reader::open(recording);
        while let Ok(Some(block)) = reader.next_block() {
            for line in block.lines().flatten() {
                match line.kind {
                    Kind::Header => {
                        let header = line.header().ok();
                        header
                            .iter()
                            .flat_map(|header| &header.header.policies)
                            .for_each(&mut take);
                    }
                    Kind::Event if line.name == b"policy" => {
                        if let Ok(Event {
                            body: crate::event::Body::Policy { policy, .. }, ..
                        }) = line.event()
                        {
                            take(&policy);
                        }
                    }
                    Kind::Event | Kind::Checkpoint => {}
                }
            }
        }
    }
    let failed = |source| CollectError::Io { what: "write", path: "rules".into(), source };
    texts.iter().try_for_each(|(name, text)| archive.add(name, text.as_bytes())).map_err(failed)
}

/// Digests of what is on this machine, and copies as far as there is room.
fn add_files(
    archive: &mut Archive,
    instances: &[&Instance],
    mut room: u64,
) -> io::Result<(usize, usize)> {
    let mut digests: Vec<Digest> =
        digest::touched(instances).into_iter().map(|touched| touched.digest()).collect();
    let secrets: Vec<_> = digests.iter().filter(|digest| digest.is_secret).collect();
    let secrets: HashSet<_> = secrets.iter().filter_map(|digest| digest.blake3.clone()).collect();
    let mut copies = 0;
    for digest in &mut digests {
        let Some(size) = digest.size.filter(|size| *size <= room) else { continue };
        if digest.is_secret || digest.blake3.as_ref().is_none_or(|hash| secrets.contains(hash)) {
            continue;
        }
        let name = format!("copies/{copies}");
        if let Ok(mut file) = Touched::open(&digest.path) {
            archive.copy(&name, &mut file, size)?;
            (room, copies) = (room - size, copies + 1);
            digest.copy = Some(name);
        }
    }
    archive.json("files.json", &json!(digests))?;
    Ok((digests.iter().filter(|digest| digest.blake3.is_some()).count(), copies))
}
