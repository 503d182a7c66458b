//! Letting go of the kernel programs at the end of `run`.

use std::{io, os::fd::AsRawFd as _};

use super::Kernel;

impl Kernel {
    /// Lets go of programs and maps, and leaves the waiting to a process made for it.
    ///
    /// When the last descriptor of an LSM hook's link is closed, the kernel waits until no task can be
    /// in its trampoline any more (`synchronize_rcu_tasks`, about a tenth of a second), one hook after
    /// the other. Whoever started us would wait for seconds after the server has ended. Where no
    /// process can be made, the caller waits.
    ///
    /// To be called last: the process inherits every descriptor that is still open.
    pub fn let_go(self) {
        let Ok((until, guard)) = io::pipe() else { return };
        // SAFETY: the child only makes system calls until it ends.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: numbers, a string with an end, and a byte of our own. The streams are
                // whoever's who started us and may wait for their end; signals for the group are not
                // for this process.
                unsafe {
                    libc::prctl(libc::PR_SET_NAME, c"mcp-let-go".as_ptr());
                    libc::setsid();
                    for stream in 0..3 {
                        libc::close(stream);
                    }
                    libc::close(guard.as_raw_fd());
                    let mut byte = 0_u8;
                    // Returns when the monitor has closed its own: the last ones are ours then.
                    libc::read(until.as_raw_fd(), (&raw mut byte).cast(), 1);
                    libc::_exit(0)
                }
            }
            // Closes everything, and then what the process waits for.
            _ => drop((self, guard)),
        }
    }
}
