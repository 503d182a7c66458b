//! Other names for files by mounts, namespaces and changed roots. The steps change this process
//! and what it starts; later steps use the new names.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use crate::{
    exec, files,
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, open_at, own, sys},
};

pub const STEPS: &[Step] = &[
    step("unshare-mount", "", |_| unshare_mount()),
    step("unshare-user", "", |_| sys!(SYS_unshare, libc::CLONE_NEWUSER).and_then(|_| done(""))),
    step("unshare-net", "", |_| sys!(SYS_unshare, libc::CLONE_NEWNET).and_then(|_| done(""))),
    step("bind", "SOURCE TARGET", |words| {
        mount(&words.path(0), &words.path(1), c"none", libc::MS_BIND, c"")
    }),
    step("mount-tmpfs", "TARGET", |words| mount(c"tmpfs", &words.path(0), c"tmpfs", 0, c"")),
    step("mount-proc", "TARGET", |words| mount(c"proc", &words.path(0), c"proc", 0, c"")),
    step("overlay", "LOWER UPPER WORK TARGET", overlay),
    step("umount", "TARGET", |words| {
        sys!(SYS_umount2, words.path(0).as_ptr(), libc::MNT_DETACH).and_then(|_| done(""))
    }),
    step("open-tree", "DIRECTORY NAME", open_tree_read),
    step("open-tree-exec", "DIRECTORY NAME ARGUMENT...", |words| {
        let tree = open_tree(&words.path(0))?;
        let program = open_at(tree.as_raw_fd(), &words.path(1), libc::O_PATH)?;
        exec::exec_descriptor(&program, words.rest(1))
    }),
    step("move-mount", "SOURCE TARGET", move_mount),
    step("chroot", "DIRECTORY", |words| {
        sys!(SYS_chroot, words.path(0).as_ptr()).and_then(|_| done(""))
    }),
    step("pivot-root", "NEW OLD", |words| {
        let (new, old) = (words.path(0), words.path(1));
        sys!(SYS_pivot_root, new.as_ptr(), old.as_ptr()).and_then(|_| done(""))
    }),
];

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;

/// A mount namespace of its own, from which nothing gets back to the machine's.
fn unshare_mount() -> Done {
    sys!(SYS_unshare, libc::CLONE_NEWNS)?;
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE, c"")
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Done {
    let (source, target) = (source.as_ptr(), target.as_ptr());
    sys!(SYS_mount, source, target, kind.as_ptr(), flags, data.as_ptr())?;
    done("")
}

fn overlay(words: Words<'_>) -> Done {
    let [lower, upper, work] = [words.text(0)?, words.text(1)?, words.text(2)?];
    let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount(c"overlay", &words.path(3), c"overlay", 0, &sys::c_path(data.as_ref()))
}

fn open_tree(path: &CStr) -> Result<OwnedFd, Failure> {
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE;
    sys!(SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags).map(own)
}

/// Reads a file through a copy of a mount that is attached nowhere.
fn open_tree_read(words: Words<'_>) -> Done {
    let tree = open_tree(&words.path(0))?;
    files::report(&open_at(tree.as_raw_fd(), &words.path(1), libc::O_RDONLY)?)
}

fn move_mount(words: Words<'_>) -> Done {
    let tree = open_tree(&words.path(0))?;
    let (at, target) = (libc::AT_FDCWD, words.path(1));
    let (empty, flags) = (c"".as_ptr(), MOVE_MOUNT_F_EMPTY_PATH);
    sys!(SYS_move_mount, tree.as_raw_fd(), empty, at, target.as_ptr(), flags)?;
    done("")
}
