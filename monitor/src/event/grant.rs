//! Rights for a while: what a person gives running servers beyond their rules.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Lines that are added to the rules of a server's instances, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Grant {
    /// Its number, which no other grant has until the host is restarted.
    pub id: u32,
    /// The server.
    pub server: String,
    /// The one instance that is meant; every instance of the server when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// The lines, as in a rule file.
    pub rules: String,
    /// Who gave it.
    pub by: Person,
    /// When it ends, CLOCK_BOOTTIME, ns.
    pub until_ns: u64,
    /// The same by the wall clock of the moment in which it was given, RFC 3339.
    pub until: String,
}

/// A user, as far as the kernel and passwd know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Person {
    /// Number: of the login session (`loginuid` in proc(5)) where there is one, so that it is the
    /// person behind sudo; else of the process that asked.
    pub uid: u32,
    /// Name; the number when passwd has none.
    pub user: String,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, server, instance, rules, by, until, .. } = self;
        write!(f, "grant {id} of {} to server {server}", by.user)?;
        if let Some(instance) = instance {
            write!(f, ", instance {instance}")?;
        }
        write!(f, ", until {until}: {}", rules.trim_end().replace('\n', ", "))
    }
}
