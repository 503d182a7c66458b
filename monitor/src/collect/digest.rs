//! What programs and touched files are now: names are hostile, so nothing but regular files is
//! opened, without following a link, and without waiting.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use serde::Serialize;

use crate::{event::Bytes, report::model::Instance};

/// Bytes of one file that are read for its digest.
const SIZE_MAX: u64 = 1 << 30;
/// Sets whose members are never copied.
const SECRETS: [&str; 4] = ["secrets", "sensitive", "processes", "mcp_config"];

/// A file that an instance ran, changed or read as a secret.
pub(super) struct Touched {
    path: Bytes,
    role: &'static str,
    is_secret: bool,
}

/// What it is now.
#[derive(Serialize)]
pub(super) struct Digest {
    /// Its path.
    pub path: Bytes,
    /// `program`, `changed` or `secret`.
    pub role: &'static str,
    /// It is a secret, or may be a copy of one.
    #[serde(skip)]
    pub is_secret: bool,
    /// Why there is nothing more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// BLAKE3 of its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Its length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// `st_mode`, owner, inode, and seconds since 1970 of its last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<i64>,
    /// Where its content stands in the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
}

/// Each file once, the strongest role first.
pub(super) fn touched(instances: &[&Instance]) -> Vec<Touched> {
    let mut files = BTreeMap::<&Bytes, (&'static str, bool)>::new();
    for instance in instances {
        let secret = |sets: &[&str]| sets.iter().any(|set| SECRETS.contains(set));
        for program in &instance.executed.items {
            files.entry(&program.path).or_insert(("program", false));
        }
        for file in &instance.changed.items {
            files.insert(&file.path, ("changed", secret(&file.sets)));
        }
        // What was written behind a secret may be a copy of it.
        for step in &instance.trail.copies.items {
            files.insert(&step.subject, ("changed", true));
        }
        for step in instance.trail.touched.items.iter().filter(|step| step.what == "read") {
            files.insert(&step.subject, ("secret", true));
        }
    }
    let paths = files.into_iter().filter(|(path, _)| path.as_bytes().starts_with(b"/"));
    paths.map(|(path, (role, is_secret))| Touched { path: path.clone(), role, is_secret }).collect()
}

impl Touched {
    /// Opens a regular file.
    pub(super) fn open(path: &Bytes) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(Path::new(OsStr::from_bytes(path.as_bytes())))?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    pub(super) fn digest(self) -> Digest {
        let Self { path, role, is_secret } = self;
        let mut digest = Digest {
            path,
            role,
            is_secret,
            missing: None,
            blake3: None,
            size: None,
            mode: None,
            uid: None,
            ino: None,
            modified: None,
            copy: None,
        };
        if let Err(error) = digest.read() {
            digest.missing = Some(error.to_string());
        }
        digest
    }
}

impl Digest {
    fn read(&mut self) -> io::Result<()> {
        let file = Touched::open(&self.path)?;
        let metadata = file.metadata()?;
        self.size = Some(metadata.len());
        self.mode = Some(metadata.mode());
        self.uid = Some(metadata.uid());
        self.ino = Some(metadata.ino());
        self.modified = Some(metadata.mtime());
        if metadata.len() > SIZE_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a digest"));
        }
        let mut hash = blake3::Hasher::new();
        // Some files of procfs have no length and no end.
        hash.update_reader(file.take(SIZE_MAX))?;
        self.blake3 = Some(hash.finalize().to_string());
        Ok(())
    }
}
