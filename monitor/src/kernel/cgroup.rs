//! Where cgroup v2 is mounted: on hosts with cgroup v1 not at `/sys/fs/cgroup`.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use super::KernelError;
use crate::mountinfo::{Mount, mounts};

/// Mount point of the cgroup v2 hierarchy, where there is one.
///
/// # Errors
/// When the table of mounts cannot be read.
pub fn cgroup_root() -> io::Result<Option<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let found = mounts(&table).find(whole_cgroup2);
    Ok(found.map(|mount| PathBuf::from(OsString::from_vec(mount.point))))
}

/// The root cgroup, open.
pub fn open_root() -> Result<File, KernelError> {
    let root = cgroup_root().map_err(KernelError::Cgroup)?.ok_or(KernelError::NoCgroup2)?;
    File::open(root).map_err(KernelError::Cgroup)
}

/// Whether this is a whole cgroup2 file system.
fn whole_cgroup2(mount: &Mount) -> bool {
    mount.root == b"/" && mount.kind == b"cgroup2"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(line: &[u8]) -> bool {
        mounts(line).any(|mount| whole_cgroup2(&mount))
    }

    #[test]
    fn cgroup2_is_told_from_cgroup1() {
        assert!(is_found(b"41 31 0:38 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 none rw"));
        assert!(!is_found(b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"));
    }

    #[test]
    fn a_part_that_is_bound_elsewhere_is_not_the_root() {
        assert!(!is_found(b"41 31 0:38 /system.slice /mnt rw - cgroup2 none rw"));
    }
}
