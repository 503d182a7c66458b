//! What can go wrong between us and the kernel.

use std::{io, path::Path};

use aya::{maps::MapError, programs::ProgramError};

use super::Backend;

/// Bytes of a verifier log that a person gets to see: its end says what was wrong.
const LOG_BYTES: usize = 600;

/// A failure to load, attach or fill.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No privileges.
    #[error(
        "loading kernel programs needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN): run with sudo"
    )]
    Privileges,
    /// No BTF.
    #[error("/sys/kernel/btf/vmlinux: {0}: this kernel was built without CONFIG_DEBUG_INFO_BTF")]
    Btf(#[source] io::Error),
    /// BTF of an unknown form.
    #[error(
        "/sys/kernel/btf/vmlinux: not in a form this version understands: report the kernel release"
    )]
    BtfMalformed,
    /// The kernel does not let BPF programs act as a security module.
    #[error(
        "bpf is not in /sys/kernel/security/lsm ({list}): boot with lsm=...,bpf or use --backend \
         tracepoint"
    )]
    NoBpfLsm {
        /// The modules that are.
        list: String,
    },
    /// aya cannot use the BTF.
    #[error("/sys/kernel/btf/vmlinux: {0}")]
    Types(String),
    /// A struct field that the programs need is not in this kernel.
    #[error("this kernel has no {0}: supported are 6.1 to 6.18")]
    MissingField(String),
    /// The embedded object does not load.
    #[error("cannot load the kernel programs: {0}")]
    Load(#[from] Box<aya::EbpfError>),
    /// The embedded object lacks a program.
    #[error(
        "the kernel programs lack {0}: this binary was built wrong, build it with `cargo xtask build`"
    )]
    MissingProgram(&'static str),
    /// The embedded object lacks a map.
    #[error(
        "the kernel programs lack the map {0}: this binary was built wrong, build it with `cargo xtask build`"
    )]
    MissingMap(&'static str),
    /// A program was refused.
    #[error("kernel program {name}: {reason}")]
    Program {
        /// The program.
        name: &'static str,
        /// The kernel's reason, shortened.
        reason: String,
    },
    /// A map operation failed.
    #[error("policy map: {0}")]
    Map(#[source] MapError),
    /// A map is full.
    #[error("no room for more {0} in the kernel's tables: stop instances or use fewer patterns")]
    Full(&'static str),
    /// A map cannot be mapped.
    #[error("cannot map a policy map into memory: {0}")]
    Mmap(#[source] io::Error),
    /// The grace period could not be waited for.
    #[error("membarrier: {0}: the old policy stays in the kernel's tables")]
    Grace(#[source] io::Error),
    /// cgroup v2 cannot be read.
    #[error("cgroup v2: {0}")]
    Cgroup(#[source] io::Error),
    /// cgroup v2 is not mounted.
    #[error("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")]
    NoCgroup2,
    /// A path cannot be labelled.
    #[error("{path}: cannot label: {source}")]
    Label {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The tag table is full.
    #[error("process {0} cannot be tagged: the tag table is full")]
    Tag(u32),
    /// An instance that was never bound.
    #[error("instance {0} has no policy")]
    Unbound(u32),
    /// A path that the kernel could not classify.
    #[error("the kernel cannot classify a path of {0} bytes under this policy")]
    Classify(usize),
    /// Something could not be pinned.
    #[error("{path}: cannot keep kernel programs there: {source}")]
    Pin {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Programs of another version are at work.
    #[error(
        "{0}: kernel programs of another version are at work there, which this one cannot take over: \
         end them and their servers with `mcp-monitor agent --detach-all`"
    )]
    OtherLayout(String),
    /// The proof could not be carried out.
    #[error("cannot prove that the kernel programs work: {0}")]
    Proof(#[source] io::Error),
    /// The proof failed.
    #[error("the {0} programs are attached but do not act: {hint}", hint = hint(*.0))]
    NotProven(Backend),
}

fn hint(backend: Backend) -> &'static str {
    match backend {
        Backend::Lsm => {
            "bpf is not in the kernel's lsm list: boot with lsm=...,bpf or use --backend tracepoint"
        }
        Backend::Tracepoint => "report the kernel release",
    }
}

impl KernelError {
    /// Something could not be pinned at `path`.
    pub(super) fn pin(path: &Path, source: io::Error) -> Self {
        Self::Pin { path: path.display().to_string(), source }
    }

    /// A refused program.
    #[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
    pub(super) fn program(name: &'static str, error: ProgramError) -> Self {
        let reason = match &error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                let start = log.ceil_char_boundary(log.len().saturating_sub(LOG_BYTES));
                format!("{io_error}: {}", log[start..].trim())
            }
            ProgramError::SyscallError(error) => error.to_string(),
            other => other.to_string(),
        };
        Self::Program { name, reason: reason.trim_end_matches([':', ' ']).to_owned() }
    }
}
