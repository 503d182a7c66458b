//! The keys of the language. A new list or section is added here.

use monitor_common::policy::{access, class, detector, set};

use crate::{detect::PARAMETERS, rules::address::Purpose};

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
    /// What it says, for people.
    pub doc: &'static str,
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
            // There a variable or a `*` begins an address.
            Holds::AddressesAndSockets if self.restricts() => entry.starts_with(['/', '@']),
            Holds::AddressesAndSockets => entry.starts_with(['/', '@', '$', '*']),
        }
    }

    /// The class of its AF_UNIX sockets.
    pub fn socket_class(&self) -> u32 {
        if self.class == class::DENY { class::DENY_SOCKET } else { self.class }
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

const fn list(
    table: &'static str,
    key: &'static str,
    class: u32,
    holds: Holds,
    doc: &'static str,
) -> List {
    List { table, key, class, holds, doc }
}

/// All lists.
pub static LISTS: [List; 10] = [
    list("files", "read", class::READ, Holds::Paths, "may be read"),
    list(
        "files",
        "runtime",
        class::READ | class::RUNTIME,
        Holds::Paths,
        "may be read, and detectors do not count it",
    ),
    list(
        "files",
        "write",
        class::WRITE,
        Holds::Paths,
        "may be created, changed, deleted, renamed and read",
    ),
    list("files", "deny", class::DENY, Holds::Paths, "may not be touched, whatever else allows it"),
    list(
        "files",
        "allow_secret",
        class::ALLOW_SECRET,
        Holds::Paths,
        "members of the built-in sets that it may touch",
    ),
    list("exec", "allow", class::EXEC, Holds::Paths, "may be executed"),
    list("network", "connect", class::CONNECT, Holds::Addresses, "may be connected and sent to"),
    list(
        "network",
        "deny",
        class::DENY,
        Holds::AddressesAndSockets,
        "may not be connected or sent to, nor listened on as AF_UNIX, whatever else allows it",
    ),
    list("network", "listen", class::LISTEN, Holds::AddressesAndSockets, "may be listened on"),
    list(
        "network",
        "unix",
        class::UNIX,
        Holds::Sockets,
        "AF_UNIX sockets that may be connected and sent to",
    ),
];

/// A key of the language: the parser knows no others, and the schema for editors is made of them.
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it says, for people.
    pub doc: &'static str,
    /// What stands behind it.
    pub shape: Shape,
}

/// What stands behind a key.
pub enum Shape {
    /// [`super::SCHEMA`].
    Version,
    /// A string.
    Text,
    /// A list of strings.
    Texts,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these words.
    Words(&'static [&'static str]),
    /// A verdict for each of these.
    Verdicts(&'static [&'static str]),
    /// Types of events, or a word for several.
    Events,
    /// Bytes: a number, or digits with a unit.
    Bytes,
    /// A number of things.
    Count,
    /// Percent.
    Share,
    /// Vectors of arguments for each program.
    Vectors,
    /// A table with these keys.
    Table(&'static [Key]),
    /// Several of them.
    Tables(&'static [Key]),
    /// Limits of one detector, by [`PARAMETERS`].
    Limits,
    /// A table with the [`LISTS`] of this section, and these keys.
    Lists(&'static [Key]),
}

const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, doc, shape }
}

const VERSION: Key = key("schema", Shape::Version, "version of the rule language");
const INCLUDES: Key = key("include", Shape::Texts, "building blocks: names of includes");
const DESCRIPTION: Key = key("description", Shape::Text, "what it is for");
const FILES: Key = key("files", Shape::Lists(&[]), "files that the server may touch");
const EXEC: Key = key("exec", Shape::Lists(&ARGUMENTS), "programs that the server may run");
const NETWORK: Key = key("network", Shape::Lists(&[]), "whom the server may talk to");
const LIMIT: Key = key("limits", Shape::Table(&LIMITS), "from which counts on detectors speak");
const ENVIRONMENT: Key = key("env", Shape::Table(&ENV), "the environment that it is given");

static ARGUMENTS: [Key; 1] = [key(
    "arguments",
    Shape::Vectors,
    "programs that run only with these arguments, without argv[0]; \"...\" is any rest",
)];
static ENV: [Key; 1] =
    [key("pass", Shape::Texts, "variables that it is given although they look like secrets")];
