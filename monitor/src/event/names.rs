//! Numbers of the kernel and of the records, and the words for them in the lines.

use monitor_common::{
    file::{PIPEFS_MAGIC, PROC_SUPER_MAGIC},
    policy::{Decision, class, detector, reason, set},
    record::{enforced, flags, process},
};

use super::Body;

/// Kind of thing that a violation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// Reading a file outside the rules.
    FileRead,
    /// Changing a file outside the rules.
    FileWrite,
    /// Executing a program outside the rules.
    Exec,
    /// Contacting an address outside the rules.
    Connect,
    /// Listening outside the rules.
    Listen,
    /// Contacting an AF_UNIX socket outside the rules.
    Unix,
    /// A member of the `secrets` set.
    Secret,
    /// A member of the `sensitive` set.
    Sensitive,
    /// Another process's environment, memory or arguments, through a file.
    EnvSecret,
    /// A place that outlives the server.
    Persistence,
    /// Configuration of MCP clients.
    McpConfig,
    /// Reach into another process.
    Process,
    /// A way out of the tree.
    Escape,
    /// A cloud metadata address.
    Metadata,
    /// Many different files read.
    MassRead,
    /// Many files overwritten, renamed, deleted or emptied.
    MassWrite,
    /// Many programs or processes started.
    ExecBurst,
    /// Many addresses or ports contacted.
    ConnectBurst,
    /// Something secret read, then something sent.
    Exfiltration,
    /// Data carried away in questions for names.
    DnsBurst,
    /// Asking for a host outside the rules.
    Resolve,
    /// A host name that leads to a private address.
    Rebinding,
}

const CATEGORIES: [(Category, &str); 22] = [
    (Category::FileRead, "file_read"),
    (Category::FileWrite, "file_write"),
    (Category::Exec, "exec"),
    (Category::Connect, "connect"),
    (Category::Listen, "listen"),
    (Category::Unix, "unix"),
    (Category::Secret, "secret"),
    (Category::Sensitive, "sensitive"),
    (Category::EnvSecret, "env_secret"),
    (Category::Persistence, "persistence"),
    (Category::McpConfig, "mcp_config"),
    (Category::Process, "process"),
    (Category::Escape, "escape"),
    (Category::Metadata, "metadata"),
    (Category::MassRead, "mass_read"),
    (Category::MassWrite, "mass_write"),
    (Category::ExecBurst, "exec_burst"),
    (Category::ConnectBurst, "connect_burst"),
    (Category::Exfiltration, "exfiltration"),
    (Category::DnsBurst, "dns_burst"),
    (Category::Resolve, "resolve"),
    (Category::Rebinding, "rebinding"),
];

