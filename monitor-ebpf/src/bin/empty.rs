//! The hooks of `mcp-monitor` with nothing in them: what the kernel charges for being attached at
//! all, against which `cargo xtask bench` measures. No part of the agent.
#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_sock, cgroup_sock_addr, lsm},
    programs::{BtfTracePointContext, LsmContext, SockAddrContext, SockContext},
};

/// LSM programs that let everything pass, named after their hooks.
macro_rules! lsm_hooks {
    ($($hook:ident)*) => {
        $(
            #[lsm]
            pub fn $hook(_: LsmContext) -> i32 {
                0
            }
        )*
    };
}

/// tp_btf programs, named after their tracepoints.
macro_rules! tracepoints {
    ($($tracepoint:ident)*) => {
        $(
            #[btf_tracepoint]
            pub fn $tracepoint(_: BtfTracePointContext) -> i32 {
                0
            }
        )*
    };
}

/// cgroup programs that let every address pass.
macro_rules! addresses {
    ($($hook:ident)*) => {
        $(
            #[cgroup_sock_addr($hook)]
            pub fn $hook(_: SockAddrContext) -> i32 {
                1
            }
        )*
    };
}

lsm_hooks! {
    task_alloc file_open file_receive file_truncate path_unlink path_rmdir path_mkdir path_mknod
    path_symlink path_link path_rename path_truncate path_chmod path_chown inode_setattr
    inode_setxattr inode_removexattr inode_set_acl inode_init_security_anon sb_mount move_mount
    userns_create bpf bprm_check_security mmap_file socket_create socket_connect socket_sendmsg
    socket_bind socket_listen unix_stream_connect unix_may_send ptrace_access_check task_kill
}

tracepoints! { sched_process_fork sched_process_exit sched_process_exec sys_exit io_uring_complete }

addresses! { connect4 connect6 sendmsg4 sendmsg6 }

/// Sockets of every kind may be made.
#[cgroup_sock(sock_create)]
pub fn sock_create(_: SockContext) -> i32 {
    1
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing panics; the linker wants the symbol.
    loop {}
}

/// As the agent's own.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
