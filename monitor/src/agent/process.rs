//! A process that others have started, as procfs shows it.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::PathBuf,
};

use monitor_common::record::{Record, STRINGS};
use nix::unistd::Pid;

use super::request::Launch;
use crate::{
    event::Bytes,
    kernel,
    launch::Handle,
    rules::{Bindings, Start, Traits},
};

/// What procfs says.
pub struct Process {
    /// Thread group.
    pub tgid: u32,
    /// Thread group of its parent.
    pub parent: u32,
    /// Real user.
    pub uid: u32,
    /// Its executable.
    pub exe: Vec<u8>,
    /// Its arguments with argv\[0\].
    pub argv: Vec<Vec<u8>>,
    state: u8,
    comm: Vec<u8>,
    cgroup: Vec<u8>,
    user: Option<Bindings>,
    handle: Handle,
}

/// Numbers of all processes.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

impl Process {
    /// Looks at a process; `None` when it is the kernel's own or has ended.
    pub fn look_at(tgid: u32) -> Option<Self> {
        // Opened first: what is done by it is done to this process or to none.
        let handle = Handle::open(Pid::from_raw(tgid as i32)).ok()?;
        let file = |name: &str| fs::read(format!("/proc/{tgid}/{name}"));
        let exe = fs::read_link(format!("/proc/{tgid}/exe")).ok()?.into_os_string().into_vec();
        let stat = file("stat").ok()?;
        // The name stands in brackets, and may hold some.
        let end = stat.windows(2).rposition(|two| two == b") ")?;
        let begin = stat.iter().position(|byte| *byte == b'(')?;
        let mut fields = str::from_utf8(&stat[end + 2..]).ok()?.split(' ');
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let status = String::from_utf8_lossy(&file("status").ok()?).into_owned();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let uid = uid.split_whitespace().next()?.parse().ok()?;
        let groups = file("cgroup").ok()?;
        let own = groups.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
        Some(Self {
            tgid,
            parent,
            uid,
            exe: exe.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(exe),
            argv: strings(&file("cmdline").ok()?),
            state,
            comm: stat[begin + 1..end].to_vec(),
            cgroup: own.unwrap_or(b"/").to_vec(),
            user: Bindings::of_start(uid, None, Start::default()).ok(),
            handle,
        })
    }

    /// What it is matched by.
    pub fn traits(&self) -> Traits<'_> {
        let user = self.user.as_ref();
        Traits {
            exe: &self.exe,
            cgroup: &self.cgroup,
            arguments: self.argv.get(1..).unwrap_or_default(),
            user: user.map(|user| (user.home.as_os_str().as_bytes(), user.user.as_bytes())),
        }
    }

    /// How it was started, as far as its rules ask for it.
    pub fn launch(&self, server: &str) -> Launch {
        let bytes = |text: &[u8]| Bytes::from(text);
        let environment = fs::read(format!("/proc/{}/environ", self.tgid)).unwrap_or_default();
        let environment = strings(&environment);
        let pair = |text: &Vec<u8>| {
            let at = text.iter().position(|byte| *byte == b'=')?;
            Some((bytes(&text[..at]), bytes(&text[at + 1..])))
        };
        Launch {
            pid: self.tgid,
            server: Some(server.to_owned()),
            mode: None,
            command: self.argv.iter().map(|argument| bytes(argument)).collect(),
            environment: environment.iter().filter_map(pair).collect(),
            cwd: bytes(&self.cwd()),
            home: None,
        }
    }

    fn cwd(&self) -> Vec<u8> {
        let link = fs::read_link(format!("/proc/{}/cwd", self.tgid));
        link.unwrap_or_else(|_| PathBuf::from("/")).into_os_string().into_vec()
    }

    /// Completes the record of the exec that has made it what it is, by what is known of it now, and
    /// hands it over with its strings.
    pub fn executed(&self, of: &Record, tell: impl FnOnce(Record, [&[u8]; STRINGS])) {
        let mut comm = [0; 16];
        let length = self.comm.len().min(comm.len() - 1);
        comm[..length].copy_from_slice(&self.comm[..length]);
        let namespace = fs::read_link(format!("/proc/{}/ns/mnt", self.tgid)).ok();
        let number = |link: PathBuf| {
            link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse::<u32>().ok()
        };
        let root = kernel::cgroup_root().ok().flatten();
        let own = self.cgroup.strip_prefix(b"/").map(OsStr::from_bytes);
        let cgroup = root.zip(own).and_then(|(root, own)| fs::metadata(root.join(own)).ok());
        let record = Record {
            // The kernel's number of a cgroup is its inode.
            cgroup: cgroup.map_or(0, |cgroup| cgroup.ino()),
            tgid: self.tgid,
            tid: self.tgid,
            ppid: self.parent,
            uid: self.uid,
            mnt_ns: namespace.and_then(number).unwrap_or(0),
            comm,
            ..*of
        };
        let mut argv = self.argv.join(&0);
        argv.push(0);
        argv.truncate(monitor_common::limits::ARGV_MAX);
        tell(record, [&self.exe, b"", &self.cwd(), &argv]);
    }

    /// Whether it stands still.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// For the kernel side.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: i32) {
        // Fails when it has ended.
        let _ = self.handle.signal(signal);
    }
}

/// Strings that each end in NUL.
fn strings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Some(all) = bytes.strip_suffix(b"\0") else {
        return if bytes.is_empty() { Vec::new() } else { vec![bytes.to_vec()] };
    };
    all.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}