static RESOURCES: [Key; 3] = [
    key("memory", Shape::Bytes, "memory of the whole tree, such as \"1G\""),
    key("pids", Shape::Count, "processes and threads of the whole tree"),
    key("cpu", Shape::Share, "processor time of the whole tree, such as \"200%\""),
];
static MATCH: [Key; 4] = [
    key("exe", Shape::Texts, "patterns of the executable"),
    key("args", Shape::Texts, "globs for any one argument"),
    key("unit", Shape::Texts, "globs for the systemd unit"),
    key("cgroup", Shape::Texts, "globs for the cgroup"),
];
static LIMITS: [Key; 7] = [
    key("mass_read", Shape::Limits, "files read in a short time"),
    key("breadth", Shape::Limits, "files read in a long time"),
    key("mass_write", Shape::Limits, "files overwritten, renamed or deleted"),
    key("exec_burst", Shape::Limits, "programs started"),
    key("connect_burst", Shape::Limits, "hosts and ports tried"),
    key("exfiltration", Shape::Limits, "a secret read, then something sent"),
    key("dns_burst", Shape::Limits, "data in questions for names"),
];
static RECORD: [Key; 1] =
    [key("events", Shape::Events, "what is recorded besides violations and the process tree")];
static RESPONSE: [Key; 4] = [
    key("mode", Shape::Word(&MODES), "whether verdicts are carried out"),
    key("unlisted", Shape::Verdicts(&access::NAMES), "verdicts on what no list names"),
    key("sets", Shape::Verdicts(&set::NAMES), "verdicts on what built-in sets name"),
    key("detectors", Shape::Verdicts(&detector::NAMES), "verdicts on what detectors find"),
];

/// Values of `response.mode`.
pub static MODES: [&str; 2] = ["observe", "enforce"];

/// A server's file, and its drop-ins.
pub static SERVER_FILE: Shape = Shape::Table(&SERVER);
/// An include.
pub static INCLUDE_FILE: Shape = Shape::Table(&INCLUDE);
/// A set.
pub static SET_FILE: Shape = Shape::Table(&SET);

static SERVER: [Key; 12] = [
    VERSION,
    key("server", Shape::Text, "the name that people know it by, and the file's"),
    INCLUDES,
    key("match", Shape::Tables(&MATCH), "which processes it is, when others start it"),
    FILES,
    EXEC,
    NETWORK,
    ENVIRONMENT,
    key("resources", Shape::Table(&RESOURCES), "what the whole tree may use"),
    LIMIT,
    key("record", Shape::Table(&RECORD), "what is recorded"),
    key("response", Shape::Table(&RESPONSE), "what is done"),
];
static INCLUDE: [Key; 8] =
    [VERSION, DESCRIPTION, INCLUDES, FILES, EXEC, NETWORK, ENVIRONMENT, LIMIT];
static SET: [Key; 6] = [
    VERSION,
    key("set", Shape::Text, "which set, and the file's name"),
    DESCRIPTION,
    key("access", Shape::Words(&access::NAMES), "the accesses that it speaks about"),
    key("paths", Shape::Texts, "patterns of its members"),
    key("addresses", Shape::Texts, "its addresses"),
];

impl Shape {
    /// The keys of the table `name` of this shape; `None` when it is no table, or any key will do.
    pub fn keys(&self, name: &str) -> Option<Vec<(&'static str, Option<&'static Key>)>> {
        let known = |keys: &'static [Key]| keys.iter().map(|key| (key.name, Some(key)));
        match self {
            Self::Table(keys) | Self::Tables(keys) => Some(known(keys).collect()),
            Self::Verdicts(names) => Some(names.iter().map(|name| (*name, None)).collect()),
            Self::Lists(more) => {
                let lists = LISTS.iter().filter(|list| list.table == name);
                Some(lists.map(|list| (list.key, None)).chain(known(more)).collect())
            }
            Self::Limits => {
                let own = PARAMETERS.iter().filter(|parameter| parameter.table == name);
                Some(own.map(|parameter| (parameter.key, None)).collect())
            }
            _ => None,
        }
    }
}
