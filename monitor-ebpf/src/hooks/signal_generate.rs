//! Signals on the tracepoint backend: judged by the task that one goes to, while the sender sends
//! it. By the end of the call the target may be gone and its tag with it.

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_task_pt_regs, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use core::ffi::c_void;
use monitor_common::record::{flags, kind, process};

use crate::{
    instance::{self, Current},
    judge,
    kernel_field::{Address, current_task, load, read},
    policy::Means,
};

/// Lowest address that `info` has when it is one: those below stand for signals of the kernel.
const INFO_FIRST: Address = 2;
/// `si_code` in `struct kernel_siginfo`; include/uapi/asm-generic/siginfo.h.
const CODE_AT: u32 = 8;
const SI_TIMER: i32 = -2;
/// `rt_sigqueueinfo`, `rt_tgsigqueueinfo` and `pidfd_send_signal`, native and 32-bit: calls that
/// may give a signal any code below zero.
const QUEUEING: [u64; 5] = [129, 297, 424, 178, 335];

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
/// int result)`
#[btf_tracepoint(function = "signal_generate")]
pub fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let Current::Tagged(subject) = instance::current_even_if_doomed() else { return 0 };
    // Read as a number: the verifier takes a pointer for one that is never 0 or 1.
    let info: Address = read(ctx.as_ptr() as Address, 8);
    if info < INFO_FIRST || !is_sent(read(info, CODE_AT)) {
        return 0;
    }
    let task = ctx.arg::<*const c_void>(2) as Address;
    let signal = ctx.arg::<u32>(0);
    if instance::is_dead(task) {
        return 0;
    }
    judge::run(&subject, kind::PROCESS, Means::KillOnly, |scratch, subject| {
        scratch.record.flags |= flags::AFTER;
        judge::judge_target(scratch, subject, task, process::SIGNAL, signal);
    });
    0
}

/// Whether the running task sends it: codes above zero are the kernel's, and timers run out while
/// any task runs, unless it is a call that claims to be one.
#[inline(always)]
fn is_sent(code: i32) -> bool {
    code <= 0 && (code != SI_TIMER || QUEUEING.contains(&running_call()))
}

#[inline(always)]
fn running_call() -> u64 {
    // SAFETY: the running task has registers.
    let registers = unsafe { bpf_task_pt_regs(current_task() as *mut _) };
    load!(registers as Address, regs_orig_ax)
}
