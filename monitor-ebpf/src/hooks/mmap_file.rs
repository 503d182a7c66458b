//! What a dynamic loader maps executable first is the program that was named to it: judged as exec.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{
    policy::tag_flags,
    record::{flags, kind},
};

use crate::{
    hooks::bprm_check_security::judge_executable,
    instance::{self, Current},
    judge,
};

const PROT_EXEC: u64 = 4;

/// `int mmap_file(struct file *file, unsigned long reqprot, unsigned long prot,
/// unsigned long flags)`
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let file = judge::pointer(&ctx, 0);
    if file == 0 || ctx.arg::<u64>(2) & PROT_EXEC == 0 {
        return 0;
    }
    match instance::current() {
        Current::Untagged => 0,
        Current::Outlaw => judge::refused(),
        Current::Tagged(subject) if subject.tag.flags & tag_flags::LOADER != 0 => {
            instance::set_flags(subject.ids, subject.tag.flags & !tag_flags::LOADER);
            judge::lsm_for(&subject, kind::EXEC, |scratch, subject| {
                scratch.record.flags |= flags::CHECK | flags::LOADER;
                // Its arguments are those of the loader: no rule names them.
                judge_executable(scratch, subject, file, 0);
            })
        }
        Current::Tagged(_) => 0,
    }
}
