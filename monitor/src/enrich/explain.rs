//! Which line of which rule file decided.

use monitor_common::{
    network::{canonical, protocol},
    policy::Decision,
    record::{flags, kind},
};

use crate::{
    decode::Decoded,
    event::Rule,
    rules::{Compiled, Subject},
};

/// A policy that can name the rule behind a verdict.
pub trait Explain: Send + Sync {
    /// The rule that decided about `subject`, which falls in `classes`.
    fn blame(&self, subject: Subject<'_>, classes: u32, decision: Decision) -> Option<Rule>;
}

impl Explain for Compiled {
    fn blame(&self, subject: Subject<'_>, classes: u32, decision: Decision) -> Option<Rule> {
        Compiled::blame(self, subject, classes, decision).map(|rule| Rule {
            file: rule.file,
            line: rule.line,
            list: rule.list,
            text: rule.text,
        })
    }
}

/// The rule behind a record's verdict. Where two paths were judged, the first that a rule is
/// found for.
pub(super) fn rule(policy: &dyn Explain, decoded: &Decoded<'_>) -> Option<Rule> {
    let record = &decoded.record;
    let ask = |subject| policy.blame(subject, record.classes, record.decision);
    match record.kind {
        kind::CONNECT | kind::SEND | kind::BIND | kind::LISTEN | kind::SOCKET => {
            ask(Subject::Address {
                address: canonical(record.peer.address),
                port: record.peer.port,
                protocol: protocol_bit(record.peer.protocol),
            })
        }
        kind::UNIX if record.flags & flags::ABSTRACT != 0 => {
            let name = decoded.path().strip_prefix(b"\0").unwrap_or(decoded.path());
            ask(Subject::Path(&[b"@", name].concat()))
        }
        _ => ask(Subject::Path(decoded.path())).or_else(|| {
            let second = Some(decoded.second()).filter(|path| !path.is_empty())?;
            ask(Subject::Path(second))
        }),
    }
}

fn protocol_bit(number: u16) -> u8 {
    match i32::from(number) {
        libc::IPPROTO_TCP | libc::IPPROTO_MPTCP => protocol::TCP,
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => protocol::UDP,
        _ => protocol::OTHER,
    }
}
