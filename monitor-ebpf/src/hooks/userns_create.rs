//! New user namespaces, in which a process gains the capabilities to mount.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{policy::set, record::kind};

use crate::judge;

/// `int userns_create(const struct cred *cred)`, since 6.1
#[lsm(hook = "userns_create")]
pub fn userns_create(_ctx: LsmContext) -> i32 {
    judge::lsm(kind::NAMESPACE, |scratch, subject| {
        judge::judge_set(scratch, subject, set::ESCAPE);
    })
}
