//! Ways to execute a program. What is executed prints the result itself (usually `actor say`).

use std::{
    ffi::{CString, OsString},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use crate::{
    files,
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, open, own, sys},
};

pub const STEPS: &[Step] = &[
    step("say", "WORD ARGUMENT...", |words| done(format!("say={}", words.text(0)?))),
    step("exec", "PATH ARGUMENT...", |words| {
        let (path, vector) = (words.path(0), Vector::new(words.rest(0)));
        sys!(SYS_execve, path.as_ptr(), vector.argv(), vector.envp())?;
        unreachable()
    }),
    step("execveat", "PATH ARGUMENT...", |words| {
        exec_descriptor(&open(&words.path(0), libc::O_PATH)?, words.rest(0))
    }),
    step("exec-fd", "PATH ARGUMENT...", |words| {
        let file = open(&words.path(0), libc::O_PATH)?;
        sys!(SYS_fcntl, file.as_raw_fd(), libc::F_SETFD, 0)?;
        let (path, vector) = (files::name_of(&file), Vector::new(words.rest(0)));
        sys!(SYS_execve, path.as_ptr(), vector.argv(), vector.envp())?;
        unreachable()
    }),
    step("memfd", "PATH ARGUMENT...", memfd),
    step("exec-deleted", "SOURCE TARGET ARGUMENT...", deleted),
    step("exec-long", "PATH BYTES ARGUMENT...", long),
];

/// Argument vector and an empty environment.
pub struct Vector {
    pointers: Vec<*const libc::c_char>,
    _words: Vec<CString>,
}

impl Vector {
    /// The vector of these words.
    pub fn new(words: &[OsString]) -> Self {
        let words: Vec<CString> = words.iter().map(|word| sys::c_path(word)).collect();
        let mut pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { pointers, _words: words }
    }

    /// `argv`.
    pub fn argv(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }

    /// `envp`: the null at the end of `argv`.
    pub fn envp(&self) -> *const *const libc::c_char {
        &raw const self.pointers[self.pointers.len() - 1]
    }
}

fn unreachable() -> Done {
    Err(Failure::call("execve", libc::EINVAL))
}

/// Executes what a descriptor stands for, without a name.
pub fn exec_descriptor(file: &OwnedFd, words: &[OsString]) -> Done {
    let vector = Vector::new(words);
    let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    sys!(SYS_execveat, file.as_raw_fd(), empty, vector.argv(), vector.envp(), flags)?;
    unreachable()
}

fn contents(path: &std::ffi::OsStr) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::call("read", error.raw_os_error().unwrap_or(0)))
}

/// A program that exists in memory only.
fn memfd(words: Words<'_>) -> Done {
    let program = contents(words.word(0))?;
    let file = own(sys!(SYS_memfd_create, c"actor".as_ptr(), libc::MFD_CLOEXEC)?);
    sys::write(file.as_fd(), &program)?;
    exec_descriptor(&file, words.rest(0))
}

/// A program whose name is gone before it runs.
fn deleted(words: Words<'_>) -> Done {
    let program = contents(words.word(0))?;
    let target = words.path(1);
    let file = open(&target, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?;
    sys::write(file.as_fd(), &program)?;
    sys!(SYS_fchmod, file.as_raw_fd(), 0o755)?;
    drop(file);
    let file = open(&target, libc::O_PATH)?;
    sys!(SYS_unlinkat, libc::AT_FDCWD, target.as_ptr(), 0)?;
    exec_descriptor(&file, words.rest(1))
}

/// The arguments, then padding of so many bytes.
fn long(words: Words<'_>) -> Done {
    const ARGUMENT: usize = 1000;
    let bytes: usize = words.number(1)?;
    let mut vector = vec![words.word(0).to_owned()];
    vector.extend_from_slice(words.rest(2));
    vector.extend((0..bytes / ARGUMENT).map(|_| OsString::from("a".repeat(ARGUMENT - 1))));
    let (path, vector) = (words.path(0), Vector::new(&vector));
    sys!(SYS_execve, path.as_ptr(), vector.argv(), vector.envp())?;
    unreachable()
}
