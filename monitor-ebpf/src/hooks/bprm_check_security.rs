//! execve, for the program and for every interpreter on the way to it. Refusals and alerts are
//! recorded here; that the new image runs, and with which arguments, by `sched_process_exec`.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    policy::{access, class},
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
        judge_executable(scratch, subject, field!(bprm, binprm_file), arguments_later(bprm));
        Noted::No
    })
}

/// [`class::NAMED`] for what the processor runs by itself: its arguments are judged when it is in
/// place. A script, and what binfmt_misc interprets, is never in place; its arguments are nobody's.
#[inline(always)]
fn arguments_later(bprm: Address) -> u32 {
    let head: [u64; 3] = field!(bprm, binprm_buf);
    let machine = (head[2] >> 16) as u16;
    if head[0] as u32 == ELF && (machine == EM_X86_64 || machine == EM_386) {
        return class::NAMED;
    }
    0
}

// include/uapi/linux/elf.h, elf-em.h
const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Describes and judges the file of an exec; `extra` classes are not the path's.
#[inline(always)]
pub fn judge_executable(scratch: &mut Scratch, subject: &Subject, file: Address, extra: u32) {
    let inode: Address = field!(file, file_inode);
    judge::describe_inode(scratch, inode);
    if scratch.record.nlink == 0 {
        scratch.record.flags |= flags::FILELESS;
    }
    judge::judge_place(scratch, subject, 0, Place::of_file(file), extra, access::EXEC);
    let both = class::ARGUMENTS | class::NAMED;
    if scratch.record.classes & both == both {
        scratch.record.flags |= flags::NAMED_ARGUMENTS;
    }
}
