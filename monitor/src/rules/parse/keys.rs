//! The keys of the language. A new list or section is added here.

use monitor_common::policy::class;

use crate::rules::address::Purpose;

/// A list of patterns or addresses within a section.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    /// Its section.
    pub table: &'static str,
    /// Its key.
    pub key: &'static str,
    /// Bits of [`class`] that its entries give.
    pub class: u32,
    /// What its entries are.
    pub holds: Holds,
}

/// What the entries of a [`List`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Patterns of paths.
    Paths,
    /// Patterns of AF_UNIX socket paths, and of abstract names behind an `@`.
    Sockets,
    /// Internet addresses.
    Addresses,
    /// Internet addresses and AF_UNIX sockets.
    AddressesAndSockets,
}

impl List {
    /// The list as people name it.
    pub fn name(&self) -> String {
        format!("{}.{}", self.table, self.key)
    }

    /// Whether an entry is a pattern and not an address.
    pub fn is_pattern(&self, entry: &str) -> bool {
        match self.holds {
            Holds::Paths | Holds::Sockets => true,
            Holds::Addresses => false,
            Holds::AddressesAndSockets => entry.starts_with(['/', '@', '$', '*']),
        }
    }

    /// What its addresses are for.
    pub fn purpose(&self) -> Purpose {
        match self.class {
            class::DENY => Purpose::Refuse,
            class::LISTEN => Purpose::Listen,
            _ => Purpose::Connect,
        }
    }

    /// Whether an entry that cannot be used makes the policy weaker instead of tighter.
    pub fn restricts(&self) -> bool {
        self.class == class::DENY
    }
}

const fn list(table: &'static str, key: &'static str, class: u32, holds: Holds) -> List {
    List { table, key, class, holds }
}

/// All lists.
pub static LISTS: [List; 10] = [
    list("files", "read", class::READ, Holds::Paths),
    list("files", "runtime", class::READ | class::RUNTIME, Holds::Paths),
    list("files", "write", class::WRITE, Holds::Paths),
    list("files", "deny", class::DENY, Holds::Paths),
    list("files", "allow_secret", class::ALLOW_SECRET, Holds::Paths),
    list("exec", "allow", class::EXEC, Holds::Paths),
    list("network", "connect", class::CONNECT, Holds::Addresses),
    list("network", "deny", class::DENY, Holds::Addresses),
    list("network", "listen", class::LISTEN, Holds::AddressesAndSockets),
    list("network", "unix", class::UNIX, Holds::Sockets),
];

/// Sections of [`LISTS`]: name, keys, keys that are not supported yet.
pub const TABLES: [(&str, &[&str], &[&str]); 3] = [
    ("files", &["read", "runtime", "write", "deny", "allow_secret"], &[]),
    ("exec", &["allow", "arguments"], &[]),
    ("network", &["connect", "deny", "listen", "unix"], &[]),
];

/// Keys at the top of a server's file.
pub const SERVER: &[&str] = &[
    "schema",
    "server",
    "include",
    "match",
    "files",
    "exec",
    "network",
    "env",
    "resources",
    "limits",
    "record",
    "response",
];
/// Those that are not supported yet.
pub const SERVER_LATER: &[&str] = &[];
/// Keys at the top of an include.
pub const INCLUDE: &[&str] =
    &["schema", "description", "include", "files", "exec", "network", "env", "limits"];
/// Those that are not supported yet.
pub const INCLUDE_LATER: &[&str] = &[];
/// Keys of a set.
pub const SET: &[&str] = &["schema", "set", "description", "access", "paths", "addresses"];
