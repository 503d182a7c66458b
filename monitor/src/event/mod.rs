//! Events as they are recorded: one JSON object a line, `v` 1. `docs/events.md` describes every
//! field for readers outside.
//!
//! [`Event`] is written by [`Event::write`], made for millions of lines, and read back by
//! [`Event::parse`]; tests hold the two together. Strings that come from a watched process are
//! [`Bytes`], whose text form is lossless.

mod bytes;
mod grant;
mod names;
mod privacy;
mod read;
mod time;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use monitor_common::{
    policy::{Decision, InodeKey},
    record::{Peer, Target, enforced},
};

pub use bytes::{Bytes, Shown, TextError, printable};
pub use grant::{Grant, Person};
pub use names::{Category, Enforced, family_name, protocol_name};
pub use privacy::{Privacy, Veil};
pub use read::{ParseError, Parser};
pub use time::{format_ns as format_time, parse_ns as parse_time};
pub use write::JsonLine;

/// Version of the line format.
pub const VERSION: u32 = 1;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Number in the stream, without gaps except where a `loss` event says so.
    pub seq: u64,
    /// Wall clock, ns since 1970, UTC.
    pub time_ns: u64,
    /// CLOCK_BOOTTIME, ns. Detectors use this alone.
    pub boot_ns: u64,
    /// Server name, empty when the event is about no server.
    pub server: Arc<str>,
    /// Instance, 0 when the event is about none.
    pub instance: u32,
    /// What every event from the kernel (and its alert) carries.
    pub observed: Option<Observed>,
    /// The verdict, unless it is `allow`.
    pub violation: Option<Box<Violation>>,
    /// What happened.
    pub body: Body,
}

/// The circumstances of a kernel event.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Who did it.
    pub process: Process,
    /// Number of the policy that judged.
    pub policy: u32,
    /// Bits of [`monitor_common::record::flags`].
    pub flags: u32,
}

/// A process as it was when it acted.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Thread group.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Start of the thread group leader, CLOCK_BOOTTIME, ns.
    pub start_ns: u64,
    /// Thread group of the real parent.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Task name, padded with NULs.
    pub comm: [u8; 16],
    /// Program and working directory, shared by the events of a process.
    pub image: Arc<Image>,
}

/// The program that a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Executable, empty when not known.
    pub exe: Bytes,
    /// Working directory at exec, empty when not known.
    pub cwd: Bytes,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A new image.
    Exec(Box<Exec>),
    /// A new process.
    Fork {
        /// The child.
        child: Target,
    },
    /// A process ended.
    Exit {
        /// Wait status.
        status: u32,
    },
    /// A file was opened.
    Open {
        /// Bits of [`monitor_common::record::did`].
        access: u32,
        /// The file.
        file: File,
    },
    /// A file was changed.
    Change {
        /// One of [`monitor_common::record::change`].
        op: u8,
        /// The file.
        file: File,
        /// New name or link text, empty where there is none.
        second: Bytes,
    },
    /// A mount.
    Mount {
        /// Where.
        file: File,
        /// What.
        origin: Bytes,
    },
    /// A connect.
    Connect(Contact),
    /// A send without connect.
    Send(Contact),
    /// A bind.
    Bind(Contact),
    /// A listen.
    Listen(Contact),
    /// Contact with an AF_UNIX socket.
    Unix {
        /// The socket's file; an abstract name stands in `path` behind `@`.
        file: File,
    },
    /// A reach into another process.
    Process {
        /// One of [`monitor_common::record::process`].
        op: u8,
        /// The other process.
        target: Target,
        /// Signal or ptrace mode.
        detail: u32,
        /// What a received descriptor is open for, bits of [`monitor_common::record::did`].
        access: u32,
        /// The file, where the reach goes through one.
        file: File,
    },
    /// An io_uring was set up.
    IoUring,
    /// A bpf(2) call.
    Bpf {
        /// Its command.
        command: u32,
    },
    /// A socket was created.
    Socket(Contact),
    /// A user namespace was created.
    Namespace,
    /// A question for a host name.
    Resolve(Box<Resolve>),
    /// A policy came into force or left.
    Policy {
        /// `install` or `retire`.
        action: String,
        /// The policy.
        policy: Box<PolicyText>,
    },
    /// Rights for a while were given or ended; the `policy` events beside it carry what that means
    /// for verdicts.
    Grant {
        /// `give`, `revoke`, `expire`, or `end` with its instance.
        action: String,
        /// Who did it, unless it ended by itself.
        by: Option<Person>,
        /// The grant.
        grant: Box<Grant>,
    },
    /// Something about the agent itself.
    Agent {
        /// One word: `repaired`, `degraded`, `response`, …
        action: String,
        /// What, in words.
        message: String,
    },
    /// Events that are not in the stream.
    Loss(Loss),
    /// What people read.
    Alert(Box<Alert>),
}

