//! Connects of and sends to AF_UNIX datagram sockets. A peer without a name was handed over or made
//! by the tree itself, and each of its many sends would be an event: not recorded.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use monitor_common::record::kind;

use crate::{
    emit,
    instance::{self, Current, Subject},
    judge,
    kernel_field::{Address, field},
    policy::{self, Means},
    scratch::Claim,
    unix_socket,
};

/// `int unix_may_send(struct socket *sock, struct socket *other)`
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    let other: Address = field!(judge::pointer(&ctx, 1), socket_sk);
    match instance::current() {
        Current::Untagged => 0,
        Current::Outlaw => judge::refused(),
        Current::Tagged(subject) => judge_send(&subject, other),
    }
}

/// Refuses when no scratch slot is free, in enforce.
#[inline(always)]
fn judge_send(subject: &Subject, other: Address) -> i32 {
    let Some(mut claim) = Claim::new() else {
        return if subject.enforcing() { judge::refused() } else { 0 };
    };
    let scratch = claim.scratch();
    emit::begin(scratch, kind::UNIX);
    if !unix_socket::judge_sock(scratch, subject, other, unix_socket::TO_SOCKET) {
        return 0;
    }
    let refuse = policy::enforce(&mut scratch.record, subject, Means::Refuse);
    emit::send(scratch, subject);
    if refuse { judge::refused() } else { 0 }
}
