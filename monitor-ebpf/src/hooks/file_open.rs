//! Opens, on kernel objects: whichever call or io_uring request they come from.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::{policy::verdict, record::kind};

use crate::{
    emit,
    instance::{self, Current, Subject},
    judge::{self, Opened},
    kernel_field::{Address, field},
    label,
    path::Place,
    policy::{self, Means},
    scratch::Claim,
};

/// `int file_open(struct file *file)`
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let opened = Opened::of(judge::pointer(&ctx, 0));
    if opened.created() {
        let inode: Address = field!(opened.file, file_inode);
        label::inherit(inode, &Place::of_file(opened.file));
    }
    match instance::current() {
        Current::Untagged => 0,
        Current::Outlaw => judge::refused(),
        Current::Tagged(_) if opened.for_exec() => 0,
        Current::Tagged(subject) => judge_open(&subject, &opened),
    }
}

/// Refuses when no scratch slot is free, in enforce.
#[inline(always)]
fn judge_open(subject: &Subject, opened: &Opened) -> i32 {
    let Some(mut claim) = Claim::new() else {
        return if subject.enforcing() { judge::refused() } else { 0 };
    };
    let scratch = claim.scratch();
    emit::begin(scratch, kind::OPEN);
    judge::judge_file(scratch, subject, opened);
    let refuse = policy::enforce(&mut scratch.record, subject, Means::Refuse);
    let seen_before = opened.backing(&Place::of_file(opened.file));
    if !seen_before || scratch.record.decision.verdict > verdict::ALLOW {
        emit::send(scratch, subject);
    }
    if refuse { judge::refused() } else { 0 }
}
