//! Cuts an instance off from IP networks, and connects it again.
//!
//! A cgroup program (cgroup skb, 4.10; its link 5.7) drops every packet from and to a socket that
//! was made in the instance's cgroup, those that exist included. It asks for no tag, and so takes no
//! part in anything else. Its links are pinned: the instance stays cut off without us.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::Path,
};

use aya::programs::{CgroupSkb, ProgramError};

use super::{Kernel, KernelError, pins};

const PROGRAM: &str = "isolate";

/// Names of the two ways with their `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const WAYS: [(&str, u32); 2] = [("ingress", 0), ("egress", 1)];

impl Kernel {
    /// Drops all packets of an instance that lives in `cgroup`; those that are dropped already stay
    /// so. Needs pins.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn isolate(&mut self, instance: u32, cgroup: &Path) -> Result<(), KernelError> {
        let Some(pins) = self.pins.clone() else { return Ok(()) };
        let program = self.ebpf.program_mut(PROGRAM).ok_or(KernelError::MissingProgram(PROGRAM))?;
        let failed = |error: ProgramError| KernelError::program(PROGRAM, error);
        let program: &mut CgroupSkb = program.try_into().map_err(failed)?;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => return Err(failed(error)),
        }
        let program = program.fd().map_err(failed)?;
        let place = File::open(cgroup).map_err(KernelError::Cgroup)?;
        let directory = pins.isolated().map_err(KernelError::Cgroup)?;
        for (way, attach_type) in WAYS {
            let path = directory.join(format!("{instance}-{way}"));
            if path.exists() {
                continue;
            }
            pins::link_cgroup(program.as_fd(), place.as_fd(), attach_type)
                .and_then(|link| pins::pin(link.as_fd(), &path))
                .map_err(|error| KernelError::pin(&path, error))?;
        }
        Ok(())
    }

    /// Lets packets pass again. What was sent meanwhile is sent again by protocols that do so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn end_isolation(&mut self, instance: u32) -> Result<(), KernelError> {
        let Some(pins) = &self.pins else { return Ok(()) };
        let directory = pins.isolated().map_err(KernelError::Cgroup)?;
        for (way, _) in WAYS {
            let path = directory.join(format!("{instance}-{way}"));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(KernelError::pin(&path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
