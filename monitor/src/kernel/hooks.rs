//! Which kernel program goes where, on which backend, and on which kernels: one line a hook.

use std::{
    cmp::Reverse,
    fs, io,
    os::fd::AsFd as _,
    panic,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf,
    maps::ProgramArray,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSock, CgroupSockAddr, Lsm, Program, ProgramError,
        links::FdLink,
    },
};
use monitor_common::syscall;

use super::{Backend, KernelError, btf, cgroup, pins};

/// The kernel's active security modules, where securityfs is mounted.
const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// How a program is attached.
#[derive(Clone, Copy)]
enum Attach {
    /// BPF LSM hook, 5.7.
    Lsm(&'static str),
    /// tp_btf on a tracepoint, 5.5.
    BtfTracepoint(&'static str),
    /// What `sys_exit` goes on in, at this position of `HANDLERS`, 4.2.
    Handler(u32),
    /// cgroup sock_addr on the root of cgroup v2, 4.17; what restores addresses 5.8.
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
    only_if: Option<fn(&btf::Btf<'_>) -> bool>,
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
    both("sched_process_exec_match", Attach::BtfTracepoint("sched_process_exec")),
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
    on(Backend::Tracepoint, "sys_exit_open", Attach::Handler(syscall::HANDLE_OPEN)),
    on(Backend::Tracepoint, "sys_exit_change", Attach::Handler(syscall::HANDLE_CHANGE)),
    on(Backend::Tracepoint, "sys_exit_socket", Attach::Handler(syscall::HANDLE_SOCKET)),
    on(Backend::Tracepoint, "sys_exit_other", Attach::Handler(syscall::HANDLE_OTHER)),
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

/// Hook and program of what sends the DNS of instances whose rules name hosts to the agent, on
/// either backend, behind the programs that judge.
const DNS: [(&str, &str); 8] = [
    ("connect4", "dns_connect4"),
    ("connect6", "dns_connect6"),
    ("sendmsg4", "dns_sendmsg4"),
    ("sendmsg6", "dns_sendmsg6"),
    ("recvmsg4", "dns_recvmsg4"),
    ("recvmsg6", "dns_recvmsg6"),
    ("getpeername4", "dns_getpeername4"),
    ("getpeername6", "dns_getpeername6"),
];

/// `inode_setattr` gained an argument in 6.9.
fn dentry_at(btf: &btf::Btf<'_>) -> Option<u32> {
    btf.parameter("bpf_lsm_inode_setattr", "dentry")
}

/// The hooks of a backend on this kernel.
fn of(backend: Backend, layouts: &btf::Btf<'_>) -> Vec<&'static Hook> {
    let on_backend = |hook: &&Hook| hook.backend.is_none_or(|wanted| wanted == backend);
    let in_kernel = |hook: &&Hook| hook.only_if.is_none_or(|holds| holds(layouts));
    HOOKS.iter().filter(on_backend).filter(in_kernel).collect()
}

/// Names of the hooks of a backend on this kernel, for headers.
pub fn names(backend: Backend, layouts: &btf::Btf<'_>) -> Vec<String> {
    let name = |hook: &Hook| match hook.attach {
        Attach::Lsm(name) => Some(format!("lsm/{name}")),
        Attach::BtfTracepoint(name) => Some(format!("tp_btf/{name}")),
        Attach::SockAddr | Attach::Sock => Some(format!("cgroup/{}", hook.program)),
        Attach::Handler(_) => None,
    };
    of(backend, layouts).into_iter().filter_map(name).collect()
}

/// Loads and attaches the programs of a backend; their links are pinned in `pinned`, where that is
/// given.
///
/// # Errors
/// Names the program and the kernel's own reason. What was attached so far is detached when `ebpf`
/// is dropped, unless it was pinned.
pub fn attach(
    ebpf: &mut Ebpf,
    backend: Backend,
    layouts: &btf::Btf<'_>,
    types: &Btf,
    pinned: Option<&Path>,
) -> Result<(), KernelError> {
    let hooks = of(backend, layouts);
    load(ebpf, &hooks, types)?;
    hooks.into_iter().try_for_each(|hook| attach_one(ebpf, hook, pinned))
}

/// Loads and attaches the programs that send DNS to the agent; names of their hooks.
///
/// # Errors
/// As [`attach`].
pub fn attach_dns(ebpf: &mut Ebpf, pinned: Option<&Path>) -> Result<Vec<String>, KernelError> {
    let attach = |(name, program): &(&'static str, &'static str)| {
        if pinned.is_some_and(|directory| directory.join(program).exists()) {
            return Ok(format!("cgroup/{name}"));
        }
        let failed = |error| KernelError::program(program, error);
        let found = ebpf.program_mut(program).ok_or(KernelError::MissingProgram(program))?;
        <&mut CgroupSockAddr>::try_from(found).and_then(CgroupSockAddr::load).map_err(failed)?;
        attach_one(ebpf, &both(program, Attach::SockAddr), pinned)?;
        Ok(format!("cgroup/{name}"))
    };
    DNS.iter().map(attach).collect()
}

/// Detaches and unloads all programs.
pub fn unload(ebpf: &mut Ebpf) {
    for (_, program) in ebpf.programs_mut() {
        // Fails only for those that are not loaded.
        let _ = match program {
            Program::BtfTracePoint(program) => program.unload(),
            Program::CgroupSock(program) => program.unload(),
            Program::CgroupSockAddr(program) => program.unload(),
            Program::Lsm(program) => program.unload(),
            Program::RawTracePoint(program) => program.unload(),
            _ => Ok(()),
        };
    }
}

/// Refuses where the kernel says that BPF is not among its security modules. Where securityfs is
/// not mounted it does not say, and the proof finds out.
///
/// # Errors
/// Names the file.
pub fn check_lsm_list() -> Result<(), KernelError> {
    match fs::read_to_string(LSM_LIST) {
        Ok(list) if !lists_bpf(&list) => {
            Err(KernelError::NoBpfLsm { list: list.trim().to_owned() })
        }
        _ => Ok(()),
    }
}

fn lists_bpf(list: &str) -> bool {
    list.trim().split(',').any(|name| name == "bpf")
}

/// Loads programs, two at a time: what takes so long is the kernel's verifier.
fn load(ebpf: &mut Ebpf, hooks: &[&Hook], types: &Btf) -> Result<(), KernelError> {
    let wanted = |name: &str| hooks.iter().position(|hook| hook.program == name);
    let programs = ebpf.programs_mut().filter_map(|(name, program)| Some((wanted(name)?, program)));
    let mut programs: Vec<_> = programs.collect();
    programs.sort_unstable_by_key(|(position, _)| Reverse(*position));
    let waiting = Mutex::new(programs);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        while let Some((position, program)) = next() {
            let hook = hooks[position];
            let loaded = load_one(hook, program, types);
            loaded.map_err(|error| KernelError::program(hook.program, error))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(work);
        let own = work();
        own.and(other.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}

fn load_one(hook: &Hook, program: &mut Program, types: &Btf) -> Result<(), ProgramError> {
    match hook.attach {
        Attach::Lsm(name) => <&mut Lsm>::try_from(program)?.load(name, types),
        Attach::BtfTracepoint(name) => <&mut BtfTracePoint>::try_from(program)?.load(name, types),
        Attach::Handler(_) => <&mut BtfTracePoint>::try_from(program)?.load("sys_exit", types),
        Attach::SockAddr => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Attach::Sock => <&mut CgroupSock>::try_from(program)?.load(),
    }
}

fn attach_one(ebpf: &mut Ebpf, hook: &Hook, pinned: Option<&Path>) -> Result<(), KernelError> {
    let failed = |error| KernelError::program(hook.program, error);
    let program =
        ebpf.program_mut(hook.program).ok_or(KernelError::MissingProgram(hook.program))?;
    match hook.attach {
        Attach::Lsm(_) => {
            let program: &mut Lsm = program.try_into().map_err(failed)?;
            let link = program.attach().map_err(failed)?;
            if let Some(directory) = pinned {
                let link: FdLink = program.take_link(link).map_err(failed)?.into();
                pin(link, hook, directory)?;
            }
        }
        Attach::BtfTracepoint(_) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(failed)?;
            let link = program.attach().map_err(failed)?;
            if let Some(directory) = pinned {
                let link: FdLink = program.take_link(link).map_err(failed)?.into();
                pin(link, hook, directory)?;
            }
        }
        Attach::Handler(position) => {
            let program =
                program.fd().map_err(failed)?.try_clone().map_err(|error| failed(error.into()))?;
            let map = ebpf.map_mut("HANDLERS").ok_or(KernelError::MissingMap("HANDLERS"))?;
            let mut handlers: ProgramArray<_> = map.try_into().map_err(KernelError::Map)?;
            handlers.set(position, &program, 0).map_err(KernelError::Map)?;
        }
        Attach::SockAddr | Attach::Sock => attach_cgroup(program, hook, pinned)?,
    }
    let (Some(directory), Some(program)) = (pinned, ebpf.program_mut(hook.program)) else {
        return Ok(());
    };
    let path = directory.join(format!("{}{}", hook.program, pins::PROGRAM));
    program.pin(&path).map_err(|error| KernelError::pin(&path, io::Error::other(error)))
}

fn pin(link: FdLink, hook: &Hook, directory: &Path) -> Result<(), KernelError> {
    let path = directory.join(hook.program);
    let error = |error: aya::pin::PinError| KernelError::pin(&path, io::Error::other(error));
    link.pin(&path).map(drop).map_err(error)
}

fn attach_cgroup(
    program: &mut Program,
    hook: &Hook,
    pinned: Option<&Path>,
) -> Result<(), KernelError> {
    let failed = |error| KernelError::program(hook.program, error);
    let root = cgroup::open_root()?;
    // With links this mode means no flags, and a link never excludes others.
    let mode = CgroupAttachMode::Single;
    let fd = program.fd().map_err(failed)?.try_clone().map_err(|error| failed(error.into()))?;
    match (pinned, program) {
        (Some(directory), _) => {
            let path = directory.join(hook.program);
            let attach_type = attach_type(hook.program);
            pins::link_cgroup(fd.as_fd(), root.as_fd(), attach_type)
                .and_then(|link| pins::pin(link.as_fd(), &path))
                .map_err(|error| KernelError::pin(&path, error))
        }
        (None, Program::CgroupSockAddr(program)) => {
            program.attach(root, mode).map(drop).map_err(failed)
        }
        (None, Program::CgroupSock(program)) => {
            program.attach(root, mode).map(drop).map_err(failed)
        }
        (None, _) => Err(KernelError::MissingProgram(hook.program)),
    }
}

// `enum bpf_attach_type`.
const BPF_CGROUP_INET_SOCK_CREATE: u32 = 2;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;
const BPF_CGROUP_INET6_CONNECT: u32 = 11;
const BPF_CGROUP_UDP4_SENDMSG: u32 = 14;
const BPF_CGROUP_UDP6_SENDMSG: u32 = 15;

const BPF_CGROUP_UDP4_RECVMSG: u32 = 19;
const BPF_CGROUP_UDP6_RECVMSG: u32 = 20;
const BPF_CGROUP_INET4_GETPEERNAME: u32 = 29;
const BPF_CGROUP_INET6_GETPEERNAME: u32 = 30;

/// `enum bpf_attach_type` of include/uapi/linux/bpf.h by the names that our programs have there.
fn attach_type(program: &str) -> u32 {
    match program.trim_start_matches("dns_") {
        "connect4" => BPF_CGROUP_INET4_CONNECT,
        "connect6" => BPF_CGROUP_INET6_CONNECT,
        "sendmsg4" => BPF_CGROUP_UDP4_SENDMSG,
        "sendmsg6" => BPF_CGROUP_UDP6_SENDMSG,
        "recvmsg4" => BPF_CGROUP_UDP4_RECVMSG,
        "recvmsg6" => BPF_CGROUP_UDP6_RECVMSG,
        "getpeername4" => BPF_CGROUP_INET4_GETPEERNAME,
        "getpeername6" => BPF_CGROUP_INET6_GETPEERNAME,
        _ => BPF_CGROUP_INET_SOCK_CREATE,
    }
}

/// Programs that userspace runs itself.
const CONTROLS: [&str; 6] = [
    "control_label",
    "control_tag",
    "control_untag",
    "control_start",
    "control_classify",
    "control_vector",
];

/// Loads the programs that userspace runs itself.
pub fn load_controls(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for name in CONTROLS {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_is_found_among_the_security_modules() {
        assert!(lists_bpf("lockdown,capability,landlock,yama,apparmor,bpf\n"));
        assert!(lists_bpf("bpf"));
        assert!(!lists_bpf("lockdown,capability,landlock,yama,apparmor\n"));
        assert!(!lists_bpf("capability,bpfish\n"));
        assert!(!lists_bpf(""));
    }
}
