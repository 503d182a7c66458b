//! What the tracepoint backend does at the exit of each system call: a table by number, filled by
//! the loader, so that native and 32-bit calls take one way.

use crate::wire;

/// Entries of the table: native calls, then 32-bit calls from [`COMPAT_AT`].
pub const CALLS: u32 = 2048;
/// First entry of the 32-bit calls.
pub const COMPAT_AT: u32 = 1024;
/// Position of the program for opens among the handlers.
pub const HANDLE_OPEN: u32 = 0;
/// Position of the program for changes.
pub const HANDLE_CHANGE: u32 = 1;
/// Position of the program for sockets.
pub const HANDLE_SOCKET: u32 = 2;
/// Position of the program for everything else.
pub const HANDLE_OTHER: u32 = 3;
/// Number of handlers.
pub const HANDLERS: u32 = 4;
/// An argument position that the call does not have.
pub const NO_ARGUMENT: u8 = 0xff;

/// [`Call::action`].
pub mod action {
    /// Not looked at.
    pub const NONE: u8 = 0;
    /// The result is a descriptor of an opened file.
    pub const OPEN: u8 = 1;
    /// A change named by paths: `path`, relative to `directory`, and `second_*`.
    pub const CHANGE: u8 = 2;
    /// A change of the file behind the descriptor `directory`.
    pub const CHANGE_DESCRIPTOR: u8 = 3;
    /// A symbolic link: text in `second_path`.
    pub const SYMLINK: u8 = 4;
    /// A mount on `path`.
    pub const MOUNT: u8 = 5;
    /// connect on the descriptor `directory`.
    pub const CONNECT: u8 = 6;
    /// A send on the descriptor `directory` to the address at `path`.
    pub const SEND: u8 = 7;
    /// A send on the descriptor `directory` of the `struct msghdr` at `path`.
    pub const SEND_MESSAGE: u8 = 8;
    /// bind on the descriptor `directory`.
    pub const BIND: u8 = 9;
    /// listen on the descriptor `directory`.
    pub const LISTEN: u8 = 10;
    /// ptrace: request in argument 0, process in `path`.
    pub const PTRACE: u8 = 11;
    /// A reach into the process numbered by argument `path`.
    pub const PROCESS: u8 = 12;
    /// A reach into the process of the pidfd in argument `directory`.
    pub const PIDFD: u8 = 13;
    /// io_uring_setup.
    pub const IO_URING: u8 = 14;
    /// bpf; command in argument 0.
    pub const BPF: u8 = 15;
    /// unshare; flags in argument 0.
    pub const UNSHARE: u8 = 16;
}

/// What one call means. Argument positions count from 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// One of [`action`].
    pub action: u8,
    /// [`crate::record::change`] or [`crate::record::process`].
    pub op: u8,
    /// Descriptor that `path` is relative to, or that the call is about.
    pub directory: u8,
    /// Path, address or process.
    pub path: u8,
    /// Descriptor that `second_path` is relative to.
    pub second_directory: u8,
    /// Second path.
    pub second_path: u8,
    /// Argument whose bit 0x200 (AT_REMOVEDIR) turns an unlink into an rmdir.
    pub flags: u8,
    /// Unused, 0.
    pub reserved: u8,
}

wire!(Call = 8);
