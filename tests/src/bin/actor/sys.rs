//! System calls, made directly, and their failures.

use std::{
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

/// Why a step did not do what it tried.
#[derive(Debug)]
pub enum Failure {
    /// A system call returned an error, or held back what was asked for (`errno` 0).
    Call {
        /// Its name.
        call: &'static str,
        /// The error.
        errno: i32,
        /// What was reached before, as `key=value` words.
        facts: String,
    },
    /// The command line is wrong.
    Usage(String),
}

impl Failure {
    /// The failure of `call` with `errno`.
    pub fn call(call: &'static str, errno: i32) -> Self {
        Self::Call { call, errno, facts: String::new() }
    }

    /// Adds what was reached before.
    pub fn with(self, reached: String) -> Self {
        match self {
            Self::Call { call, errno, .. } => Self::Call { call, errno, facts: reached },
            usage => usage,
        }
    }

    /// The error number, 0 for a wrong command line.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Call { errno, .. } => *errno,
            Self::Usage(_) => 0,
        }
    }
}

/// Makes a system call by its `SYS_*` name and names it in the failure.
macro_rules! sys {
    ($number:ident $(, $argument:expr)* $(,)?) => {{
        // SAFETY: pointers among the arguments are borrowed from values that outlive the call and
        // are as long as the call takes them to be.
        let returned = unsafe { libc::syscall(libc::$number $(, $argument)*) };
        $crate::sys::outcome(stringify!($number), returned)
    }};
}
pub(crate) use sys;

/// Result of a call from its return value.
pub fn outcome(number: &'static str, returned: libc::c_long) -> Result<usize, Failure> {
    usize::try_from(returned).map_err(|_| {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Failure::call(number.strip_prefix("SYS_").unwrap_or(number), errno)
    })
}

/// Takes ownership of a descriptor that a call has just returned.
pub fn own(fd: usize) -> OwnedFd {
    // SAFETY: the caller got `fd` from the kernel and gives it to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// A path as the kernel takes it.
pub fn c_path(path: &OsStr) -> CString {
    CString::new(path.as_bytes()).expect("arguments hold no NUL")
}

/// `openat` relative to the working directory.
pub fn open(path: &CStr, flags: i32) -> Result<OwnedFd, Failure> {
    open_at(libc::AT_FDCWD, path, flags)
}

/// `openat`; files are created with mode 0644.
pub fn open_at(directory: i32, path: &CStr, flags: i32) -> Result<OwnedFd, Failure> {
    sys!(SYS_openat, directory, path.as_ptr(), flags | libc::O_CLOEXEC, 0o644).map(own)
}

/// Reads to the end and returns the number of bytes.
pub fn drain(file: &OwnedFd) -> Result<usize, Failure> {
    let mut buffer = [0_u8; 4096];
    let mut bytes = 0;
    loop {
        match sys!(SYS_read, file.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())? {
            0 => return Ok(bytes),
            count => bytes += count,
        }
    }
}

/// Writes all of `data`.
pub fn write(file: BorrowedFd<'_>, mut data: &[u8]) -> Result<(), Failure> {
    while !data.is_empty() {
        let count = sys!(SYS_write, file.as_raw_fd(), data.as_ptr(), data.len())?;
        data = &data[count..];
    }
    Ok(())
}

/// A pipe: read end, write end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    let mut ends = [0_i32; 2];
    sys!(SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC)?;
    Ok((own(ends[0] as usize), own(ends[1] as usize)))
}

/// Device and inode of a path, following links, without opening it.
pub fn identity(path: &CStr) -> Result<(u64, u64), Failure> {
    stat_at(libc::AT_FDCWD, path, 0)
}

/// Device and inode of an open file.
pub fn identity_of(file: &OwnedFd) -> Result<(u64, u64), Failure> {
    stat_at(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

fn stat_at(directory: i32, path: &CStr, flags: i32) -> Result<(u64, u64), Failure> {
    // SAFETY: a struct of integers; all zero is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    sys!(SYS_newfstatat, directory, path.as_ptr(), &raw mut stat, flags)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// `fork`: 0 in the child.
pub fn fork() -> Result<i32, Failure> {
    // SAFETY: no thread of this process holds a lock that the child needs: steps fork before
    // they start threads, or start the child's work anew by exec.
    outcome("fork", unsafe { libc::fork() }.into()).map(|pid| pid as i32)
}

/// Waits for a child and returns its wait status.
pub fn wait(pid: i32) -> Result<i32, Failure> {
    let mut status = 0_i32;
    sys!(SYS_wait4, pid, &raw mut status, 0, 0)?;
    Ok(status)
}
