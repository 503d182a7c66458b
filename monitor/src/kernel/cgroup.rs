//! Where cgroup v2 is mounted: on hosts with cgroup v1 not at `/sys/fs/cgroup`.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use super::KernelError;

/// Mount point of the cgroup v2 hierarchy, where there is one.
///
/// # Errors
/// When the table of mounts cannot be read.
pub fn cgroup_root() -> io::Result<Option<PathBuf>> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    Ok(mounts.split(|&byte| byte == b'\n').find_map(cgroup2_mount))
}

/// The root cgroup, open.
pub fn open_root() -> Result<File, KernelError> {
    let root = cgroup_root().map_err(KernelError::Cgroup)?.ok_or(KernelError::NoCgroup2)?;
    File::open(root).map_err(KernelError::Cgroup)
}

/// The mount point in a line of mountinfo when it is a whole cgroup2 file system.
fn cgroup2_mount(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|&byte| byte == b' ');
    let is_whole = fields.nth(3)? == b"/";
    let mount_point = fields.next()?;
    // Optional fields end at a lone "-"; the type follows it.
    fields.find(|field| *field == b"-")?;
    (is_whole && fields.next()? == b"cgroup2")
        .then(|| PathBuf::from(OsString::from_vec(unescape(mount_point))))
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
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
    fn cgroup2_is_found_behind_optional_fields() {
        let line = b"41 31 0:38 / /sys/fs/cgroup/unified rw shared:5 master:2 - cgroup2 none rw";
        assert_eq!(cgroup2_mount(line), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn cgroup1_is_not_taken_for_cgroup2() {
        let line = b"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        assert_eq!(cgroup2_mount(line), None);
    }

    #[test]
    fn mount_points_with_blanks_are_unescaped() {
        let line = b"41 31 0:38 / /mnt/a\\040b\\134c rw - cgroup2 none rw";
        assert_eq!(cgroup2_mount(line), Some(PathBuf::from("/mnt/a b\\c")));
    }

    #[test]
    fn malformed_lines_are_passed_over() {
        for line in [&b""[..], b"41", b"41 31 0:38 / /x rw", b"41 31 0:38 / /x rw -"] {
            assert_eq!(cgroup2_mount(line), None);
        }
    }

    #[test]
    fn a_part_that_is_bound_elsewhere_is_not_the_root() {
        let line = b"41 31 0:38 /system.slice /mnt rw - cgroup2 none rw";
        assert_eq!(cgroup2_mount(line), None);
    }
}
