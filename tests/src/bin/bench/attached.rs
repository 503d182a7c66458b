//! The empty programs at the same hooks as the agent's: the kernel's own price of a hook.

use std::fs;

use anyhow::{Context, Result};
use aya::programs::{CgroupAttachMode, Program};
use aya::{Btf, Ebpf};
use end_to_end::Backend;
use mcp_monitor::kernel;

use crate::beside;

/// Empty programs, attached until dropped.
pub struct Empty {
    _programs: Ebpf,
}

impl Empty {
    /// Attaches those of a backend.
    pub fn attach(backend: Backend) -> Result<Self> {
        let object = fs::read(beside("empty.bpf.o")?)?;
        let mut programs = Ebpf::load(&object)?;
        let types = Btf::from_sys_fs()?;
        let root = fs::File::open(kernel::cgroup_root()?.context("there is no cgroup v2")?)?;
        for (name, program) in programs.programs_mut() {
            let failed = || format!("the empty program {name}");
            match program {
                Program::Lsm(program) if backend == Backend::Lsm => {
                    // The kernel may not have the hook.
                    let Ok(()) = program.load(name, &types) else { continue };
                    program.attach().with_context(failed)?;
                }
                Program::BtfTracePoint(program)
                    if backend == Backend::Tracepoint || name.starts_with("sched_") =>
                {
                    program.load(name, &types).with_context(failed)?;
                    program.attach().with_context(failed)?;
                }
                Program::CgroupSockAddr(program) if backend == Backend::Tracepoint => {
                    program.load().with_context(failed)?;
                    program.attach(&root, CgroupAttachMode::Single).with_context(failed)?;
                }
                Program::CgroupSock(program) if backend == Backend::Tracepoint => {
                    program.load().with_context(failed)?;
                    program.attach(&root, CgroupAttachMode::Single).with_context(failed)?;
                }
                _ => {}
            }
        }
        Ok(Self { _programs: programs })
    }
}
