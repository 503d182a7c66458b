//! Which rule decided.

use monitor_common::policy::Decision;

use super::Compiled;

/// What was judged.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A file, program or AF_UNIX socket by its resolved path; abstract socket names begin with `@`.
    Path(&'a [u8]),
    /// A destination.
    Address {
        /// IPv6, IPv4 as `::ffff:a.b.c.d`.
        address: [u8; 16],
        /// Host byte order.
        port: u16,
        /// One bit of [`monitor_common::network::protocol`].
        protocol: u8,
    },
}

/// One entry of a rule text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The file as people find it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// The list that the entry stands in, such as `files.read` or `sets.secrets`.
    pub list: String,
    /// The entry as written.
    pub text: String,
}

impl Compiled {
    /// The entry that led to `decision` on a subject in `classes`; `None` when no entry did, as
    /// with bounds and launches.
    pub fn blame(
        &self,
        _subject: Subject<'_>,
        _classes: u32,
        _decision: Decision,
    ) -> Option<RuleRef> {
        None
    }
}
