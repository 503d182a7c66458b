//! Host names in rules: the agent answers the DNS of servers whose rules name hosts, and lets them
//! connect to the addresses that the answers give.
//!
//! ```text
//! connect, sendmsg to port 53 --(kernel)--> Stub --> resolver of the host (resolv.conf)
//!                                            |  <--
//!                    address table <--- Table, then the answer goes back, then the `resolve` event
//! ```
//!
//! The resolvers are the host's own, whichever one the server meant to ask: otherwise whoever runs
//! one could let any address in. The address table is changed before the answer is sent, so that a
//! connect that follows at once is judged rightly.

mod forward;
mod hosts;
mod message;
mod questions;
mod resolv_conf;
mod service;
mod stream;
mod stub;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use questions::{TIMEOUT, Under};
pub use service::Service;
pub use stub::Stub;

use crate::{event::Resolve, rules::Naming};

/// Addresses that an instance may be let to at one time because of their names.
pub const ADDRESSES_MAX: usize = 1024;
/// How long an address stays allowed after the answer has ceased to hold.
pub const GRACE: Duration = Duration::from_secs(60);
/// Longest that an answer holds, in seconds, whatever it says itself.
pub const TTL_MAX: u32 = 86_400;

/// A question that has been answered, and what rules say about it.
pub struct Answered {
    /// Question and answer.
    pub resolve: Resolve,
    /// What rules say.
    pub naming: Naming,
    /// One of [`monitor_common::policy::mode`].
    pub mode: u8,
    /// When, CLOCK_BOOTTIME: before anybody can act on the answer.
    pub boot_ns: u64,
}

/// Until when the addresses of an answer stay allowed, CLOCK_BOOTTIME, ns. What stands in
/// `/etc/hosts` has no end.
pub fn holds_until(ttl: Option<u32>, now_ns: u64) -> u64 {
    let Some(ttl) = ttl else { return u64::MAX };
    let holds = Duration::from_secs(u64::from(ttl.min(TTL_MAX))) + GRACE;
    now_ns.saturating_add(u64::try_from(holds.as_nanos()).unwrap_or(u64::MAX))
}
