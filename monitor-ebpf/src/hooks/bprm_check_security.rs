//! execve, for the program and for every interpreter on the way to it. Refusals and alerts are
//! recorded here; that the new image runs, and with which arguments, by `sched_process_exec`.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    policy::access,
    record::{flags, kind},
};

use crate::{
    instance::Subject,
    judge::{self, Noted},
    kernel_field::{Address, field},
    path::Place,
    scratch::Scratch,
};

/// `int bprm_check_security(struct linux_binprm *bprm)`
#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let bprm = judge::pointer(&ctx, 0);
    judge::lsm_noting(kind::EXEC, |scratch, subject| {
        scratch.record.flags |= flags::CHECK;
        judge_executable(scratch, subject, field!(bprm, binprm_file));
        Noted::No
    })
}

/// Describes and judges the file of an exec.
#[inline(always)]
pub fn judge_executable(scratch: &mut Scratch, subject: &Subject, file: Address) {
    let inode: Address = field!(file, file_inode);
    judge::describe_inode(scratch, inode);
    if scratch.record.nlink == 0 {
        scratch.record.flags |= flags::FILELESS;
    }
    judge::judge_place(scratch, subject, 0, Place::of_file(file), 0, access::EXEC);
}
