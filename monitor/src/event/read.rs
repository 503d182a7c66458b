//! JSON lines back to [`Event`]s, for replay and everything that reads recordings. One flat
//! struct takes the fields of every type in one pass; then the type picks what it needs. Fields
//! that are not known are skipped, so that a newer writer may add some.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use monitor_common::{
    network,
    policy::{Decision, InodeKey, access, detector, reason, set, verdict},
    record::{Peer, Target, change, did, flags, process},
};
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use super::{
    Alert, Ancestor, Body, Bytes, Category, Contact, Enforced, Event, Exec, File, Finding, Grant,
    Image, Loss, Observed, Person, PolicyText, Process, Resolve, Rule, VERSION, Violation, names,
    time,
};

/// Why a line is not an event.
#[derive(Debug, Error)]
pub enum ParseError {
    /// Not the JSON of an event.
    #[error("not an event line: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a version with another format.
    #[error("event line of format {0}, this version reads {VERSION}")]
    Version(u32),
    /// A type that this version does not know, or a `header`.
    #[error("event line of unknown type {0:?}")]
    Type(String),
    /// A field that the type needs is missing.
    #[error("{kind} event without {field}")]
    Missing {
        /// The event's type.
        kind: String,
        /// The field.
        field: &'static str,
    },
    /// A field whose value has no meaning.
    #[error("event with {field} {value:?}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// Text borrowed from the line where JSON allows it.
#[derive(Debug, Default)]
pub struct StringOr<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for StringOr<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = StringOr<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(StringOr(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(StringOr(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

type Text<'a> = Option<StringOr<'a>>;

#[derive(Deserialize)]
struct Line<'a> {
    v: u32,
    #[serde(borrow, rename = "type")]
    kind: StringOr<'a>,
    seq: u64,
    #[serde(borrow)]
    time: StringOr<'a>,
    boot_ns: u64,
    #[serde(borrow, default)]
    server: StringOr<'a>,
    #[serde(default)]
    instance: u32,
    policy: Option<u32>,
    #[serde(borrow)]
    process: Option<ProcessLine<'a>>,
    #[serde(borrow)]
    source: Text<'a>,
    #[serde(default)]
    truncated: bool,
    #[serde(default)]
    fileless: bool,
    #[serde(borrow, default)]
    flags: Vec<StringOr<'a>>,
    path: Option<Bytes>,
    host_path: Option<Bytes>,
    #[serde(borrow)]
    dev: Text<'a>,
    #[serde(default)]
    ino: u64,
    #[serde(default)]
    generation: u32,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    nlink: u32,
    #[serde(default)]
    fs_magic: u32,
    #[serde(default)]
    mnt_ns: u32,
    #[serde(borrow, default)]
    labels: Vec<StringOr<'a>>,
    #[serde(borrow, default)]
    sets: Vec<StringOr<'a>>,
    #[serde(borrow, default)]
    access: Vec<StringOr<'a>>,
    #[serde(borrow)]
    op: Text<'a>,
    second: Option<Bytes>,
    origin: Option<Bytes>,
    argv: Option<Vec<Bytes>>,
    interpreter: Option<Bytes>,
    cwd: Option<Bytes>,
    child: Option<TargetLine>,
    target: Option<TargetLine>,
    status: Option<u32>,
    detail: Option<u32>,
    command: Option<u32>,
    #[serde(borrow)]
    address: Text<'a>,
    #[serde(default)]
    port: u16,
    #[serde(borrow)]
    family: Text<'a>,
    #[serde(borrow)]
    protocol: Text<'a>,
    #[serde(borrow)]
    socket_type: Text<'a>,
    name: Option<String>,
    record: Option<String>,
    over: Option<String>,
    rcode: Option<String>,
    aliases: Option<Vec<String>>,
    #[serde(borrow)]
    addresses: Option<Vec<StringOr<'a>>>,
    ttl: Option<u32>,
    bytes: Option<u32>,
    #[serde(borrow)]
    verdict: Text<'a>,
    #[serde(borrow)]
    would_be: Text<'a>,
    #[serde(borrow)]
    category: Text<'a>,
    #[serde(borrow, default)]
    judged: Vec<StringOr<'a>>,
    #[serde(borrow)]
    reason: Text<'a>,
    #[serde(borrow)]
    set: Text<'a>,
    rule: Option<Rule>,
    #[serde(borrow)]
    enforced: Text<'a>,
    #[serde(borrow)]
    answered: Text<'a>,
    action: Option<String>,
    message: Option<String>,
    rules: Option<Box<PolicyText>>,
    by: Option<Person>,
    grant: Option<Box<Grant>>,
    ring: Option<String>,
    count: Option<u64>,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    event: Option<String>,
    subject: Option<Bytes>,
    why: Option<String>,
    ancestry: Option<Vec<Ancestor>>,
    evidence: Option<Vec<u64>>,
    finding: Option<Box<Finding>>,
}

#[derive(Deserialize)]
struct ProcessLine<'a> {
    tgid: u32,
    tid: u32,
    start_ns: u64,
    ppid: u32,
    #[serde(borrow, default)]
    exe: StringOr<'a>,
    #[serde(borrow)]
    comm: StringOr<'a>,
    uid: u32,
    #[serde(borrow, default)]
    cwd: StringOr<'a>,
    cgroup: u64,
}

#[derive(Deserialize)]
struct TargetLine {
    tgid: u32,
    start_ns: u64,
    #[serde(default)]
    instance: u32,
}

impl From<TargetLine> for Target {
    fn from(line: TargetLine) -> Self {
        Self { start_ns: line.start_ns, tgid: line.tgid, instance: line.instance }
    }
}

impl Event {
    /// The event of one line. A `chain` field, and fields that are not known, are skipped.
    pub fn parse(line: &[u8]) -> Result<Self, ParseError> {
        Parser::default().event(line)
    }
}

/// Reads many lines: what most of them have in common is held in memory once.
#[derive(Default)]
pub struct Parser {
    server: Arc<str>,
    image: Arc<Image>,
}

impl Parser {
    /// The event of one line, see [`Event::parse`].
    ///
    /// # Errors
    /// When it is none.
    pub fn event(&mut self, line: &[u8]) -> Result<Event, ParseError> {
        // To look once whether it is UTF-8 is cheaper than once for each text; if it is not, serde
        // says where.
        let mut line: Line<'_> = match std::str::from_utf8(line) {
            Ok(line) => serde_json::from_str(line)?,
            Err(_) => serde_json::from_slice(line)?,
        };
        if line.v != VERSION {
            return Err(ParseError::Version(line.v));
        }
        let time_ns = time::parse_ns(&line.time.0).ok_or_else(|| value("time", &line.time))?;
        if *self.server != *line.server.0 {
            self.server = Arc::from(&*line.server.0);
        }
        Ok(Event {
            seq: line.seq,
            time_ns,
            boot_ns: line.boot_ns,
            server: self.server.clone(),
            instance: line.instance,
            observed: line.observed(self)?,
            violation: line.violation()?.map(Box::new),
            body: line.body()?,
        })
    }

    fn image(&mut self, exe: &StringOr<'_>, cwd: &StringOr<'_>) -> Result<Arc<Image>, ParseError> {
        let same = |text: &StringOr<'_>, bytes: &Bytes| {
            !text.0.contains('\\') && text.0.as_bytes() == bytes.as_bytes()
        };
        if !(same(exe, &self.image.exe) && same(cwd, &self.image.cwd)) {
            let image = Image { exe: bytes("exe", exe)?, cwd: bytes("cwd", cwd)? };
            self.image = Arc::new(image);
        }
        Ok(self.image.clone())
    }
}

impl Line<'_> {
    fn missing(&self, field: &'static str) -> ParseError {
        ParseError::Missing { kind: self.kind.0.to_string(), field }
    }

