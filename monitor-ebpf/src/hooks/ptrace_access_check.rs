//! ptrace and whatever asks for the same right: `process_vm_readv`, `/proc/P/mem`, `pidfd_getfd`.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::{kind, process};

use crate::judge;

/// include/linux/ptrace.h: more than reading what procfs shows of a process.
const PTRACE_MODE_ATTACH: u32 = 0x02;

/// `int ptrace_access_check(struct task_struct *child, unsigned int mode)`
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    let mode = ctx.arg::<u32>(1);
    if mode & PTRACE_MODE_ATTACH == 0 {
        return 0;
    }
    let task = judge::pointer(&ctx, 0);
    judge::lsm(kind::PROCESS, |scratch, subject| {
        judge::judge_target(scratch, subject, task, process::PTRACE, mode);
    })
}
