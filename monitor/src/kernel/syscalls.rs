//! The tracepoint backend's table of system calls, native and 32-bit.

use aya::{Ebpf, maps::Array};
use monitor_common::{
    record::{change, process},
    syscall::{COMPAT_AT, Call, NO_ARGUMENT, action},
};

use super::KernelError;

const NO: u8 = NO_ARGUMENT;

const fn call(action: u8, op: u8, directory: u8, path: u8) -> Call {
    let (second_directory, second_path) = (NO, NO);
    Call { action, op, directory, path, second_directory, second_path, flags: NO, reserved: 0 }
}

const fn path(op: u8, at: u8) -> Call {
    call(action::CHANGE, op, NO, at)
}

const fn path_at(op: u8) -> Call {
    call(action::CHANGE, op, 0, 1)
}

const fn two(op: u8) -> Call {
    Call { second_path: 1, ..call(action::CHANGE, op, NO, 0) }
}

const fn two_at(op: u8) -> Call {
    Call { second_directory: 2, second_path: 3, ..call(action::CHANGE, op, 0, 1) }
}

const fn descriptor(op: u8) -> Call {
    call(action::CHANGE_DESCRIPTOR, op, 0, NO)
}

/// Native number, 32-bit number (arch/x86/entry/syscalls/syscall_32.tbl; -1: none), meaning.
const TABLE: &[(i64, i64, Call)] = &[
    (libc::SYS_open, 5, call(action::OPEN, 0, NO, NO)),
    (libc::SYS_creat, 8, call(action::OPEN, 0, NO, NO)),
    (libc::SYS_openat, 295, call(action::OPEN, 0, NO, NO)),
    (libc::SYS_openat2, 437, call(action::OPEN, 0, NO, NO)),
    (libc::SYS_open_by_handle_at, 342, call(action::OPEN, 0, NO, NO)),
    (libc::SYS_unlink, 10, path(change::UNLINK, 0)),
    (libc::SYS_unlinkat, 301, Call { flags: 2, ..path_at(change::UNLINK) }),
    (libc::SYS_rename, 38, two(change::RENAME)),
    (libc::SYS_renameat, 302, two_at(change::RENAME)),
    (libc::SYS_renameat2, 353, two_at(change::RENAME)),
    (libc::SYS_link, 9, two(change::LINK)),
    (libc::SYS_linkat, 303, two_at(change::LINK)),
    (
        libc::SYS_symlink,
        83,
        Call { second_path: 0, ..call(action::SYMLINK, change::SYMLINK, NO, 1) },
    ),
    (
        libc::SYS_symlinkat,
        304,
        Call { second_path: 0, ..call(action::SYMLINK, change::SYMLINK, 1, 2) },
    ),
    (libc::SYS_mkdir, 39, path(change::MKDIR, 0)),
    (libc::SYS_mkdirat, 296, path_at(change::MKDIR)),
    (libc::SYS_rmdir, 40, path(change::RMDIR, 0)),
    (libc::SYS_mknod, 14, path(change::MKNOD, 0)),
    (libc::SYS_mknodat, 297, path_at(change::MKNOD)),
    (libc::SYS_truncate, 92, path(change::TRUNCATE, 0)),
    (-1, 193, path(change::TRUNCATE, 0)),
    (libc::SYS_ftruncate, 93, descriptor(change::TRUNCATE)),
    (-1, 194, descriptor(change::TRUNCATE)),
    (libc::SYS_chmod, 15, path(change::CHMOD, 0)),
    (libc::SYS_fchmod, 94, descriptor(change::CHMOD)),
    (libc::SYS_fchmodat, 306, path_at(change::CHMOD)),
    (libc::SYS_fchmodat2, 452, path_at(change::CHMOD)),
    (libc::SYS_chown, 182, path(change::CHOWN, 0)),
    (-1, 212, path(change::CHOWN, 0)),
    (libc::SYS_lchown, 16, path(change::CHOWN, 0)),
    (-1, 198, path(change::CHOWN, 0)),
    (libc::SYS_fchown, 95, descriptor(change::CHOWN)),
    (-1, 207, descriptor(change::CHOWN)),
    (libc::SYS_fchownat, 298, path_at(change::CHOWN)),
    (libc::SYS_setxattr, 226, path(change::XATTR, 0)),
    (libc::SYS_lsetxattr, 227, path(change::XATTR, 0)),
    (libc::SYS_fsetxattr, 228, descriptor(change::XATTR)),
    (libc::SYS_removexattr, 235, path(change::XATTR, 0)),
    (libc::SYS_lremovexattr, 236, path(change::XATTR, 0)),
    (libc::SYS_fremovexattr, 237, descriptor(change::XATTR)),
    (libc::SYS_utime, 30, path(change::TIMES, 0)),
    (libc::SYS_utimes, 271, path(change::TIMES, 0)),
    (libc::SYS_futimesat, 299, path_at(change::TIMES)),
    (libc::SYS_utimensat, 320, path_at(change::TIMES)),
    (-1, 412, path_at(change::TIMES)),
    (libc::SYS_mount, 21, call(action::MOUNT, 0, NO, 1)),
    (libc::SYS_move_mount, 429, call(action::MOUNT, 0, 2, 3)),
    (libc::SYS_connect, 362, call(action::CONNECT, 0, 0, NO)),
    (libc::SYS_sendto, 369, call(action::SEND, 0, 0, 4)),
    (libc::SYS_sendmsg, -1, call(action::SEND_MESSAGE, 0, 0, 1)),
    // The first of its messages.
    (libc::SYS_sendmmsg, -1, call(action::SEND_MESSAGE, 0, 0, 1)),
    (libc::SYS_bind, 361, call(action::BIND, 0, 0, NO)),
    (libc::SYS_listen, 363, call(action::LISTEN, 0, 0, NO)),
    (libc::SYS_ptrace, 26, call(action::PTRACE, process::PTRACE, NO, 1)),
    (libc::SYS_process_vm_readv, 347, call(action::PROCESS, process::PTRACE, NO, 0)),
    (libc::SYS_process_vm_writev, 348, call(action::PROCESS, process::PTRACE, NO, 0)),
    (libc::SYS_pidfd_getfd, 438, call(action::PIDFD, process::PTRACE, 0, NO)),
    (libc::SYS_io_uring_setup, 425, call(action::IO_URING, 0, NO, NO)),
    (libc::SYS_bpf, 357, call(action::BPF, 0, NO, NO)),
    (libc::SYS_unshare, 310, call(action::UNSHARE, 0, NO, NO)),
];

/// Writes the table into its map.
///
/// # Errors
/// When the kernel refuses a map update.
pub fn fill(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let map = ebpf.map_mut("CALLS").ok_or(KernelError::MissingMap("CALLS"))?;
    let mut map: Array<_, Call> = map.try_into().map_err(KernelError::Map)?;
    for (native, compat, meaning) in TABLE {
        for number in [*native, compat + i64::from(COMPAT_AT)] {
            if number >= 0 && number != i64::from(COMPAT_AT) - 1 {
                map.set(number as u32, meaning, 0).map_err(KernelError::Map)?;
            }
        }
    }
    Ok(())
}
