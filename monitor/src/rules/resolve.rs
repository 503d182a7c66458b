//! From paths as people write them to paths as the kernel reports them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt as _,
        },
    },
    path::Path,
    sync::Arc,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat},
    sys::stat::Mode,
};

use crate::event::Bytes;

/// As many symbolic links as the kernel follows in one look-up.
const LINKS_MAX: usize = 40;

/// A path without symbolic links, as far as it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Absolute, without a slash at the end; empty for the root.
    pub path: Vec<u8>,
    /// The links on the way, each with its directory resolved and itself not.
    pub links: Vec<Vec<u8>>,
}

/// The root directory of processes that find other files under the names we know: of a container.
#[derive(Clone, Debug)]
pub struct Root(Arc<OwnedFd>);

impl Root {
    /// The root of a process; `None` when it is ours, or the process has ended.
    pub fn of_process(tgid: u32) -> Option<Self> {
        let folder = format!("/proc/{tgid}");
        let namespace = |of: &str| fs::metadata(format!("{of}/ns/mnt")).map(|file| file.ino());
        // Of a process that has only changed its root the kernel tells paths as we see them.
        if namespace(&folder).ok()? == namespace("/proc/self").ok()? {
            return None;
        }
        let root = format!("{folder}/root");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(Path::new(&root), flags, Mode::empty()).ok()?;
        // A namespace of its own with the same files in it is no container.
        let theirs = nix::sys::stat::fstat(&root).ok()?;
        let ours = fs::metadata("/").ok()?;
        if (theirs.st_dev, theirs.st_ino) == (ours.dev(), ours.ino()) {
            return None;
        }
        Some(Self(Arc::new(root)))
    }

    fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        // Whatever is put in its way meanwhile, the look-up does not leave the container.
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let link = openat2(&self.0, Path::new(OsStr::from_bytes(path)), how)?;
        Ok(readlinkat(&link, "")?.into_vec())
    }
}

/// Whose links.
#[derive(Debug, Default)]
enum Whose<'a> {
    /// This machine's.
    #[default]
    Ours,
    /// Those of a container.
    Of(&'a Root),
    /// Those that a recording holds.
    Recorded(&'a BTreeMap<Bytes, Bytes>),
}

/// The symbolic links of a machine or container, and those that were met on the way so far: a
/// recording holds them, so that its rules mean the same elsewhere.
#[derive(Debug, Default)]
pub struct Links<'a> {
    whose: Whose<'a>,
    met: RefCell<BTreeMap<Bytes, Bytes>>,
}

impl<'a> Links<'a> {
    /// Those of another machine.
    pub fn recorded(recorded: &'a BTreeMap<Bytes, Bytes>) -> Self {
        Self { whose: Whose::Recorded(recorded), ..Self::default() }
    }

    /// Those of a container, or ours.
    pub fn of(root: Option<&'a Root>) -> Self {
        Self { whose: root.map_or(Whose::Ours, Whose::Of), ..Self::default() }
    }

    /// The links met, with what they say.
    pub fn into_met(self) -> BTreeMap<Bytes, Bytes> {
        self.met.into_inner()
    }

    fn read(&self, path: &[u8]) -> Option<Vec<u8>> {
        let target = match self.whose {
            Whose::Recorded(recorded) => recorded.get(&Bytes::from(path))?.as_bytes().to_vec(),
            Whose::Of(root) => root.read_link(path).ok()?,
            Whose::Ours => {
                fs::read_link(Path::new(OsStr::from_bytes(path))).ok()?.into_os_string().into_vec()
            }
        };
        self.met.borrow_mut().insert(path.into(), target.as_slice().into());
        Some(target)
    }
}

/// Follows all links of an absolute path. What does not exist, or cannot be seen, is taken as it
/// is written.
pub fn resolve(path: &[u8], links: &Links<'_>) -> Resolved {
    let mut resolved = Resolved::default();
    let mut left: Vec<Vec<u8>> = components(path).rev().collect();
    while let Some(component) = left.pop() {
        if component == b".." {
            let parent = resolved.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
            resolved.path.truncate(parent);
            continue;
        }
        let directory = resolved.path.len();
        resolved.path.push(b'/');
        resolved.path.extend_from_slice(&component);
        // Links in procfs lead to whoever asks: here to us, which nobody means.
        if resolved.path.starts_with(b"/proc/") {
            continue;
        }
        let Some(target) = links.read(&resolved.path) else { continue };
        if resolved.links.len() == LINKS_MAX {
            continue;
        }
        resolved.links.push(resolved.path.clone());
        resolved.path.truncate(if target.starts_with(b"/") { 0 } else { directory });
        left.extend(components(&target).rev());
    }
    resolved
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && c != b".").map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_and_kept_for_display() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("relative")).unwrap();
        symlink(root.join("relative"), root.join("absolute")).unwrap();
        let resolved =
            resolve(root.join("absolute/missing/x").as_os_str().as_bytes(), &Links::default());
        assert_eq!(resolved.path, root.join("real/missing/x").as_os_str().as_bytes());
        let links = ["absolute", "relative"].map(|l| root.join(l).into_os_string().into_vec());
        assert_eq!(resolved.links, links);
    }

    #[test]
    fn loops_end() {
        let folder = tempfile::tempdir().unwrap();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        let resolved = resolve(folder.path().join("a").as_os_str().as_bytes(), &Links::default());
        assert!(resolved.links.len() <= LINKS_MAX);
    }

    #[test]
    fn parents_above_the_root_stay_at_the_root() {
        assert_eq!(resolve(b"/../..//./nowhere", &Links::default()).path, b"/nowhere");
        assert_eq!(resolve(b"/", &Links::default()).path, b"");
    }

    #[test]
    fn links_that_were_met_stand_in_for_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        symlink("real", root.join("link")).unwrap();
        let path = root.join("link/x").into_os_string().into_vec();
        let links = Links::default();
        let here = resolve(&path, &links);
        let met = links.into_met();
        drop(folder);
        assert_eq!(resolve(&path, &Links::recorded(&met)), here);
        assert_eq!(resolve(&path, &Links::default()).path, path);
        assert_eq!(resolve(b"/bin/sh", &Links::recorded(&met)).path, b"/bin/sh");
    }
}
