//! Changes to files and directories, each by its own call.

use std::os::fd::AsRawFd as _;

use crate::{
    steps::{Done, Step, Words, done, step},
    sys::{Failure, open, sys},
};

const AT: i32 = libc::AT_FDCWD;
const ATTRIBUTE: &std::ffi::CStr = c"user.actor";

pub const STEPS: &[Step] = &[
    step("unlink", "PATH", |words| plain(sys!(SYS_unlinkat, AT, words.path(0).as_ptr(), 0))),
    step("rmdir", "PATH", |words| {
        plain(sys!(SYS_unlinkat, AT, words.path(0).as_ptr(), libc::AT_REMOVEDIR))
    }),
    step("rename", "OLD NEW", |words| {
        let (old, new) = (words.path(0), words.path(1));
        plain(sys!(SYS_rename, old.as_ptr(), new.as_ptr()))
    }),
    step("exchange", "OLD NEW", |words| {
        let (old, new) = (words.path(0), words.path(1));
        let exchange = libc::RENAME_EXCHANGE;
        plain(sys!(SYS_renameat2, AT, old.as_ptr(), AT, new.as_ptr(), exchange))
    }),
    step("link", "OLD NEW", |words| {
        let (old, new) = (words.path(0), words.path(1));
        plain(sys!(SYS_linkat, AT, old.as_ptr(), AT, new.as_ptr(), 0))
    }),
    step("symlink", "TEXT NEW", |words| {
        let (text, new) = (words.path(0), words.path(1));
        plain(sys!(SYS_symlinkat, text.as_ptr(), AT, new.as_ptr()))
    }),
    step("mkdir", "PATH", |words| plain(sys!(SYS_mkdirat, AT, words.path(0).as_ptr(), 0o755))),
    step("mknod-fifo", "PATH", |words| make_node(words, libc::S_IFIFO)),
    step("mknod-file", "PATH", |words| make_node(words, libc::S_IFREG)),
    step("truncate", "PATH", |words| plain(sys!(SYS_truncate, words.path(0).as_ptr(), 0_usize))),
    step("ftruncate", "PATH", |words| {
        let file = open(&words.path(0), libc::O_WRONLY)?;
        plain(sys!(SYS_ftruncate, file.as_raw_fd(), 0_usize))
    }),
    step("chmod", "PATH", |words| plain(sys!(SYS_chmod, words.path(0).as_ptr(), 0o600))),
    step("fchmod", "PATH", |words| {
        let file = open(&words.path(0), libc::O_RDONLY)?;
        plain(sys!(SYS_fchmod, file.as_raw_fd(), 0o600))
    }),
    step("chown", "PATH", |words| plain(sys!(SYS_fchownat, AT, words.path(0).as_ptr(), 1, 1, 0))),
    step("setxattr", "PATH", |words| {
        let (path, value) = (words.path(0), b"1");
        let name = ATTRIBUTE.as_ptr();
        plain(sys!(SYS_setxattr, path.as_ptr(), name, value.as_ptr(), 1_usize, 0))
    }),
    step("removexattr", "PATH", |words| {
        plain(sys!(SYS_removexattr, words.path(0).as_ptr(), ATTRIBUTE.as_ptr()))
    }),
    step("utimes", "PATH", utimes),
];

fn plain(outcome: Result<usize, Failure>) -> Done {
    outcome.and_then(|_| done(""))
}

fn make_node(words: Words<'_>, kind: libc::mode_t) -> Done {
    plain(sys!(SYS_mknodat, AT, words.path(0).as_ptr(), kind | 0o644, 0))
}

fn utimes(words: Words<'_>) -> Done {
    let times = [libc::timespec { tv_sec: 1, tv_nsec: 0 }; 2];
    plain(sys!(SYS_utimensat, AT, words.path(0).as_ptr(), times.as_ptr(), 0))
}
