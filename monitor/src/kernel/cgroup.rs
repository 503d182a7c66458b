//! Where cgroup v2 is mounted: not always at `/sys/fs/cgroup`.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use super::KernelError;

/// Mount point of the cgroup v2 hierarchy.
///
/// # Errors
/// When there is none.
pub fn mount_point() -> Result<PathBuf, KernelError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(KernelError::Cgroup)?;
    mounts
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let whole = left.split(' ').nth(3)? == "/";
            let kind = right.split(' ').next()?;
            (whole && kind == "cgroup2").then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })
        .ok_or(KernelError::NoCgroup2)
}

/// The root cgroup, open.
pub fn root() -> Result<File, KernelError> {
    File::open(mount_point()?).map_err(KernelError::Cgroup)
}
