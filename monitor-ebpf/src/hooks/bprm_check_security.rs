//! execve, for the program and for every interpreter on the way to it. Refusals and alerts are
//! recorded here; that the new image runs, and with which arguments, by `sched_process_exec`.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    policy::{access, verdict},
    record::{flags, kind},
};

use crate::{
    emit,
    instance::{self, Current, Subject},
    judge,
    kernel_field::{Address, field},
    path::Place,
    policy::{self, Means},
    scratch::Claim,
};

/// `int bprm_check_security(struct linux_binprm *bprm)`
#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let bprm = judge::pointer(&ctx, 0);
    match instance::current() {
        Current::Untagged => 0,
        Current::Outlaw => judge::refused(),
        Current::Tagged(subject) => judge_program(&subject, field!(bprm, binprm_file)),
    }
}

/// Refuses when no scratch slot is free, in enforce.
#[inline(always)]
fn judge_program(subject: &Subject, file: Address) -> i32 {
    let Some(mut claim) = Claim::new() else {
        return if subject.enforcing() { judge::refused() } else { 0 };
    };
    let scratch = claim.scratch();
    emit::begin(scratch, kind::EXEC);
    scratch.record.flags |= flags::CHECK;
    judge_executable(scratch, subject, file);
    let refuse = policy::enforce(&mut scratch.record, subject, Means::Refuse);
    if scratch.record.decision.verdict > verdict::ALLOW {
        emit::send(scratch, subject);
    }
    if refuse { judge::refused() } else { 0 }
}

/// Describes and judges the file of an exec.
#[inline(always)]
pub fn judge_executable(scratch: &mut crate::scratch::Scratch, subject: &Subject, file: Address) {
    let inode: Address = field!(file, file_inode);
    judge::describe_inode(scratch, inode);
    if scratch.record.nlink == 0 {
        scratch.record.flags |= flags::FILELESS;
    }
    judge::judge_place(scratch, subject, 0, Place::of_file(file), 0, access::EXEC);
}