impl Body {
    /// The file that the kernel has looked at. The path of a script is the name that was given.
    pub fn file_mut(&mut self) -> Option<&mut File> {
        match self {
            Self::Exec(exec) => exec.interpreter.is_empty().then_some(&mut exec.file),
            Self::Open { file, .. }
            | Self::Change { file, .. }
            | Self::Mount { file, .. }
            | Self::Unix { file }
            | Self::Process { file, .. } => Some(file),
            _ => None,
        }
    }

    /// See [`Body::file_mut`].
    pub fn file(&self) -> Option<&File> {
        match self {
            Self::Exec(exec) => exec.interpreter.is_empty().then_some(&exec.file),
            Self::Open { file, .. }
            | Self::Change { file, .. }
            | Self::Mount { file, .. }
            | Self::Unix { file }
            | Self::Process { file, .. } => Some(file),
            _ => None,
        }
    }
}

/// A file or other named object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Resolved path; empty when there is none or it exceeded the bounds.
    pub path: Bytes,
    /// Of a file of a container: its path on the host, where that is known.
    pub host_path: Bytes,
    /// Identity on every path; all 0 when not known.
    pub inode: InodeKey,
    /// `i_mode`.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Magic number of the file system.
    pub fs_magic: u32,
    /// Mount namespace.
    pub mnt_ns: u32,
    /// Sets by inode label, bits of [`monitor_common::policy::class`].
    pub labels: u32,
    /// Sets from all sources, bits of [`monitor_common::policy::class`].
    pub sets: u32,
}

/// A new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// What was executed. The path of a script is the name that was given; all else about the
    /// file is then its interpreter's.
    pub file: File,
    /// The program that runs in place of a script, empty when there is none.
    pub interpreter: Bytes,
    /// Arguments with argv\[0\].
    pub argv: Vec<Bytes>,
    /// Working directory.
    pub cwd: Bytes,
}

/// A network address that was contacted or used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The address as given.
    pub peer: Peer,
    /// Sets that the address falls in, bits of [`monitor_common::policy::class`].
    pub sets: u32,
    /// Host name, where one is known.
    pub name: Option<String>,
    /// The file of an AF_UNIX socket; an abstract name stands in `path` behind `@`.
    pub file: Option<Box<File>>,
}

/// A question of an instance for a host name, and what the agent answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolve {
    /// Number of the policy in force.
    pub policy: u32,
    /// The name in lower case, without a dot at its end; unusual bytes as `\DDD`.
    pub name: String,
    /// Type of the records asked for: `A`, `AAAA`, `HTTPS`, ….
    pub record: String,
    /// How it was asked: `udp`, `tcp`, or `hosts` when `/etc/hosts` gave the answer.
    pub over: String,
    /// What the answer says: `NOERROR`, `NXDOMAIN`, `REFUSED`, ….
    pub rcode: String,
    /// Names that the name stands for, in the order in which they lead to the addresses.
    pub aliases: Vec<String>,
    /// IPv6, IPv4 as `::ffff:a.b.c.d`.
    pub addresses: Vec<[u8; 16]>,
    /// For how long the answer holds, in seconds; what stood in `/etc/hosts` holds for the run.
    pub ttl: Option<u32>,
    /// Size of the answer that was asked for, 0 when the question went nowhere.
    pub bytes: u32,
}

