//! Proof that a backend works, because programs can load, attach and never fire: a child is
//! tagged, put under a policy that refuses everything, and opens a file of our own.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{fd::FromRawFd, unix::ffi::OsStrExt},
};

use monitor_common::policy::{Policy, access, mode, verdict};

use super::{Backend, Kernel, KernelError, policies::Parts};

/// Instance number of the proof; instances of servers never get it.
const INSTANCE: u32 = u32::MAX;
const OPENED: i32 = 0;
const REFUSED: i32 = 1;

/// Runs the proof.
///
/// # Errors
/// When the child got its file.
pub fn run(kernel: &mut Kernel) -> Result<(), KernelError> {
    let path = std::env::temp_dir().join(format!(".mcp-monitor-proof-{}", std::process::id()));
    File::create(&path).map_err(KernelError::Proof)?;
    let result = attempt(kernel, &CString::new(path.as_os_str().as_bytes()).unwrap_or_default());
    std::fs::remove_file(&path).map_err(KernelError::Proof)?;
    let status = result?;
    let proven = match kernel.backend() {
        Backend::Lsm => libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == REFUSED,
        Backend::Tracepoint => libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
    };
    if proven { Ok(()) } else { Err(KernelError::NotProven(kernel.backend())) }
}

fn attempt(kernel: &mut Kernel, path: &CString) -> Result<i32, KernelError> {
    let policy = &REFUSE_EVERYTHING;
    let parts = Parts { policy, tables: &[], arguments: None, addresses: &[] };
    let slot = kernel.policies.install(u32::MAX, &parts)?;
    kernel.bind(INSTANCE, slot)?;
    let child = Child::fork(path).map_err(KernelError::Proof)?;
    let tagged = kernel.tag(child.pid as u32, INSTANCE);
    let status = child.release_and_wait().map_err(KernelError::Proof);
    tagged?;
    kernel.release(INSTANCE)?;
    // The only process that was under it is gone: no grace period.
    kernel.policies.remove(slot)?;
    status
}

const REFUSE_EVERYTHING: Policy =
    Policy { mode: mode::ENFORCE, unlisted: [verdict::DENY; access::COUNT], ..Policy::EMPTY };

struct Child {
    pid: i32,
    go: File,
}

impl Child {
    /// Forks a child that waits for a byte, opens the file and exits with what came of it.
    fn fork(path: &CString) -> io::Result<Self> {
        let mut pipe = [0; 2];
        // SAFETY: `pipe` has room for two descriptors.
        if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the child makes only async-signal-safe calls.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mut byte = 0u8;
            // SAFETY: as above; the buffers live on this stack.
            unsafe {
                libc::read(pipe[0], (&raw mut byte).cast(), 1);
                let opened = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
                libc::_exit(if opened >= 0 { OPENED } else { REFUSED });
            }
        }
        // SAFETY: descriptors that nothing else owns.
        let (read_end, go) = unsafe { (File::from_raw_fd(pipe[0]), File::from_raw_fd(pipe[1])) };
        drop(read_end);
        if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { pid, go }) }
    }

    fn release_and_wait(mut self) -> io::Result<i32> {
        io::Write::write_all(&mut self.go, b"x")?;
        let mut status = 0;
        // SAFETY: our own child.
        match unsafe { libc::waitpid(self.pid, &raw mut status, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(status),
        }
    }
}
