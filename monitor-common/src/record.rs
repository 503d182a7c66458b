//! One ring-buffer record: a fixed [`Record`], then byte strings one after the other without
//! separators, their lengths in [`Record::lengths`].

use crate::{
    policy::{Decision, InodeKey},
    wire,
};

/// [`Record::kind`]: the event's type.
pub mod kind {
    /// A new image runs. Strings: path of the file that runs, name of the script (`#!` or
    /// binfmt_misc) that it interprets or nothing, working directory, arguments.
    pub const EXEC: u8 = 1;
    /// A tagged process made another process (`target`).
    pub const FORK: u8 = 2;
    /// A tagged process ended; `detail` is its wait status.
    pub const EXIT: u8 = 3;
    /// A file was opened. Strings: path.
    pub const OPEN: u8 = 4;
    /// A file was changed by [`super::change`]. Strings: path, second path.
    pub const CHANGE: u8 = 5;
    /// Something was mounted. Strings: target, source.
    pub const MOUNT: u8 = 6;
    /// A connect to `peer`.
    pub const CONNECT: u8 = 7;
    /// A send to `peer` without a connect.
    pub const SEND: u8 = 8;
    /// A bind to `peer`.
    pub const BIND: u8 = 9;
    /// A listen on `peer`.
    pub const LISTEN: u8 = 10;
    /// A connect or send to an AF_UNIX socket. Strings: its path, or its abstract name with the
    /// leading NUL.
    pub const UNIX: u8 = 11;
    /// A reach into another process (`target`) by [`super::process`].
    pub const PROCESS: u8 = 12;
    /// An io_uring was set up.
    pub const IO_URING: u8 = 13;
    /// A bpf(2) call; `detail` is its command.
    pub const BPF: u8 = 14;
    /// A socket was created; `peer` holds family, type and protocol.
    pub const SOCKET: u8 = 15;
    /// A user namespace was created.
    pub const NAMESPACE: u8 = 16;
    /// Number after the last kind.
    pub const END: u8 = 17;
}

/// [`Record::op`] of [`kind::CHANGE`].
pub mod change {
    /// A file was created (open with O_CREAT, mknod of a regular file).
    pub const CREATE: u8 = 1;
    /// unlink.
    pub const UNLINK: u8 = 2;
    /// rename; the second path is the new name.
    pub const RENAME: u8 = 3;
    /// Hard link; the second path is the new name.
    pub const LINK: u8 = 4;
    /// Symbolic link; the second string is its text.
    pub const SYMLINK: u8 = 5;
    /// mkdir.
    pub const MKDIR: u8 = 6;
    /// rmdir.
    pub const RMDIR: u8 = 7;
    /// mknod of a device, FIFO or socket.
    pub const MKNOD: u8 = 8;
    /// truncate.
    pub const TRUNCATE: u8 = 9;
    /// chmod.
    pub const CHMOD: u8 = 10;
    /// chown.
    pub const CHOWN: u8 = 11;
    /// An extended attribute was set or removed.
    pub const XATTR: u8 = 12;
    /// Times were set.
    pub const TIMES: u8 = 13;
    /// Names in events, by number.
    pub const NAMES: [&str; 14] = [
        "", "create", "unlink", "rename", "link", "symlink", "mkdir", "rmdir", "mknod", "truncate",
        "chmod", "chown", "xattr", "times",
    ];
}

/// [`Record::op`] of [`kind::PROCESS`].
pub mod process {
    /// ptrace attach or an access of the same strength (`pidfd_getfd`, `process_vm_readv`).
    pub const PTRACE: u8 = 1;
    /// A signal; `detail` is its number.
    pub const SIGNAL: u8 = 2;
    /// A descriptor was received from another process. Strings: the file's path.
    pub const DESCRIPTOR: u8 = 3;
    /// Memory or environment was opened. Strings: the path in procfs.
    pub const MEMORY: u8 = 4;
    /// Names in events, by number.
    pub const NAMES: [&str; 5] = ["", "ptrace", "signal", "descriptor", "memory"];
}

