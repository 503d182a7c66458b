//! bpf(2): a tagged process has no business with it.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{policy::set, record::kind};

use crate::judge;

/// `int bpf(int cmd, union bpf_attr *attr, unsigned int size)`
#[lsm(hook = "bpf")]
pub fn bpf(ctx: LsmContext) -> i32 {
    let command = ctx.arg::<u32>(0);
    judge::lsm(kind::BPF, |scratch, subject| {
        scratch.record.detail = command;
        judge::judge_set(scratch, subject, set::ESCAPE);
    })
}
