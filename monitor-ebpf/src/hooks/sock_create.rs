//! Sockets of families and types that no rule names, on the tracepoint backend.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use monitor_common::{
    policy::access,
    record::{Peer, kind},
};

use crate::{
    hooks::socket_create::unusual,
    instance::{self, Current},
    judge,
    policy::{self, Means},
};

/// `BPF_CGROUP_INET_SOCK_CREATE`; 1 lets the call pass, 0 refuses it with EPERM
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context of the program; the verifier checks each field.
    let (family, socket_type, protocol) = unsafe {
        ((*ctx.sock).family as u16, (*ctx.sock).type_ as u16, (*ctx.sock).protocol as u16)
    };
    if !unusual(family, socket_type, protocol) {
        return 1;
    }
    match instance::current_without_signal() {
        Current::Untagged => 1,
        Current::Outlaw => 0,
        Current::Tagged(subject) => {
            let refuse =
                judge::run(&subject, kind::SOCKET, Means::RefuseOnly, |scratch, subject| {
                    scratch.record.peer = Peer { family, socket_type, protocol, ..Peer::default() };
                    policy::judge_classes(&mut scratch.record, subject, 0, access::CONNECT);
                });
            !refuse as i32
        }
    }
}
