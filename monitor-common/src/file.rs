//! What kind of thing a file is, in the kernel's numbers.

/// Bits of a mode that say what it is (include/uapi/linux/stat.h).
pub const S_IFMT: u32 = 0o170_000;
/// Regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Character device.
pub const S_IFCHR: u32 = 0o020_000;
/// Block device.
pub const S_IFBLK: u32 = 0o060_000;

/// `s_magic` of procfs (include/uapi/linux/magic.h, as the others).
pub const PROC_SUPER_MAGIC: u32 = 0x9fa0;
/// That of pidfds, since 6.9.
pub const PIDFS_MAGIC: u32 = 0x5049_4446;
/// That of pipes without a name.
pub const PIPEFS_MAGIC: u32 = 0x5049_5045;
const SYSFS_MAGIC: u32 = 0x6265_6572;
const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

/// Whether a file holds data of somebody: not a directory or device, not memory that has no name
/// any more, and not what the kernel makes up, of which a single `ps` opens a thousand.
#[inline(always)]
pub const fn holds_data(mode: u32, nlink: u32, fs_magic: u32) -> bool {
    mode & S_IFMT == S_IFREG
        && nlink != 0
        && !matches!(fs_magic, PROC_SUPER_MAGIC | SYSFS_MAGIC | CGROUP2_SUPER_MAGIC)
}
