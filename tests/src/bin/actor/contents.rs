//! Ways to get at the contents of an open file without `read`.

use std::os::fd::{AsRawFd as _, OwnedFd};

use crate::{
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, open, sys},
};

pub const STEPS: &[Step] = &[
    step("mmap", "PATH", mmap),
    step("sendfile", "SOURCE TARGET", |words| {
        copy(words, |from, to| sys!(SYS_sendfile, to, from, 0_usize, SIZE))
    }),
    step("splice", "SOURCE TARGET", splice),
    step("copy-range", "SOURCE TARGET", |words| {
        copy(words, |from, to| sys!(SYS_copy_file_range, from, 0_usize, to, 0_usize, SIZE, 0_usize))
    }),
    step("copy", "SOURCE TARGET", |words| {
        std::fs::copy(words.word(0), words.word(1))
            .map_err(|error| Failure::call("copy", error.raw_os_error().unwrap_or(0)))
            .and_then(|bytes| done(format!("bytes={bytes}")))
    }),
];

const SIZE: usize = 4096;

fn mmap(words: Words<'_>) -> Done {
    let file = open(&words.path(0), libc::O_RDONLY)?;
    let protection = libc::PROT_READ;
    let fd = file.as_raw_fd();
    let at = sys!(SYS_mmap, 0_usize, SIZE, protection, libc::MAP_PRIVATE, fd, 0_usize)?;
    // SAFETY: the first page of a file that is not empty has just been mapped for reading.
    let first = unsafe { (at as *const u8).read_volatile() };
    done(format!("first={first}"))
}

fn copy(words: Words<'_>, transfer: fn(i32, i32) -> Result<usize, Failure>) -> Done {
    let from = open(&words.path(0), libc::O_RDONLY)?;
    let to = target(words)?;
    done(format!("bytes={}", transfer(from.as_raw_fd(), to.as_raw_fd())?))
}

fn target(words: Words<'_>) -> Result<OwnedFd, Failure> {
    open(&words.path(1), libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
}

/// File to pipe to file.
fn splice(words: Words<'_>) -> Done {
    let from = open(&words.path(0), libc::O_RDONLY)?;
    let to = target(words)?;
    let (output, input) = sys::pipe()?;
    let none = 0_usize;
    let bytes = sys!(SYS_splice, from.as_raw_fd(), none, input.as_raw_fd(), none, SIZE, none)?;
    let bytes = sys!(SYS_splice, output.as_raw_fd(), none, to.as_raw_fd(), none, bytes, none)?;
    done(format!("bytes={bytes}"))
}
