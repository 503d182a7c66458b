//! What the files of a container are called on the host, by the mount tables of both. A container
//! sees the host's `/home/me/notes` as the `/data` that it was mounted to; people look for the one,
//! rules speak of the other.

use crate::mountinfo::{Mount, mounts};

/// The mounts of one namespace, and where the same directories are outside of it.
#[derive(Debug, Default)]
pub struct Outside(Vec<Inside>);

/// A mount of the container.
#[derive(Debug)]
struct Inside {
    mount: Mount,
    outside: Option<Place>,
}

/// A directory of the host.
#[derive(Debug)]
struct Place {
    path: Vec<u8>,
    /// Where the host has mounted something else beneath it, which the container does not see.
    covered: Vec<Vec<u8>>,
}

impl Outside {
    /// Reads the tables of a container and of the host, as `/proc/PID/mountinfo` has them.
    pub fn of(container: &[u8], host: &[u8]) -> Self {
        let host: Vec<Mount> = mounts(host).collect();
        let inside = |mount: Mount| Inside { outside: place(&mount, &host), mount };
        Self(mounts(container).map(inside).collect())
    }

    /// What a path of the container is called on the host; `None` when the host has no name for it,
    /// or the same. `dev` is the device of the file's own file system: what has been mounted later
    /// is on another one, mostly. 0 when it is not known.
    pub fn find(&self, path: &[u8], dev: u32) -> Option<Vec<u8>> {
        let Inside { mount, outside } = last_around(&self.0, |inside| &inside.mount, path)?;
        let place = outside.as_ref().filter(|_| dev == 0 || dev == mount.dev)?;
        let outside = join(&place.path, beneath(path, &mount.point)?);
        let is_covered = place.covered.iter().any(|point| beneath(&outside, point).is_some());
        (outside != path && !is_covered).then_some(outside)
    }
}

/// Where the host sees what is mounted: of several places the one with most around it.
fn place(mount: &Mount, host: &[Mount]) -> Option<Place> {
    let same = host.iter().filter(|other| other.dev == mount.dev);
    let seen = same.filter_map(|other| {
        let path = join(&other.point, beneath(&mount.root, &other.root)?);
        let around = last_around(host, |other| other, &path)?;
        std::ptr::eq(around, other).then_some((other.root.len(), path))
    });
    let (_, path) = seen.min_by_key(|(length, _)| *length)?;
    let points = host.iter().map(|other| &other.point);
    let covered = points.filter(|point| **point != path && beneath(point, &path).is_some());
    Some(Place { covered: covered.cloned().collect(), path })
}

/// The mount that a path is in: of those above it the nearest, of several at one place the last.
fn last_around<'a, T>(all: &'a [T], mount: impl Fn(&T) -> &Mount, path: &[u8]) -> Option<&'a T> {
    let around = all.iter().filter(|one| beneath(path, &mount(one).point).is_some());
    around.max_by_key(|one| mount(one).point.len())
}

/// What follows a directory in a path: empty, or with a slash before it.
fn beneath<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let directory = directory.strip_suffix(b"/").unwrap_or(directory);
    let rest = path.strip_prefix(directory)?;
    match rest {
        b"/" if directory.is_empty() => Some(b""),
        _ if rest.is_empty() || rest[0] == b'/' => Some(rest),
        _ => None,
    }
}

fn join(directory: &[u8], rest: &[u8]) -> Vec<u8> {
    let path = [directory.strip_suffix(b"/").unwrap_or(directory), rest].concat();
    if path.is_empty() { b"/".to_vec() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
        21 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
        22 21 254:1 /@home /home rw,relatime - btrfs /dev/home rw\n\
        23 22 0:50 / /home/me/remote rw,relatime - nfs server:/ rw\n\
        24 21 0:60 / /var/lib/containers/storage/overlay/ab/merged rw - overlay overlay rw\n\
        25 21 254:0 /home /mnt/old rw,relatime - ext4 /dev/root rw\n";
    const CONTAINER: &str = "\
        90 80 0:60 / / rw,relatime - overlay overlay rw\n\
        91 90 0:70 / /proc rw - proc proc rw\n\
        92 90 254:1 /@home/me/my\\040notes /data rw,relatime - btrfs /dev/home rw\n\
        93 90 254:1 /@home/me /me rw,relatime - btrfs /dev/home rw\n\
        94 90 254:0 /srv/one /conf rw,relatime - ext4 /dev/root rw\n\
        95 90 254:0 /etc/hosts /etc/hosts rw,relatime - ext4 /dev/root rw\n\
        96 90 254:0 /home/lost /lost rw,relatime - ext4 /dev/root rw\n\
        97 90 254:0 /srv/two /conf rw,relatime - ext4 /dev/root rw\n";

    const HOMES: u32 = 254 << 20 | 1;

    fn found(path: &str, dev: u32) -> Option<String> {
        let outside = Outside::of(CONTAINER.as_bytes(), HOST.as_bytes());
        outside.find(path.as_bytes(), dev).map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn mounted_directories_have_their_name_on_the_host() {
        for (path, dev, expected) in [
            ("/data/a b", HOMES, "/home/me/my notes/a b"),
            ("/data", HOMES, "/home/me/my notes"),
            ("/me/.ssh/id", 0, "/home/me/.ssh/id"),
            ("/etc/hosts", 254 << 20, ""),
            ("/etc/passwd", 60, "/var/lib/containers/storage/overlay/ab/merged/etc/passwd"),
            ("/", 60, "/var/lib/containers/storage/overlay/ab/merged"),
            // The last of two mounts at one place is the one that is seen.
            ("/conf/x", 254 << 20, "/srv/two/x"),
        ] {
            let expected = (!expected.is_empty()).then(|| expected.to_owned());
            assert_eq!(found(path, dev), expected, "{path}");
        }
    }

    #[test]
    fn what_the_host_does_not_see_has_no_name() {
        // A file system that the host has not mounted anywhere.
        assert_eq!(found("/proc/1/maps", 70), None);
        // Mounted since: the device is another one.
        assert_eq!(found("/data/later", 71), None);
        // On the host something else is mounted there.
        assert_eq!(found("/me/remote/x", HOMES), None);
        // Mounted over, and seen at another place.
        assert_eq!(found("/lost/x", 254 << 20).as_deref(), Some("/mnt/old/lost/x"));
        // No mount, no word.
        assert_eq!(Outside::of(b"", HOST.as_bytes()).find(b"/x", 0), None);
        assert_eq!(Outside::of(b"nonsense\n\n 1 2 x:y", b"").find(b"/x", 0), None);
    }

    #[test]
    fn names_that_only_begin_alike_are_others() {
        assert_eq!(found("/database", 60).as_deref().map(|path| &path[..4]), Some("/var"));
        assert_eq!(beneath(b"/data", b"/dat"), None);
        assert_eq!(beneath(b"/data", b"/"), Some(b"/data".as_slice()));
        assert_eq!(beneath(b"/", b"/"), Some(b"".as_slice()));
    }
}