/// A verdict that is not `allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The verdict as in enforce mode, and what it rests on.
    pub decision: Decision,
    /// Observe mode: the verdict was recorded and not carried out.
    pub observed_only: bool,
    /// What kind of thing was violated.
    pub category: Category,
    /// The rule, where one line of a rule file can be named.
    pub rule: Option<Rule>,
    /// Who carried it out.
    pub enforced: Enforced,
    /// What the kernel did: one of [`monitor_common::record::enforced`].
    pub answered: u8,
}

impl Violation {
    /// Whether the call was refused: what was asked for did not happen.
    pub fn is_refused(&self) -> bool {
        matches!(self.answered, enforced::DENIED | enforced::DENIED_AND_KILLED)
    }

    /// What was done about what an alert tells.
    pub fn outcome(&self, alert: &Alert) -> Outcome {
        let (denied, killed) = match (self.answered, self.enforced) {
            _ if self.observed_only => (false, false),
            // Nobody is killed for a question.
            (enforced::NONE, Enforced::Agent) if alert.event == "resolve" => (true, false),
            (enforced::NONE, Enforced::Agent) => (false, true),
            (enforced::NONE, _) => (false, false),
            (enforced::DENIED, _) => (true, false),
            (enforced::DENIED_AND_KILLED, _) => (true, true),
            _ => (false, true),
        };
        Outcome { denied, killed }
    }
}

/// What was done about a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The call was refused.
    pub denied: bool,
    /// Processes were killed.
    pub killed: bool,
}

/// A line of a rule file.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rule {
    /// Rule file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// The list that the entry stands in, such as `files.deny`.
    pub list: String,
    /// Its text.
    pub text: String,
}

/// Events that are not in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Where: `events`, `violations`, `hooks` or `file`.
    pub ring: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// First and last `seq` of lines that were lost on the way to the file.
    pub range: Option<(u64, u64)>,
}

/// One violation, or a run of identical ones, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Type of the events behind it.
    pub event: String,
    /// The path, address or process it is about.
    pub subject: Bytes,
    /// Why, in one sentence.
    pub why: String,
    /// Violations in this alert: identical ones after the first alert are counted together.
    pub count: u64,
    /// From the server's root to the process that acted.
    pub ancestry: Vec<Ancestor>,
    /// `seq` of the events behind it: the first, and the last when there are several.
    pub evidence: Vec<u64>,
    /// What a detector counted, when one speaks.
    pub finding: Option<Box<Finding>>,
}

/// What a detector counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Finding {
    /// The count at which it speaks.
    pub limit: u64,
    /// Length of the window, ms.
    pub window_ms: u64,
    /// CLOCK_BOOTTIME of the first and of the last event that was counted, ns.
    pub first_ns: u64,
    /// See `first_ns`.
    pub last_ns: u64,
    /// Some of what was counted, oldest first.
    pub samples: Vec<Bytes>,
}

/// A process of an alert's ancestry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Ancestor {
    /// Thread group.
    pub tgid: u32,
    /// Its start, CLOCK_BOOTTIME, ns.
    pub start_ns: u64,
    /// Executable.
    pub exe: Bytes,
    /// First arguments.
    pub argv: Vec<Bytes>,
}

/// A process that was known when a segment began.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Known {
    /// Thread group.
    pub tgid: u32,
    /// Its start, CLOCK_BOOTTIME, ns.
    pub start_ns: u64,
    /// The process that it came from: thread group and start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<(u32, u64)>,
    /// Executable.
    pub exe: Bytes,
    /// Working directory at exec.
    pub cwd: Bytes,
    /// First arguments.
    pub argv: Vec<Bytes>,
    /// It has ended already, and others that it started have not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