    fn need<T>(&self, value: Option<T>, field: &'static str) -> Result<T, ParseError> {
        value.ok_or_else(|| self.missing(field))
    }

    fn observed(&mut self, parser: &mut Parser) -> Result<Option<Observed>, ParseError> {
        let Some(process) = self.process.take() else { return Ok(None) };
        let mut comm = [0; 16];
        let name = bytes("comm", &process.comm)?;
        let room = comm.get_mut(..name.as_bytes().len());
        room.ok_or_else(|| value("comm", &process.comm))?.copy_from_slice(name.as_bytes());
        let mut bits = bits("flags", &self.flags, &names::FLAGS)?;
        bits |= if self.truncated { flags::TRUNCATED } else { 0 };
        bits |= if self.fileless { flags::FILELESS } else { 0 };
        bits |= match self.source.as_ref().map(|text| &*text.0) {
            Some("argument") => flags::ARGUMENT,
            _ => 0,
        };
        let process = Process {
            tgid: process.tgid,
            tid: process.tid,
            start_ns: process.start_ns,
            ppid: process.ppid,
            uid: process.uid,
            cgroup: process.cgroup,
            comm,
            image: parser.image(&process.exe, &process.cwd)?,
        };
        Ok(Some(Observed { process, policy: self.need(self.policy, "policy")?, flags: bits }))
    }

