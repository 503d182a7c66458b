//! Which kernel program goes where, on which backend, and on which kernels: one line a hook.

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, CgroupAttachMode, CgroupSock, CgroupSockAddr, Lsm, ProgramError},
};

use super::{Backend, KernelError, btf, cgroup};

/// How a program is attached.
#[derive(Clone, Copy)]
enum Attach {
    /// BPF LSM hook, 5.7.
    Lsm(&'static str),
    /// tp_btf on a tracepoint, 5.5.
    BtfTracepoint(&'static str),
    /// cgroup sock_addr on the root of cgroup v2, 4.17.
    SockAddr,
    /// cgroup sock on the root of cgroup v2, 4.10.
    Sock,
}

/// One program and its place.
struct Hook {
    program: &'static str,
    attach: Attach,
    backend: Option<Backend>,
    /// Which kernels have the hook in this form; `None` for all from 6.1 on.
    only_if: Option<fn(&btf::Btf) -> bool>,
}

const fn both(program: &'static str, attach: Attach) -> Hook {
    Hook { program, attach, backend: None, only_if: None }
}

const fn lsm(hook: &'static str) -> Hook {
    lsm_as(hook, hook)
}

const fn lsm_as(program: &'static str, hook: &'static str) -> Hook {
    Hook { program, attach: Attach::Lsm(hook), backend: Some(Backend::Lsm), only_if: None }
}

const fn on(backend: Backend, program: &'static str, attach: Attach) -> Hook {
    Hook { program, attach, backend: Some(backend), only_if: None }
}

const HOOKS: &[Hook] = &[
    both("sched_process_fork", Attach::BtfTracepoint("sched_process_fork")),
    both("sched_process_exit", Attach::BtfTracepoint("sched_process_exit")),
    on(Backend::Lsm, "sched_process_exec", Attach::BtfTracepoint("sched_process_exec")),
    lsm("task_alloc"),
    lsm("file_open"),
    lsm("file_receive"),
    Hook { only_if: Some(|btf| btf.has_function("bpf_lsm_file_truncate")), ..lsm("file_truncate") },
    lsm("path_unlink"),
    lsm("path_rmdir"),
    lsm("path_mkdir"),
    lsm("path_mknod"),
    lsm("path_symlink"),
    lsm("path_link"),
    lsm("path_rename"),
    lsm("path_truncate"),
    lsm("path_chmod"),
    lsm("path_chown"),
    Hook { only_if: Some(|btf| dentry_at(btf) == Some(1)), ..lsm("inode_setattr") },
    Hook {
        only_if: Some(|btf| dentry_at(btf) == Some(0)),
        ..lsm_as("inode_setattr_without_idmap", "inode_setattr")
    },
    lsm("inode_setxattr"),
    lsm("inode_removexattr"),
    Hook { only_if: Some(|btf| btf.has_function("bpf_lsm_inode_set_acl")), ..lsm("inode_set_acl") },
    lsm("inode_init_security_anon"),
    lsm("sb_mount"),
    lsm("move_mount"),
    lsm("userns_create"),
    lsm("bpf"),
    lsm("bprm_check_security"),
    lsm("mmap_file"),
    lsm("socket_create"),
    lsm("socket_connect"),
    lsm("socket_sendmsg"),
    lsm("socket_bind"),
    lsm("socket_listen"),
    lsm("unix_stream_connect"),
    lsm("unix_may_send"),
    lsm("ptrace_access_check"),
    lsm("task_kill"),
    on(
        Backend::Tracepoint,
        "sched_process_exec_judge",
        Attach::BtfTracepoint("sched_process_exec"),
    ),
    on(Backend::Tracepoint, "sys_exit", Attach::BtfTracepoint("sys_exit")),
    on(Backend::Tracepoint, "signal_generate", Attach::BtfTracepoint("signal_generate")),
    Hook {
        only_if: Some(|btf| btf.tracepoint_arguments("io_uring_complete") == Some(3)),
        ..on(Backend::Tracepoint, "io_uring_complete", Attach::BtfTracepoint("io_uring_complete"))
    },
    Hook {
        only_if: Some(|btf| btf.tracepoint_arguments("io_uring_complete") == Some(7)),
        ..on(
            Backend::Tracepoint,
            "io_uring_complete_with_result",
            Attach::BtfTracepoint("io_uring_complete"),
        )
    },
    on(Backend::Tracepoint, "connect4", Attach::SockAddr),
    on(Backend::Tracepoint, "connect6", Attach::SockAddr),
    on(Backend::Tracepoint, "sendmsg4", Attach::SockAddr),
    on(Backend::Tracepoint, "sendmsg6", Attach::SockAddr),
    on(Backend::Tracepoint, "sock_create", Attach::Sock),
];

/// `inode_setattr` gained an argument in 6.9.
fn dentry_at(btf: &btf::Btf) -> Option<u32> {
    btf.parameter("bpf_lsm_inode_setattr", "dentry")
}

/// Loads and attaches the programs of a backend; names of the hooks, in order.
///
/// # Errors
/// Names the program and the kernel's own reason. What was attached so far is detached when `ebpf`
/// is dropped.
pub fn attach(
    ebpf: &mut Ebpf,
    backend: Backend,
    layouts: &btf::Btf,
) -> Result<Vec<String>, KernelError> {
    let types = super::types()?;
    let mut attached = Vec::new();
    for hook in HOOKS {
        if hook.backend.is_some_and(|wanted| wanted != backend) {
            continue;
        }
        if hook.only_if.is_some_and(|holds| !holds(layouts)) {
            continue;
        }
        attach_one(ebpf, hook, &types)?;
        attached.push(match hook.attach {
            Attach::Lsm(name) => format!("lsm/{name}"),
            Attach::BtfTracepoint(name) => format!("tp_btf/{name}"),
            Attach::SockAddr | Attach::Sock => format!("cgroup/{}", hook.program),
        });
    }
    Ok(attached)
}

fn attach_one(ebpf: &mut Ebpf, hook: &Hook, types: &Btf) -> Result<(), KernelError> {
    let failed = |error| KernelError::program(hook.program, error);
    let program =
        ebpf.program_mut(hook.program).ok_or(KernelError::MissingProgram(hook.program))?;
    match hook.attach {
        Attach::Lsm(name) => {
            let program: &mut Lsm = program.try_into().map_err(failed)?;
            program.load(name, types).map_err(failed)?;
            program.attach().map_err(failed)?;
        }
        Attach::BtfTracepoint(name) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
            program.load(name, types).map_err(failed)?;
            program.attach().map_err(failed)?;
        }
        Attach::SockAddr => {
            let program: &mut CgroupSockAddr = program.try_into().map_err(failed)?;
            program.load().map_err(failed)?;
            // With links this mode means no flags, and a link never excludes others.
            program.attach(cgroup::root()?, CgroupAttachMode::Single).map_err(failed)?;
        }
        Attach::Sock => {
            let program: &mut CgroupSock = program.try_into().map_err(failed)?;
            program.load().map_err(failed)?;
            program.attach(cgroup::root()?, CgroupAttachMode::Single).map_err(failed)?;
        }
    }
    Ok(())
}

/// Loads the programs that userspace runs itself.
pub fn load_controls(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for name in ["control_label", "control_tag", "control_untag", "control_classify"] {
        control(ebpf, name)?.load().map_err(|error| KernelError::program(name, error))?;
    }
    Ok(())
}

/// A program that userspace runs itself.
pub fn control<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut aya::programs::RawTracePoint, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::MissingProgram(name))?;
    program.try_into().map_err(|error: ProgramError| KernelError::program(name, error))
}
