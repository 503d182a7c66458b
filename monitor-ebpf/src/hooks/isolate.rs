//! All IP packets of a cgroup's sockets, in both directions: attached to the cgroup of an isolated
//! instance alone, which needs no question.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};

/// `BPF_CGROUP_INET_INGRESS` and `BPF_CGROUP_INET_EGRESS`; 0 drops the packet, and a sender is told
/// EPERM where the protocol tells
#[cgroup_skb]
pub fn isolate(_ctx: SkBuffContext) -> i32 {
    0
}