impl Category {
    /// The word in the lines.
    pub fn name(self) -> &'static str {
        CATEGORIES[self as usize].1
    }

    /// The inverse of [`Category::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        CATEGORIES.iter().find(|(_, known)| *known == name).map(|(category, _)| *category)
    }

    /// What a verdict is about. The set decides where one did, else what was asked.
    pub fn of(body: &Body, decision: Decision) -> Self {
        let Decision { reason, set, access, .. } = decision;
        if reason == reason::SET {
            return Self::of_set(usize::from(set), body);
        }
        if reason == reason::DETECTOR {
            return Self::of_detector(usize::from(set));
        }
        match (body, access.trailing_zeros()) {
            (Body::Process { .. }, _) => Self::Process,
            (Body::Resolve(_), _) if reason == reason::REBINDING => Self::Rebinding,
            (Body::Resolve(_), _) => Self::Resolve,
            (Body::Bpf { .. } | Body::Namespace | Body::IoUring | Body::Mount { .. }, _) => {
                Self::Escape
            }
            (_, 0) => Self::FileRead,
            (_, 1) => Self::FileWrite,
            (_, 2) => Self::Exec,
            (_, 4) => Self::Listen,
            (_, 5) => Self::Unix,
            _ => Self::Connect,
        }
    }

    /// The category of a detector's findings.
    pub fn of_detector(detector: usize) -> Self {
        match detector {
            detector::MASS_READ => Self::MassRead,
            detector::MASS_WRITE => Self::MassWrite,
            detector::EXEC_BURST => Self::ExecBurst,
            detector::CONNECT_BURST => Self::ConnectBurst,
            detector::ENV_SECRET => Self::EnvSecret,
            detector::DNS_BURST => Self::DnsBurst,
            _ => Self::Exfiltration,
        }
    }

    fn of_set(set: usize, body: &Body) -> Self {
        match set {
            set::SECRETS => Self::Secret,
            set::SENSITIVE => match body {
                // Arguments of a process outside the tree.
                Body::Open { file, .. } if file.fs_magic == PROC_SUPER_MAGIC => Self::EnvSecret,
                _ => Self::Sensitive,
            },
            set::PERSISTENCE => Self::Persistence,
            set::MCP_CONFIG => Self::McpConfig,
            set::PROCESSES => match body {
                Body::Open { file, .. } if file.fs_magic == PIPEFS_MAGIC => Self::Process,
                Body::Open { .. } => Self::EnvSecret,
                Body::Process { op, .. } if *op == process::MEMORY => Self::EnvSecret,
                _ => Self::Process,
            },
            set::METADATA => Self::Metadata,
            _ => Self::Escape,
        }
    }
}

/// Who carried a verdict out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// Nobody: an alert, observe mode, or seen after it took effect.
    None,
    /// The kernel program.
    Kernel,
    /// The agent, by killing.
    Agent,
}

impl Enforced {
    /// Words, by number.
    pub(super) const NAMES: [&str; 3] = ["none", "kernel", "agent"];

    /// The word in the lines.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The inverse of [`Enforced::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Kernel, Self::Agent].into_iter().find(|known| known.name() == name)
    }
}

/// Words for [`enforced`], by number.
pub(super) const ANSWERED: [&str; 4] = ["none", "denied", "killed", "denied+killed"];
const _: () = assert!(enforced::DENIED_AND_KILLED as usize == ANSWERED.len() - 1);

/// Words for [`reason`], by number.
pub(super) const REASONS: [&str; 11] = [
    "listed",
    "unlisted",
    "deny",
    "allow_secret",
    "set",
    "bound",
    "doomed",
    "launch",
    "arguments",
    "rebinding",
    "detector",
];
const _: () = assert!(reason::DETECTOR as usize == REASONS.len() - 1);

/// Words for those [`flags`] that stand in the line's `flags` list, by bit number; empty where a
/// field of its own says it.
pub(super) const FLAGS: [&str; 16] = [
    "",
    "argv_truncated",
    "detached",
    "",
    "",
    "compat",
    "io_uring",
    "after",
    "abstract",
    "directory",
    "loader",
    "unreadable",
    "check",
    "foreign",
    "named_arguments",
    "replaced",
];
const _: () = assert!(flags::REPLACED == 1 << (FLAGS.len() - 1));

/// Those [`flags`] that are fields of their own when set.
pub(super) const FLAG_FIELDS: [(u32, &str); 2] =
    [(flags::TRUNCATED, "truncated"), (flags::FILELESS, "fileless")];

/// Words for the sets in the upper half of [`class`], by bit number.
pub(super) const SETS: [&str; 32] = {
    let mut names = [""; 32];
    let mut set = 0;
    while set < set::COUNT {
        names[class::SET_SHIFT as usize + set] = set::NAMES[set];
        set += 1;
    }
    names
};

const FAMILIES: [(i32, &str); 12] = [
    (libc::AF_UNSPEC, "unspec"),
    (libc::AF_UNIX, "unix"),
    (libc::AF_INET, "inet"),
    (libc::AF_INET6, "inet6"),
    (libc::AF_NETLINK, "netlink"),
    (libc::AF_PACKET, "packet"),
    (libc::AF_ALG, "alg"),
    (libc::AF_VSOCK, "vsock"),
    (libc::AF_BLUETOOTH, "bluetooth"),
    (libc::AF_CAN, "can"),
    (libc::AF_TIPC, "tipc"),
    (libc::AF_XDP, "xdp"),
];

