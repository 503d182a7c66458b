//! Signals.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::{kind, process};

use crate::{instance, judge};

/// `int task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig,
/// const struct cred *cred)`
#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    let signal = ctx.arg::<u32>(2);
    if signal == 0 {
        return 0;
    }
    let task = judge::pointer(&ctx, 0);
    if instance::is_dead(task) {
        // Without effect, and without a tag that would tell whose it was.
        return 0;
    }
    judge::lsm(kind::PROCESS, |scratch, subject| {
        judge::judge_target(scratch, subject, task, process::SIGNAL, signal);
    })
}