/// A policy with the text of everything it was made of, so that a recording replays by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PolicyText {
    /// Number of the policy in the stream.
    pub policy: u32,
    /// Server that it is for.
    pub server: String,
    /// Instance that it is for.
    pub instance: u32,
    /// `observe` or `enforce`.
    pub mode: String,
    /// Rule files, includes and sets.
    pub sources: Vec<SourceText>,
    /// Variables and their values (byte text).
    pub bindings: BTreeMap<String, String>,
    /// [`crate::detect::GENERATION`] of the detectors at work; 0 and left out when there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub detectors: u32,
    /// What else of the machine went into it; missing in recordings that cannot be replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<World>,
}

impl PolicyText {
    /// Whether its verdicts are carried out.
    pub fn is_enforced(&self) -> bool {
        self.mode == "enforce"
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What rules take from the machine they are loaded on, besides their text.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct World {
    /// `${HOME}`.
    pub home: Bytes,
    /// `${USER}`.
    pub user: Bytes,
    /// `${CWD}`.
    pub cwd: Bytes,
    /// `${TMPDIR}`.
    pub tmpdir: Bytes,
    /// Values of the other variables that the rules use, before they were put in.
    pub values: BTreeMap<String, Vec<Bytes>>,
    /// The server's command with its arguments; empty unless arguments are recorded in full.
    pub arguments: Vec<Bytes>,
    /// Homes of the user.
    pub own_homes: Vec<Bytes>,
    /// Homes of others.
    pub other_homes: Vec<Bytes>,
    /// Symbolic links on the way of the rules' patterns, each with its text.
    pub links: BTreeMap<Bytes, Bytes>,
}

/// The text of one rule file, include or set.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceText {
    /// `server`, `include` or `set`.
    pub kind: String,
    /// Name within its kind.
    pub name: String,
    /// Where it was read.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl Contact {
    /// Address and port in the form of the family, `None` for families without them.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let Peer { address, port, family, .. } = self.peer;
        let address = Ipv6Addr::from(address);
        match i32::from(family) {
            libc::AF_INET => {
                let mapped = address.to_ipv4_mapped();
                let address = mapped.unwrap_or(Ipv4Addr::from_bits(address.to_bits() as u32));
                Some((address, port).into())
            }
            libc::AF_INET6 => Some((address, port).into()),
            _ => None,
        }
    }
}

impl Event {
    /// Something that the monitor itself tells, of no server and no process.
    pub fn of_monitor(seq: u64, boot_ns: u64, time_ns: u64, body: Body) -> Self {
        Self {
            seq,
            time_ns,
            boot_ns,
            server: Arc::default(),
            instance: 0,
            observed: None,
            violation: None,
            body,
        }
    }

    /// Number of the policy that it is under, 0 when there is none.
    pub fn policy(&self) -> u32 {
        match (&self.observed, &self.body) {
            (Some(observed), _) => observed.policy,
            (None, Body::Resolve(resolve)) => resolve.policy,
            _ => 0,
        }
    }

    /// Name of the type, as in the line.
    pub fn kind(&self) -> &'static str {
        match &self.body {
            Body::Exec(_) => "exec",
            Body::Fork { .. } => "fork",
            Body::Exit { .. } => "exit",
            Body::Open { .. } => "open",
            Body::Change { .. } => "change",
            Body::Mount { .. } => "mount",
            Body::Connect(_) => "connect",
            Body::Send(_) => "send",
            Body::Bind(_) => "bind",
            Body::Listen(_) => "listen",
            Body::Unix { .. } => "unix",
            Body::Process { .. } => "process",
            Body::IoUring => "io_uring",
            Body::Bpf { .. } => "bpf",
            Body::Socket(_) => "socket",
            Body::Namespace => "namespace",
            Body::Resolve(_) => "resolve",
            Body::Policy { .. } => "policy",
            Body::Grant { .. } => "grant",
            Body::Agent { .. } => "agent",
            Body::Loss(_) => "loss",
            Body::Alert(_) => "alert",
        }
    }

    /// Whether the line is for people.
    pub fn is_alert(&self) -> bool {
        matches!(self.body, Body::Alert(_))
    }
}
