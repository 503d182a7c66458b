//! The host's Ed25519 key, which signs checkpoints: `/var/lib/mcp-monitor/audit.key`, PKCS #8 in
//! PEM, for root alone; made on first use. Its public half stands beside it as `audit.pub`, for
//! everybody to read and to keep elsewhere.
//!
//! There is one key a host, for the recordings of ordinary users too: the monitor runs as root, so
//! that a server, which runs as the user, can spoil that user's recording but not sign it anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ed25519_dalek::{
    SigningKey, VerifyingKey,
    pkcs8::{
        DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
        KeypairBytes, spki::der::pem::LineEnding,
    },
};
use thiserror::Error;

/// Where the host's key is.
pub const HOST_KEY: &str = "/var/lib/mcp-monitor/audit.key";
/// Longest key file that is read.
const FILE_MAX: u64 = 16 << 10;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The operating system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may have read it.
    #[error(
        "{} belongs to user {owner} with mode {mode:o}: a key that others can read signs nothing; \
         move it away, and a new one is made", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// No key in it.
    #[error("{} holds no Ed25519 {what} key in PEM: {why}", path.display())]
    Malformed {
        /// `private` or `public`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

impl KeyError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The key at `path`; made when nothing is there.
///
/// # Errors
/// When it cannot be read or made, is no key, or is open to others.
pub fn open(path: &Path) -> Result<SigningKey, KeyError> {
    match File::open(path) {
        Ok(file) => read(file, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(KeyError::io("open", path)(error)),
    }
}

/// The public key in a file.
///
/// # Errors
/// When it cannot be read or is none.
pub fn public(path: &Path) -> Result<VerifyingKey, KeyError> {
    let file = File::open(path).map_err(KeyError::io("open", path))?;
    let text = text(file, path)?;
    VerifyingKey::from_public_key_pem(&text).map_err(|error| KeyError::Malformed {
        what: "public",
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// The public half of a key, beside it.
pub fn public_path(path: &Path) -> PathBuf {
    path.with_extension("pub")
}

fn read(file: File, path: &Path) -> Result<SigningKey, KeyError> {
    let metadata = file.metadata().map_err(KeyError::io("read", path))?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != nix::unistd::geteuid().as_raw() || mode & 0o077 != 0 || !metadata.is_file() {
        return Err(KeyError::Exposed { path: path.to_owned(), owner, mode });
    }
    SigningKey::from_pkcs8_pem(&text(file, path)?).map_err(|error| KeyError::Malformed {
        what: "private",
        path: path.to_owned(),
        why: error.to_string(),
    })
}

fn text(file: File, path: &Path) -> Result<String, KeyError> {
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(KeyError::io("read", path))?;
    Ok(text)
}

fn make(path: &Path) -> Result<SigningKey, KeyError> {
    let mut secret = [0; 32];
    let random = Path::new("/dev/urandom");
    File::open(random)
        .and_then(|mut file| file.read_exact(&mut secret))
        .map_err(KeyError::io("read", random))?;
    let key = SigningKey::from_bytes(&secret);
    // Without the public half, which older readers of the format do not take.
    let pair = KeypairBytes { secret_key: secret, public_key: None };
    let private = pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes have a form in PEM");
    let public = key
        .verifying_key()
        .to_public_key_pem(LineEnding::LF)
        .expect("a public key has a form in PEM");
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(KeyError::io("create", directory))?;
    match place(path, private.as_bytes(), 0o600) {
        // Somebody else was first: theirs is the host's key.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return open(path),
        placed => placed.map_err(KeyError::io("create", path))?,
    }
    let beside = public_path(path);
    let _ = fs::remove_file(&beside);
    place(&beside, public.as_bytes(), 0o644).map_err(KeyError::io("create", &beside))?;
    Ok(key)
}

/// Puts a whole file where nothing is.
fn place(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let _ = fs::remove_file(&draft);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        })
        .and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/audit.key");
        let key = open(&path).unwrap();
        assert_eq!(open(&path).unwrap(), key);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&public_path(&path))), (0o600, 0o644));
        assert_eq!(public(&public_path(&path)).unwrap(), key.verifying_key());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.key");
        open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains("with mode 640: a key that others"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_named_and_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.key");
        fs::write(&path, "hello").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("holds no Ed25519 private key in PEM"), "{error}");
        let error = public(&path).unwrap_err().to_string();
        assert!(error.contains("holds no Ed25519 public key in PEM"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"hello");
    }
}