/// [`Record::flags`].
pub mod flags {
    /// The path is longer or deeper than the bounds and was not matched.
    pub const TRUNCATED: u32 = 1 << 0;
    /// The argument vector is longer than the bound.
    pub const ARGV_TRUNCATED: u32 = 1 << 1;
    /// The walk ended outside the mount tree: a detached or foreign mount, an unlinked directory.
    pub const DETACHED: u32 = 1 << 2;
    /// Taken from a user's argument rather than from a kernel object.
    pub const ARGUMENT: u32 = 1 << 3;
    /// The executable has no name in any file system (memfd, deleted).
    pub const FILELESS: u32 = 1 << 4;
    /// A 32-bit system call.
    pub const COMPAT: u32 = 1 << 5;
    /// Done through io_uring.
    pub const IO_URING: u32 = 1 << 6;
    /// Seen after it took effect: it could be answered but not prevented.
    pub const AFTER: u32 = 1 << 7;
    /// The AF_UNIX name is abstract.
    pub const ABSTRACT: u32 = 1 << 8;
    /// A directory.
    pub const DIRECTORY: u32 = 1 << 9;
    /// The program was started through a dynamic loader.
    pub const LOADER: u32 = 1 << 10;
    /// The working directory or arguments could not be read.
    pub const UNREADABLE: u32 = 1 << 11;
    /// Judged before it takes effect: an exec that may yet be refused or fail. The exec itself is
    /// a record of its own.
    pub const CHECK: u32 = 1 << 12;
    /// Reached through a mount that is not in the process's mount namespace, such as a detached
    /// one: such a path can be made to read like any other, and was not matched.
    pub const FOREIGN: u32 = 1 << 13;
    /// The arguments of the program are among those that its rules name, or are judged by the event
    /// that it runs.
    pub const NAMED_ARGUMENTS: u32 = 1 << 14;
    /// A rename to a name that another file had, which has it no more.
    pub const REPLACED: u32 = 1 << 15;
}

/// [`Record::did`]: what an open asked for.
pub mod did {
    /// Reading.
    pub const READ: u32 = 1 << 0;
    /// Writing.
    pub const WRITE: u32 = 1 << 1;
    /// The open created the file.
    pub const CREATE: u32 = 1 << 2;
    /// O_TRUNC.
    pub const TRUNCATE: u32 = 1 << 3;
    /// O_APPEND.
    pub const APPEND: u32 = 1 << 4;
    /// O_PATH: no access to contents.
    pub const PATH: u32 = 1 << 5;
    /// O_TMPFILE.
    pub const TEMPORARY: u32 = 1 << 6;
    /// Names in events, by bit number.
    pub const NAMES: [&str; 7] =
        ["read", "write", "create", "truncate", "append", "path", "temporary"];
}

/// [`Record::enforced`].
pub mod enforced {
    /// Nothing was done.
    pub const NONE: u8 = 0;
    /// The kernel program refused the call.
    pub const DENIED: u8 = 1;
    /// The kernel program sent SIGKILL; what was asked for may have taken effect.
    pub const KILLED: u8 = 2;
    /// Refused and killed.
    pub const DENIED_AND_KILLED: u8 = 3;
    /// Userspace found a stronger verdict than the kernel and ended the tree. The kernel programs
    /// never set it.
    pub const AGENT: u8 = 4;
}

/// The other process of a fork, signal or ptrace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Start of its thread group leader, CLOCK_BOOTTIME, ns.
    pub start_ns: u64,
    /// Its thread group.
    pub tgid: u32,
    /// Its instance, 0 when untagged.
    pub instance: u32,
}

/// An address. IPv4 stands as IPv4-mapped IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address, as given: not yet made canonical.
    pub address: [u8; 16],
    /// Port, host byte order.
    pub port: u16,
    /// AF_*.
    pub family: u16,
    /// SOCK_*.
    pub socket_type: u16,
    /// IPPROTO_*.
    pub protocol: u16,
}