const PROTOCOLS: [(i32, &str); 9] = [
    (libc::IPPROTO_IP, "ip"),
    (libc::IPPROTO_ICMP, "icmp"),
    (libc::IPPROTO_TCP, "tcp"),
    (libc::IPPROTO_UDP, "udp"),
    (libc::IPPROTO_ICMPV6, "icmpv6"),
    (libc::IPPROTO_SCTP, "sctp"),
    (libc::IPPROTO_UDPLITE, "udplite"),
    (libc::IPPROTO_RAW, "raw"),
    (libc::IPPROTO_MPTCP, "mptcp"),
];

const SOCKET_TYPES: [(i32, &str); 4] = [
    (libc::SOCK_STREAM, "stream"),
    (libc::SOCK_DGRAM, "dgram"),
    (libc::SOCK_RAW, "raw"),
    (libc::SOCK_SEQPACKET, "seqpacket"),
];

/// Word for an address family, where it has one.
pub fn family_name(family: u16) -> Option<&'static str> {
    name_of(&FAMILIES, family)
}

/// Word for an IP protocol, where it has one.
pub fn protocol_name(protocol: u16) -> Option<&'static str> {
    name_of(&PROTOCOLS, protocol)
}

/// Word for a socket type, where it has one.
pub(super) fn socket_type_name(socket_type: u16) -> Option<&'static str> {
    name_of(&SOCKET_TYPES, socket_type)
}

/// Inverse of [`family_name`], also for bare numbers.
pub(super) fn family_from(text: &str) -> Option<u16> {
    number_of(&FAMILIES, text)
}

/// Inverse of [`protocol_name`], also for bare numbers.
pub(super) fn protocol_from(text: &str) -> Option<u16> {
    number_of(&PROTOCOLS, text)
}

/// Inverse of [`socket_type_name`], also for bare numbers.
pub(super) fn socket_type_from(text: &str) -> Option<u16> {
    number_of(&SOCKET_TYPES, text)
}

fn name_of(names: &[(i32, &'static str)], number: u16) -> Option<&'static str> {
    names.iter().find(|(known, _)| *known == i32::from(number)).map(|(_, name)| *name)
}

fn number_of(names: &[(i32, &'static str)], text: &str) -> Option<u16> {
    match names.iter().find(|(_, name)| *name == text) {
        Some((number, _)) => u16::try_from(*number).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_stand_at_their_own_number() {
        for (number, (category, name)) in CATEGORIES.into_iter().enumerate() {
            assert_eq!(category as usize, number);
            assert_eq!(Category::from_name(name), Some(category));
        }
    }

    #[test]
    fn a_set_names_the_category_and_a_listing_the_access() {
        let open = super::super::tests::sample(b"/x").body;
        let mut decision = Decision { access: 2, ..Decision::default() };
        assert_eq!(Category::of(&open, decision), Category::FileWrite);
        decision.reason = reason::SET;
        decision.set = set::PROCESSES as u8;
        assert_eq!(Category::of(&open, decision), Category::EnvSecret);
        assert_eq!(Category::of(&Body::IoUring, decision), Category::Process);
        decision.set = set::SENSITIVE as u8;
        assert_eq!(Category::of(&open, decision), Category::Sensitive);
        let Body::Open { access, mut file } = open else { unreachable!() };
        file.fs_magic = PROC_SUPER_MAGIC;
        assert_eq!(Category::of(&Body::Open { access, file }, decision), Category::EnvSecret);
    }

    #[test]
    fn families_without_a_word_are_numbers() {
        assert_eq!(family_name(10), Some("inet6"));
        assert_eq!(family_name(99), None);
        assert_eq!(family_from("99"), Some(99));
        assert_eq!(family_from("inet"), Some(2));
    }
}