    fn violation(&mut self) -> Result<Option<Violation>, ParseError> {
        let Some(said) = &self.verdict else { return Ok(None) };
        let decided = self.would_be.as_ref().unwrap_or(said);
        let access = bits("judged", &self.judged, &access::NAMES)?;
        let stated = self.reason.as_ref().ok_or_else(|| self.missing("reason"))?;
        let reason = position("reason", stated, &names::REASONS)?;
        let category = self.category.as_ref().ok_or_else(|| self.missing("category"))?;
        let set = match &self.set {
            Some(set) => position("set", set, &set::NAMES)?,
            None if reason == reason::DETECTOR => position("category", category, &detector::NAMES)?,
            None => 0,
        };
        let decision = Decision {
            verdict: position("verdict", decided, &verdict::NAMES)?,
            reason,
            set,
            access: access as u8,
        };
        let enforced = self.enforced.as_ref().ok_or_else(|| self.missing("enforced"))?;
        Ok(Some(Violation {
            decision,
            observed_only: self.would_be.is_some(),
            category: Category::from_name(&category.0)
                .ok_or_else(|| value("category", category))?,
            enforced: Enforced::from_name(&enforced.0)
                .ok_or_else(|| value("enforced", enforced))?,
            answered: match &self.answered {
                Some(answered) => position("answered", answered, &names::ANSWERED)?,
                None => 0,
            },
            rule: self.rule.take(),
        }))
    }

    fn body(&mut self) -> Result<Body, ParseError> {
        Ok(match &*self.kind.0 {
            "exec" => Body::Exec(Box::new(self.exec()?)),
            "fork" => {
                let child = self.child.take();
                Body::Fork { child: self.need(child, "child")?.into() }
            }
            "exit" => Body::Exit { status: self.need(self.status, "status")? },
            "open" => Body::Open {
                access: bits("access", &self.access, &did::NAMES)?,
                file: self.file()?,
            },
            "change" => Body::Change {
                op: self.op(&change::NAMES)?,
                file: self.file()?,
                second: self.second.take().unwrap_or_default(),
            },
            "mount" => {
                Body::Mount { file: self.file()?, origin: self.origin.take().unwrap_or_default() }
            }
            "connect" => Body::Connect(self.contact()?),
            "send" => Body::Send(self.contact()?),
            "bind" => Body::Bind(self.contact()?),
            "listen" => Body::Listen(self.contact()?),
            "socket" => Body::Socket(self.contact()?),
            "unix" => Body::Unix { file: self.file()? },
            "process" => Body::Process {
                op: self.op(&process::NAMES)?,
                target: self.target.take().map(Target::from).unwrap_or_default(),
                detail: self.need(self.detail, "detail")?,
                access: bits("access", &self.access, &did::NAMES)?,
                file: self.file()?,
            },
            "io_uring" => Body::IoUring,
            "namespace" => Body::Namespace,
            "bpf" => Body::Bpf { command: self.need(self.command, "command")? },
            "resolve" => Body::Resolve(Box::new(self.resolve()?)),
            "policy" | "grant" | "agent" | "loss" | "alert" => self.own()?,
            other => return Err(ParseError::Type(other.to_owned())),
        })
    }

    /// Bodies of events that do not come from the kernel.
    fn own(&mut self) -> Result<Body, ParseError> {
        let (action, message) = (self.action.take(), self.message.take());
        let (rules, grant) = (self.rules.take(), self.grant.take());
        Ok(match &*self.kind.0 {
            "policy" => Body::Policy {
                action: self.need(action, "action")?,
                policy: self.need(rules, "rules")?,
            },
            "grant" => Body::Grant {
                action: self.need(action, "action")?,
                by: self.by.take(),
                grant: self.need(grant, "grant")?,
            },
            "agent" => Body::Agent {
                action: self.need(action, "action")?,
                message: self.need(message, "message")?,
            },
            "loss" => Body::Loss(self.loss()?),
            _ => Body::Alert(Box::new(self.alert()?)),
        })
    }

    fn op(&self, names: &[&str]) -> Result<u8, ParseError> {
        position("op", self.op.as_ref().ok_or_else(|| self.missing("op"))?, names)
    }

    fn exec(&mut self) -> Result<Exec, ParseError> {
        let argv = self.argv.take();
        Ok(Exec {
            file: self.file()?,
            interpreter: self.interpreter.take().unwrap_or_default(),
            argv: self.need(argv, "argv")?,
            cwd: self.cwd.take().unwrap_or_default(),
        })
    }

