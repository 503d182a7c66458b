//! Paths beyond the kernel's and the monitor's bounds: chains of directories that are longer than
//! any single path may be.

use std::{
    ffi::CString,
    os::fd::{AsRawFd as _, OwnedFd},
};

use crate::{
    files,
    steps::{Done, Step, Words, done, step},
    sys::{Failure, open, open_at, sys},
};

pub const STEPS: &[Step] = &[
    step("deep-make", "DIRECTORY LEVELS LENGTH", make),
    step("deep-read", "DIRECTORY LEVELS LENGTH", read),
    step("deep-write", "DIRECTORY LEVELS LENGTH", write),
    step("chdir", "DIRECTORY", |words| {
        sys!(SYS_chdir, words.path(0).as_ptr()).and_then(|_| done(""))
    }),
];

const FILE: &std::ffi::CStr = c"file";

fn name(words: Words<'_>) -> Result<(usize, CString), Failure> {
    let length: usize = words.number(2)?;
    let name = CString::new(vec![b'd'; length.clamp(1, 255)]).expect("no NUL");
    Ok((words.number(1)?, name))
}

/// Goes down to the last directory without opening any of them for reading.
fn descend(words: Words<'_>, create: bool) -> Result<OwnedFd, Failure> {
    let (levels, name) = name(words)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let mut here = open(&words.path(0), flags)?;
    for _ in 0..levels {
        if create {
            sys!(SYS_mkdirat, here.as_raw_fd(), name.as_ptr(), 0o755)?;
        }
        here = open_at(here.as_raw_fd(), &name, flags)?;
    }
    Ok(here)
}

fn make(words: Words<'_>) -> Done {
    let bottom = descend(words, true)?;
    let file = open_at(bottom.as_raw_fd(), FILE, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?;
    sys!(SYS_write, file.as_raw_fd(), b"deep\n".as_ptr(), 5_usize)?;
    done("bytes=5")
}

fn read(words: Words<'_>) -> Done {
    let bottom = descend(words, false)?;
    files::report(&open_at(bottom.as_raw_fd(), FILE, libc::O_RDONLY)?)
}

fn write(words: Words<'_>) -> Done {
    let bottom = descend(words, false)?;
    open_at(bottom.as_raw_fd(), FILE, libc::O_WRONLY)?;
    done("")
}
