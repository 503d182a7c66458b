//! Files that whoever starts a server left open for it, besides the three standard descriptors. The
//! launcher closes them; what a set or `deny` holds among them is told, because it would have been
//! read without an open.

use std::{
    fs,
    os::{linux::fs::MetadataExt as _, unix::ffi::OsStringExt as _},
};

use monitor_common::{
    policy::{InodeKey, access, decide, reason, verdict},
    record::{Record, did, enforced, flags, kind, process},
};
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    libc,
};

use crate::{decode, enrich::clock, rules::Compiled};

/// One of them.
#[derive(Debug)]
pub struct Handed {
    path: Vec<u8>,
    inode: InodeKey,
    mode: u32,
    nlink: u32,
    access: u32,
}

/// Those of this process: regular files that stay open over an exec. What this process has opened
/// itself does not.
pub fn files() -> Vec<Handed> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| *number > libc::STDERR_FILENO).filter_map(of_descriptor).collect()
}

fn of_descriptor(number: i32) -> Option<Handed> {
    // SAFETY: only asked about, in a process that has one thread.
    let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let asked = |what| fcntl(descriptor, what).ok();
    if FdFlag::from_bits_retain(asked(FcntlArg::F_GETFD)?).contains(FdFlag::FD_CLOEXEC) {
        return None;
    }
    let link = format!("/proc/self/fd/{number}");
    let metadata = fs::metadata(&link).ok().filter(fs::Metadata::is_file)?;
    let how = OFlag::from_bits_retain(asked(FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    let dev = metadata.st_dev();
    Some(Handed {
        path: fs::read_link(&link).ok()?.into_os_string().into_vec(),
        inode: InodeKey {
            ino: metadata.st_ino(),
            dev: libc::major(dev) << 20 | libc::minor(dev),
            generation: 0,
        },
        mode: metadata.st_mode(),
        nlink: u32::try_from(metadata.st_nlink()).unwrap_or(u32::MAX),
        access: match how {
            OFlag::O_RDONLY => did::READ,
            OFlag::O_WRONLY => did::WRITE,
            _ => did::READ | did::WRITE,
        },
    })
}

impl Handed {
    /// What was handed to the process `tgid` as a record and its path; `None` where neither a set
    /// nor `deny` minds.
    pub fn record(&self, compiled: &Compiled, tgid: u32) -> Option<(Record, &[u8])> {
        let asked = self.access as u8 & (access::READ | access::WRITE);
        let classes = compiled.classify_path(&self.path);
        let decision = decide(&compiled.policy, classes, asked);
        let minds = decision.verdict > verdict::ALLOW
            && matches!(decision.reason, reason::SET | reason::DENY);
        let mut comm = [0; 16];
        comm[..NAME.len()].copy_from_slice(NAME);
        let record = Record {
            op: process::DESCRIPTOR,
            enforced: if decision.verdict >= verdict::DENY { enforced::DENIED } else { 0 },
            mode: compiled.policy.mode,
            time_ns: clock::boot_ns(),
            policy: compiled.policy.id,
            tgid,
            tid: tgid,
            flags: flags::CHECK,
            classes,
            decision,
            did: self.access,
            comm,
            inode: self.inode,
            inode_mode: self.mode,
            nlink: self.nlink,
            ..decode::blank(kind::PROCESS)
        };
        minds.then_some((record, self.path.as_slice()))
    }
}

/// The process that is to become the server still has the launcher's name.
const NAME: &[u8] = b"mcp-monitor";

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _};

    use super::*;

    #[test]
    fn files_left_open_are_found_and_own_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (left, own) = (directory.path().join("left"), directory.path().join("own"));
        let own = fs::File::create(own).unwrap();
        let file = fs::File::create(&left).unwrap();
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let found: Vec<Handed> = files()
            .into_iter()
            .filter(|it| it.path.starts_with(directory.path().as_os_str().as_bytes()))
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, left.as_os_str().as_bytes());
        assert_eq!(found[0].access, did::WRITE);
        assert!(of_descriptor(own.as_raw_fd()).is_none());
    }
}