/// The fixed part of every record. Fields that a kind does not use are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Bytes of the record with its strings.
    pub size: u32,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`change`] or [`process`].
    pub op: u8,
    /// One of [`enforced`].
    pub enforced: u8,
    /// [`crate::policy::mode`] of the policy that decided.
    pub mode: u8,
    /// CLOCK_BOOTTIME, ns.
    pub time_ns: u64,
    /// Start of the thread group leader, CLOCK_BOOTTIME, ns: with `tgid` the process's identity.
    pub start_ns: u64,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Instance of the process.
    pub instance: u32,
    /// [`crate::policy::Policy::id`] of the policy that decided.
    pub policy: u32,
    /// Thread group.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Thread group of the real parent.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Inode number of the mount namespace.
    pub mnt_ns: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Bits of [`crate::policy::class`] that the object falls in, all sources together.
    pub classes: u32,
    /// Those of them that come from inode labels.
    pub labels: u32,
    /// The verdict. In observe mode what would have been done.
    pub decision: Decision,
    /// Bits of [`did`].
    pub did: u32,
    /// Task name.
    pub comm: [u8; 16],
    /// The object's inode.
    pub inode: InodeKey,
    /// `i_mode`.
    pub inode_mode: u32,
    /// Hard links of the object.
    pub nlink: u32,
    /// Magic number of the object's file system.
    pub fs_magic: u32,
    /// Signal, ptrace mode, wait status, bpf command: see the kind.
    pub detail: u32,
    /// The other process.
    pub target: Target,
    /// The address.
    pub peer: Peer,
    /// Lengths of the strings.
    pub lengths: [u16; STRINGS],
}

/// Strings that a record can carry.
pub const STRINGS: usize = 4;
/// Position of the path among the strings.
pub const PATH: usize = 0;
/// Position of the second path: new name, link text, mount source, script.
pub const SECOND: usize = 1;
/// Position of the working directory (exec).
pub const CWD: usize = 2;
/// Position of the argument vector, each argument ended by NUL (exec).
pub const ARGV: usize = 3;

/// Counters that the kernel keeps, by position in their map.
pub mod counter {
    /// Ordinary records that the hooks produced.
    pub const EVENTS_PRODUCED: u32 = 0;
    /// Ordinary records lost because the ring was full.
    pub const EVENTS_LOST: u32 = 1;
    /// Violation records that the hooks produced.
    pub const VIOLATIONS_PRODUCED: u32 = 2;
    /// Violation records lost because the ring was full.
    pub const VIOLATIONS_LOST: u32 = 3;
    /// Hooks that found no free scratch slot: refused in enforce, and no record made.
    pub const SCRATCH_EXHAUSTED: u32 = 4;
    /// Forks that left the tag table too little room: their tree was killed.
    pub const TAG_FAILED: u32 = 5;
    /// Forks refused because the tag table was nearly full.
    pub const FORK_REFUSED: u32 = 6;
    /// Labels that found no room.
    pub const LABEL_FAILED: u32 = 7;
    /// Tagged processes whose instance or policy is missing: refused.
    pub const POLICY_MISSING: u32 = 8;
    /// Calls refused in the kernel.
    pub const DENIED: u32 = 9;
    /// SIGKILLs sent by the kernel programs.
    pub const KILLED: u32 = 10;
    /// Tags in use now.
    pub const TAGS: u32 = 11;
    /// Number of counters.
    pub const COUNT: u32 = 12;
    /// Names, by number.
    pub const NAMES: [&str; COUNT as usize] = [
        "events_produced",
        "events_lost",
        "violations_produced",
        "violations_lost",
        "scratch_exhausted",
        "tag_failed",
        "fork_refused",
        "label_failed",
        "policy_missing",
        "denied",
        "killed",
        "tags",
    ];
}

wire!(Target = 16, Peer = 24, Record = 176);
