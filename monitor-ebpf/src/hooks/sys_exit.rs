//! The tracepoint backend's view of system calls: at their exit, native and 32-bit alike. What has
//! been opened, connected or changed is there by then; a forbidden one is answered with SIGKILL
//! and the sentence of its instance. One hook, because any system call tracepoint slows every
//! call, and only one pays for that.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user_str, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use core::ffi::c_void;
use monitor_common::{
    limits::PATH_MAX,
    policy::{access, class, set},
    record::{SECOND, change, flags, kind},
    syscall::{self, COMPAT_AT, Call, NO_ARGUMENT, action},
};

use crate::{
    argument::{self, Arguments},
    instance::{self, Current, Subject},
    judge::{self, Opened},
    kernel_field::{Address, current_task, field, load},
    maps::{CALLS, HANDLERS},
    network::{self, AF_INET, AF_INET6, AF_UNIX},
    path::Place,
    policy::{self, Means},
    scratch::{STRING_AT, Scratch},
    unix_socket::{self, Named},
};

/// arch/x86/include/asm/thread_info.h
const TS_COMPAT: u32 = 2;
/// include/uapi/linux/fcntl.h
const AT_REMOVEDIR: u64 = 0x200;
/// include/uapi/linux/sched.h
const CLONE_NEWUSER: u64 = 0x1000_0000;
/// include/uapi/linux/ptrace.h
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

/// `sys_exit(struct pt_regs *regs, long ret)`: finds out what the call means and goes on in the
/// program for that, each of which is verified, and has its stack, by itself.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    if let Current::Untagged | Current::Outlaw = instance::current() {
        return 0;
    }
    if let Some((call, _)) = call_of(&ctx)
        && result >= 0
    {
        let handler = match call.action {
            action::NONE => return 0,
            action::OPEN => syscall::HANDLE_OPEN,
            action::CHANGE..=action::MOUNT => syscall::HANDLE_CHANGE,
            action::CONNECT..=action::LISTEN => syscall::HANDLE_SOCKET,
            _ => syscall::HANDLE_OTHER,
        };
        // SAFETY: the programs in the array are of this one's kind. It returns only when the
        // loader has left the entry empty.
        let _ = unsafe { HANDLERS.tail_call(&ctx, handler) };
    }
    0
}

/// Opens.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit_open(ctx: BtfTracePointContext) -> i32 {
    handle(&ctx, |subject, _, arguments| {
        let result: i64 = ctx.arg(1);
        open(subject, result as u64, compat_flag(arguments));
    })
}

/// Changes to files, and mounts.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit_change(ctx: BtfTracePointContext) -> i32 {
    handle(&ctx, change_path)
}

/// Sockets.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit_socket(ctx: BtfTracePointContext) -> i32 {
    handle(&ctx, socket)
}

/// Everything else.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit_other(ctx: BtfTracePointContext) -> i32 {
    handle(&ctx, other)
}

#[inline(always)]
fn handle(ctx: &BtfTracePointContext, judge: impl FnOnce(&Subject, &Call, Arguments)) -> i32 {
    if let Current::Tagged(subject) = instance::current()
        && let Some((call, arguments)) = call_of(ctx)
    {
        judge(&subject, call, arguments);
    }
    0
}

#[inline(always)]
fn call_of(ctx: &BtfTracePointContext) -> Option<(&'static Call, Arguments)> {
    let status: u32 = load!(current_task(), task_status);
    let compat = status & TS_COMPAT != 0;
    let registers = ctx.arg::<*const c_void>(0) as Address;
    let number: u64 = load!(registers, regs_orig_ax);
    if number >= COMPAT_AT as u64 {
        return None;
    }
    let at = number as u32 | if compat { COMPAT_AT } else { 0 };
    CALLS.get(at).map(|call| (call, Arguments { registers, compat }))
}

#[inline(always)]
fn compat_flag(arguments: Arguments) -> u32 {
    if arguments.compat { flags::COMPAT } else { 0 }
}

/// Judges the file behind a fresh descriptor.
#[inline(always)]
pub fn open(subject: &Subject, descriptor: u64, how: u32) {
    let file = crate::hooks::control::file_of(current_task(), descriptor);
    if file == 0 {
        return;
    }
    judge::run(subject, kind::OPEN, Means::KillOnly, |scratch, subject| {
        scratch.record.flags |= flags::AFTER | how;
        let opened = Opened::of(scratch, file);
        judge::judge_file(scratch, subject, &opened);
    });
}

#[inline(always)]
fn change_path(subject: &Subject, call: &Call, arguments: Arguments) {
    let kind = if call.action == action::MOUNT { kind::MOUNT } else { kind::CHANGE };
    judge::run(subject, kind, Means::KillOnly, |scratch, subject| {
        scratch.record.flags |= flags::AFTER | compat_flag(arguments);
        scratch.record.op = call.op;
        if call.action == action::CHANGE_DESCRIPTOR {
            let place = Place::of_file(arguments.file(call.directory));
            judge::describe_inode(scratch, place.inode());
            judge::judge_place(scratch, subject, 0, place, 0, access::WRITE);
            return;
        }
        if call.flags != NO_ARGUMENT && arguments.get(call.flags) & AT_REMOVEDIR != 0 {
            scratch.record.op = change::RMDIR;
        }
        argument::judge_write(scratch, subject, 0, arguments, call.directory, call.path);
        match call.action {
            action::SYMLINK => link_text(scratch, arguments.get(call.second_path)),
            action::MOUNT => {
                let escape = class::of_set(set::ESCAPE);
                policy::judge_classes(&mut scratch.record, subject, escape, access::WRITE);
            }
            _ if call.second_path != NO_ARGUMENT => argument::judge_write(
                scratch,
                subject,
                SECOND,
                arguments,
                call.second_directory,
                call.second_path,
            ),
            _ => {}
        }
    });
}

