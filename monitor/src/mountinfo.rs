//! Mount tables, as `/proc/PID/mountinfo` has them (proc(5)).

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device of the file system, as in [`monitor_common::policy::InodeKey`].
    pub dev: u32,
    /// The directory of the file system that is mounted.
    pub root: Vec<u8>,
    /// Where.
    pub point: Vec<u8>,
    /// Type of the file system.
    pub kind: Vec<u8>,
}

/// The mounts of a table, in their order: of several at one place the last is seen. Lines that are
/// none are passed over.
pub fn mounts(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|&byte| byte == b'\n').filter_map(mount)
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ').skip(2);
    let (major, minor) = str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    // Optional fields end at a lone "-"; the type follows it.
    fields.find(|field| *field == b"-")?;
    Some(Mount { dev: major << 20 | minor, root, point, kind: fields.next()?.to_vec() })
}

/// Undoes the octal escapes of blanks and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| {
            first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        if let Some(digits) = octal {
            bytes.push(digits.iter().fold(0, |value: u8, digit| (value << 3) | (digit - b'0')));
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_found_behind_optional_fields() {
        let line = b"41 31 0:38 / /sys/fs/cgroup/unified rw shared:5 master:2 - cgroup2 none rw";
        let mount = mount(line).unwrap();
        assert_eq!((mount.dev, mount.kind.as_slice()), (38, b"cgroup2".as_slice()));
        assert_eq!(mount.point, b"/sys/fs/cgroup/unified");
    }

    #[test]
    fn mount_points_with_blanks_are_unescaped() {
        let line = b"41 31 254:1 /x\\011 /mnt/a\\040b\\134c rw - cgroup2 none rw";
        let mount = mount(line).unwrap();
        assert_eq!(
            (mount.root.as_slice(), mount.point.as_slice()),
            (&b"/x\t"[..], &b"/mnt/a b\\c"[..])
        );
        assert_eq!(mount.dev, 254 << 20 | 1);
    }

    #[test]
    fn malformed_lines_are_passed_over() {
        for line in
            [&b""[..], b"41", b"41 31 0:38 / /x rw", b"41 31 0:38 / /x rw -", b"1 2 x:y / / - a"]
        {
            assert_eq!(mount(line), None);
        }
        assert_eq!(mounts(b"\n\nnonsense\n1 2 0:3 / / rw - tmpfs x rw\n").count(), 1);
    }
}