    fn file(&mut self) -> Result<File, ParseError> {
        Ok(File {
            path: self.path.take().unwrap_or_default(),
            host_path: self.host_path.take().unwrap_or_default(),
            inode: InodeKey { ino: self.ino, dev: self.device()?, generation: self.generation },
            mode: self.mode,
            nlink: self.nlink,
            fs_magic: self.fs_magic,
            mnt_ns: self.mnt_ns,
            labels: bits("labels", &self.labels, &names::SETS)?,
            sets: bits("sets", &self.sets, &names::SETS)?,
        })
    }

    fn device(&self) -> Result<u32, ParseError> {
        let Some(text) = &self.dev else { return Ok(0) };
        let parse = || {
            let (major, minor) = text.0.split_once(':')?;
            let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
            (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
        };
        parse().ok_or_else(|| value("dev", text))
    }

    fn contact(&mut self) -> Result<Contact, ParseError> {
        let number = |field, text: &Text<'_>, from: fn(&str) -> Option<u16>| match text {
            Some(text) => from(&text.0).ok_or_else(|| value(field, text)),
            None => Ok(0),
        };
        let address = self.address.as_ref().map_or(Ok([0; 16]), |text| address("address", text))?;
        let family = number("family", &self.family, names::family_from)?;
        let file = match i32::from(family) {
            libc::AF_UNIX => Some(Box::new(self.file()?)),
            _ => None,
        };
        Ok(Contact {
            peer: Peer {
                address,
                port: self.port,
                family,
                socket_type: number("socket_type", &self.socket_type, names::socket_type_from)?,
                protocol: number("protocol", &self.protocol, names::protocol_from)?,
            },
            sets: bits("sets", &self.sets, &names::SETS)?,
            name: self.name.take(),
            file,
        })
    }

    fn resolve(&mut self) -> Result<Resolve, ParseError> {
        let (name, record, over) = (self.name.take(), self.record.take(), self.over.take());
        let (rcode, aliases) = (self.rcode.take(), self.aliases.take());
        let texts = self.addresses.take().unwrap_or_default();
        let addresses = texts.iter().map(|text| address("addresses", text));
        Ok(Resolve {
            policy: self.need(self.policy, "policy")?,
            name: self.need(name, "name")?,
            record: self.need(record, "record")?,
            over: self.need(over, "over")?,
            rcode: self.need(rcode, "rcode")?,
            aliases: aliases.unwrap_or_default(),
            addresses: addresses.collect::<Result<_, _>>()?,
            ttl: self.ttl,
            bytes: self.need(self.bytes, "bytes")?,
        })
    }

    fn loss(&mut self) -> Result<Loss, ParseError> {
        let (ring, reason) = (self.ring.take(), self.reason.take());
        Ok(Loss {
            ring: self.need(ring, "ring")?,
            reason: self.need(reason, "reason")?.0.into_owned(),
            count: self.need(self.count, "count")?,
            range: self.first_seq.zip(self.last_seq),
        })
    }

    fn alert(&mut self) -> Result<Alert, ParseError> {
        let (event, subject, why) = (self.event.take(), self.subject.take(), self.why.take());
        let (ancestry, evidence) = (self.ancestry.take(), self.evidence.take());
        Ok(Alert {
            event: self.need(event, "event")?,
            subject: self.need(subject, "subject")?,
            why: self.need(why, "why")?,
            count: self.need(self.count, "count")?,
            ancestry: self.need(ancestry, "ancestry")?,
            evidence: self.need(evidence, "evidence")?,
            finding: self.finding.take(),
        })
    }
}

fn bytes(field: &'static str, text: &StringOr<'_>) -> Result<Bytes, ParseError> {
    Bytes::from_text(&text.0).map_err(|_| value(field, text))
}

fn address(field: &'static str, text: &StringOr<'_>) -> Result<[u8; 16], ParseError> {
    Ok(match text.0.parse::<IpAddr>().map_err(|_| value(field, text))? {
        IpAddr::V4(address) => network::mapped_v4(address.to_bits()),
        IpAddr::V6(address) => address.octets(),
    })
}

fn value(field: &'static str, text: &StringOr<'_>) -> ParseError {
    ParseError::Value { field, value: text.0.to_string() }
}

fn position(field: &'static str, text: &StringOr<'_>, names: &[&str]) -> Result<u8, ParseError> {
    names
        .iter()
        .position(|name| *name == text.0 && !name.is_empty())
        .map(|number| number as u8)
        .ok_or_else(|| value(field, text))
}

fn bits(field: &'static str, list: &[StringOr<'_>], names: &[&str]) -> Result<u32, ParseError> {
    list.iter().try_fold(0, |bits, text| Ok(bits | 1 << position(field, text, names)?))
}