#[inline(always)]
fn link_text(scratch: &mut Scratch, text: u64) {
    // SAFETY: string 1 has 4,104 bytes.
    let length = unsafe {
        bpf_probe_read_user_str(
            scratch.strings.as_mut_ptr().add(STRING_AT[SECOND] as usize).cast::<c_void>(),
            PATH_MAX as u32,
            text as *const c_void,
        )
    };
    if length > 0 {
        scratch.record.lengths[SECOND] = (length as u16 - 1) & 0xfff;
    }
}

/// Sockets whose calls the cgroup programs do not see or cannot refuse: AF_UNIX by the peer that
/// the socket now has, listening by the socket's own address.
#[inline(always)]
fn socket(subject: &Subject, call: &Call, arguments: Arguments) {
    let file = arguments.file(call.directory);
    let socket: Address = field!(file, file_private);
    let sock: Address = field!(socket, socket_sk);
    let family = network::family_of(sock);
    let internet = family == AF_INET || family == AF_INET6;
    let kind = match call.action {
        action::CONNECT | action::SEND | action::SEND_MESSAGE if family == AF_UNIX => kind::UNIX,
        action::BIND if internet => kind::BIND,
        action::LISTEN if internet || family == AF_UNIX => kind::LISTEN,
        _ => return,
    };
    let named = match call.action {
        action::SEND => {
            Named { address: arguments.get(call.path), length: arguments.get(call.path + 1) as u32 }
        }
        action::SEND_MESSAGE => {
            // `msg_name` and `msg_namelen` begin `struct msghdr`, which begins `struct mmsghdr`.
            let header = arguments.get(call.path);
            let length = argument::user_word(header.wrapping_add(8)) as u32;
            Named { address: argument::user_word(header), length }
        }
        _ => Named { address: 0, length: 0 },
    };
    if named.address == 0 && kind == kind::UNIX && call.action != action::CONNECT {
        return;
    }
    judge::run(subject, kind, Means::KillOnly, |scratch, subject| {
        scratch.record.flags |= flags::AFTER | compat_flag(arguments);
        match kind {
            kind::UNIX if named.address != 0 => {
                unix_socket::judge_named(scratch, subject, arguments, named)
            }
            kind::UNIX => {
                let peer: Address = field!(sock, unix_peer);
                if peer != 0 {
                    unix_socket::judge_sock(scratch, subject, peer, unix_socket::TO_SOCKET);
                }
            }
            kind::LISTEN if family == AF_UNIX => {
                unix_socket::judge_sock(scratch, subject, sock, access::LISTEN);
            }
            _ => {
                let peer = network::with_protocol(network::local_of(sock), sock);
                let asked = if kind == kind::LISTEN { access::LISTEN } else { 0 };
                network::judge_peer(scratch, subject, peer, asked);
            }
        }
    });
}

/// Reaches into other processes, and calls that open ways around.
#[inline(always)]
fn other(subject: &Subject, call: &Call, arguments: Arguments) {
    let kind = match call.action {
        action::PTRACE if !matches!(arguments.get(0), PTRACE_ATTACH | PTRACE_SEIZE) => return,
        action::UNSHARE if arguments.get(0) & CLONE_NEWUSER == 0 => return,
        action::PTRACE | action::PROCESS | action::PIDFD => kind::PROCESS,
        action::IO_URING => kind::IO_URING,
        action::BPF => kind::BPF,
        _ => kind::NAMESPACE,
    };
    judge::run(subject, kind, Means::KillOnly, |scratch, subject| {
        scratch.record.flags |= flags::AFTER | compat_flag(arguments);
        scratch.record.op = call.op;
        match kind {
            kind::PROCESS => reach(scratch, subject, call, arguments),
            kind::IO_URING => {}
            _ => judge::judge_set(scratch, subject, set::ESCAPE),
        }
    });
}

#[inline(always)]
fn reach(scratch: &mut Scratch, subject: &Subject, call: &Call, arguments: Arguments) {
    if call.action == action::PIDFD {
        let pid = judge::pid_of_file(arguments.file(call.directory));
        judge::describe_target(scratch, judge::task_of_pid(pid));
    } else {
        scratch.record.flags |= flags::ARGUMENT;
        let number = arguments.get(call.path) as u32;
        scratch.record.target.tgid = number;
        scratch.record.target.instance = instance::tag_of(number).map_or(0, |tag| tag.instance);
    }
    if scratch.record.target.instance != subject.tag.instance {
        judge::judge_set(scratch, subject, set::PROCESSES);
    }
}
