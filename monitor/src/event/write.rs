//! [`Event`] to JSON, straight into a buffer that the caller reuses: no allocation, no
//! intermediate tree. [`super::read`] is the other direction.

use std::net::Ipv6Addr;

use monitor_common::{
    policy::{InodeKey, access, set, verdict},
    record::{Peer, Target, change, did, flags, process},
};

use super::{
    Alert, Body, Contact, Event, Exec, File, Finding, Loss, Observed, Process, Resolve, Rule,
    VERSION, Violation,
    bytes::{Piece, pieces},
    names, time,
};

impl Event {
    /// Appends the event as one JSON object, without a newline.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = JsonLine::begin(out, self.kind());
        line.number("seq", self.seq);
        line.time("time", self.time_ns);
        line.number("boot_ns", self.boot_ns);
        if self.instance != 0 {
            line.text("server", &self.server);
            line.number("instance", self.instance);
        }
        if let Some(observed) = &self.observed {
            line.observed(observed);
        }
        line.body(&self.body);
        if let Some(violation) = &self.violation {
            line.violation(violation);
        }
        line.end();
    }

    /// The event as one JSON object.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// One JSON object being written.
pub struct JsonLine<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> JsonLine<'a> {
    /// Begins a line of a type.
    pub fn begin(out: &'a mut Vec<u8>, kind: &str) -> Self {
        out.push(b'{');
        let mut line = Self { out };
        line.number("v", VERSION);
        line.text("type", kind);
        line
    }

    /// Ends the object.
    pub fn end(self) {
        self.out.push(b'}');
    }

    /// A field with a number.
    pub fn number(&mut self, key: &str, value: impl itoa::Integer) {
        self.key(key);
        self.element(value);
    }

    /// A field with text of our own.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        write_text(self.out, value);
    }

    /// A field with any value that serde can write.
    pub fn value(&mut self, key: &str, value: &impl serde::Serialize) {
        self.key(key);
        serde_json::to_writer(&mut *self.out, value)
            .expect("a Vec takes every write and the types have string keys");
    }

    /// A field with byte text.
    fn bytes(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        write_bytes(self.out, value);
    }

    fn bytes_unless_empty(&mut self, key: &str, value: &[u8]) {
        if !value.is_empty() {
            self.bytes(key, value);
        }
    }

    /// A field with a time, ns since 1970.
    pub fn time(&mut self, key: &str, time_ns: u64) {
        self.key(key);
        self.out.push(b'"');
        time::write_ns(self.out, time_ns);
        self.out.push(b'"');
    }

    /// Names of the bits that are set; nothing when none is.
    fn bits(&mut self, key: &str, bits: u32, names: &[&str]) {
        if bits == 0 {
            return;
        }
        self.list(key, |line| {
            for (bit, name) in names.iter().enumerate() {
                if bits & (1 << bit) != 0 {
                    line.comma();
                    write_text(line.out, name);
                }
            }
        });
    }

    fn list(&mut self, key: &str, fill: impl FnOnce(&mut Self)) {
        self.key(key);
        self.out.push(b'[');
        fill(self);
        self.out.push(b']');
    }

    fn object(&mut self, key: &str, fill: impl FnOnce(&mut Self)) {
        self.key(key);
        self.out.push(b'{');
        fill(self);
        self.out.push(b'}');
    }

    fn element(&mut self, value: impl itoa::Integer) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    #[inline]
    fn key(&mut self, key: &str) {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn observed(&mut self, observed: &Observed) {
        self.number("policy", observed.policy);
        self.object("process", |line| line.process(&observed.process));
        let argument = observed.flags & flags::ARGUMENT != 0;
        self.text("source", if argument { "argument" } else { "kernel" });
        if observed.flags & !flags::ARGUMENT == 0 {
            return;
        }
        for (flag, key) in names::FLAG_FIELDS {
            if observed.flags & flag != 0 {
                self.key(key);
                self.out.extend_from_slice(b"true");
            }
        }
        let listed = names::FLAGS
            .iter()
            .enumerate()
            .filter(|(_, name)| !name.is_empty())
            .fold(0, |bits, (bit, _)| bits | 1 << bit);
        self.bits("flags", observed.flags & listed, &names::FLAGS);
    }

    fn process(&mut self, process: &Process) {
        self.number("tgid", process.tgid);
        self.number("tid", process.tid);
        self.number("start_ns", process.start_ns);
        self.number("ppid", process.ppid);
        self.bytes_unless_empty("exe", process.image.exe.as_bytes());
        let comm = process.comm.split(|&byte| byte == 0).next().unwrap_or(&[]);
        self.bytes("comm", comm);
        self.number("uid", process.uid);
        self.bytes_unless_empty("cwd", process.image.cwd.as_bytes());
        self.number("cgroup", process.cgroup);
    }

    fn body(&mut self, body: &Body) {
        match body {
            Body::Exec(exec) => self.exec(exec),
            Body::Fork { child } => self.target("child", child),
            Body::Exit { status } => self.number("status", *status),
            Body::Open { access, file } => {
                self.file(file);
                self.bits("access", *access, &did::NAMES);
            }
            Body::Change { op, file, second } => {
                self.text("op", change::NAMES[usize::from(*op)]);
                self.file(file);
                self.bytes_unless_empty("second", second.as_bytes());
            }
            Body::Mount { file, origin } => {
                self.file(file);
                self.bytes("origin", origin.as_bytes());
            }
            Body::Connect(contact)
            | Body::Send(contact)
            | Body::Bind(contact)
            | Body::Listen(contact)
            | Body::Socket(contact) => self.contact(contact),
            Body::Unix { file } => self.file(file),
            Body::Process { op, target, detail, access, file } => {
                self.text("op", process::NAMES[usize::from(*op)]);
                if *target != Target::default() {
                    self.target("target", target);
                }
                self.number("detail", *detail);
                self.file(file);
                self.bits("access", *access, &did::NAMES);
            }
            Body::IoUring | Body::Namespace => {}
            Body::Bpf { command } => self.number("command", *command),
            Body::Resolve(resolve) => self.resolve(resolve),
            Body::Policy { action, policy } => {
                self.text("action", action);
                self.value("rules", policy);
            }
            Body::Grant { action, by, grant } => {
                self.text("action", action);
                if let Some(by) = by {
                    self.value("by", by);
                }
                self.value("grant", grant);
            }
            Body::Agent { action, message } => {
                self.text("action", action);
                self.text("message", message);
            }
            Body::Loss(loss) => self.loss(loss),
            Body::Alert(alert) => self.alert(alert),
        }
    }

    fn file(&mut self, file: &File) {
        self.bytes_unless_empty("path", file.path.as_bytes());
        self.bytes_unless_empty("host_path", file.host_path.as_bytes());
        let InodeKey { ino, dev, generation } = file.inode;
        if (ino, dev, generation) != (0, 0, 0) {
            self.key("dev");
            self.out.push(b'"');
            self.element(dev >> 20);
            self.out.push(b':');
            self.element(dev & 0xf_ffff);
            self.out.push(b'"');
            self.number("ino", ino);
            self.number_unless_zero("generation", generation);
        }
        self.number_unless_zero("mode", file.mode);
        self.number_unless_zero("nlink", file.nlink);
        self.number_unless_zero("fs_magic", file.fs_magic);
        self.number_unless_zero("mnt_ns", file.mnt_ns);
        self.bits("labels", file.labels, &names::SETS);
        self.bits("sets", file.sets, &names::SETS);
    }

    fn number_unless_zero(&mut self, key: &str, value: u32) {
        if value != 0 {
            self.number(key, value);
        }
    }

    fn exec(&mut self, exec: &Exec) {
        self.file(&exec.file);
        self.list("argv", |line| {
            for argument in &exec.argv {
                line.comma();
                write_bytes(line.out, argument.as_bytes());
            }
        });
        self.bytes_unless_empty("interpreter", exec.interpreter.as_bytes());
        self.bytes_unless_empty("cwd", exec.cwd.as_bytes());
    }

    fn target(&mut self, key: &str, target: &Target) {
        self.object(key, |line| {
            line.number("tgid", target.tgid);
            line.number("start_ns", target.start_ns);
            if target.instance != 0 {
                line.number("instance", target.instance);
            }
        });
    }

    fn contact(&mut self, contact: &Contact) {
        let Peer { family, socket_type, protocol, .. } = contact.peer;
        if let Some(address) = contact.socket_address() {
            self.text("address", &address.ip().to_string());
            self.number("port", address.port());
        }
        self.word("family", family, names::family_name(family));
        self.word("protocol", protocol, names::protocol_name(protocol));
        if socket_type != 0 {
            self.word("socket_type", socket_type, names::socket_type_name(socket_type));
        }
        if let Some(name) = &contact.name {
            self.text("name", name);
        }
        match &contact.file {
            Some(file) => self.file(file),
            None => self.bits("sets", contact.sets, &names::SETS),
        }
    }

    fn resolve(&mut self, resolve: &Resolve) {
        self.number("policy", resolve.policy);
        self.text("name", &resolve.name);
        self.text("record", &resolve.record);
        self.text("over", &resolve.over);
        self.text("rcode", &resolve.rcode);
        if !resolve.aliases.is_empty() {
            self.value("aliases", &resolve.aliases);
        }
        self.list("addresses", |line| {
            for address in &resolve.addresses {
                line.comma();
                write_text(line.out, &Ipv6Addr::from(*address).to_canonical().to_string());
            }
        });
        if let Some(ttl) = resolve.ttl {
            self.number("ttl", ttl);
        }
        self.number("bytes", resolve.bytes);
    }

    fn word(&mut self, key: &str, number: u16, name: Option<&'static str>) {
        match name {
            Some(name) => self.text(key, name),
            None => self.text(key, itoa::Buffer::new().format(number)),
        }
    }

    fn violation(&mut self, violation: &Violation) {
        let decided = verdict::NAMES[usize::from(violation.decision.verdict)];
        if violation.observed_only {
            self.text("verdict", verdict::NAMES[usize::from(verdict::ALERT)]);
            self.text("would_be", decided);
        } else {
            self.text("verdict", decided);
        }
        self.text("category", violation.category.name());
        self.bits("judged", u32::from(violation.decision.access), &access::NAMES);
        self.text("reason", names::REASONS[usize::from(violation.decision.reason)]);
        if violation.decision.reason == monitor_common::policy::reason::SET {
            self.text("set", set::NAMES[usize::from(violation.decision.set)]);
        }
        if let Some(Rule { file, line, list, text }) = &violation.rule {
            self.object("rule", |object| {
                object.text("file", file);
                object.number("line", *line);
                object.text("list", list);
                object.text("text", text);
            });
        }
        self.text("enforced", violation.enforced.name());
        if violation.answered != 0 {
            self.text("answered", names::ANSWERED[usize::from(violation.answered)]);
        }
    }

    fn loss(&mut self, loss: &Loss) {
        self.text("ring", &loss.ring);
        self.text("reason", &loss.reason);
        self.number("count", loss.count);
        if let Some((first, last)) = loss.range {
            self.number("first_seq", first);
            self.number("last_seq", last);
        }
    }

    fn alert(&mut self, alert: &Alert) {
        self.text("event", &alert.event);
        self.bytes("subject", alert.subject.as_bytes());
        self.text("why", &alert.why);
        self.number("count", alert.count);
        self.list("ancestry", |line| {
            for ancestor in &alert.ancestry {
                line.comma();
                line.out.push(b'{');
                line.number("tgid", ancestor.tgid);
                line.number("start_ns", ancestor.start_ns);
                line.bytes("exe", ancestor.exe.as_bytes());
                line.list("argv", |line| {
                    for argument in &ancestor.argv {
                        line.comma();
                        write_bytes(line.out, argument.as_bytes());
                    }
                });
                line.out.push(b'}');
            }
        });
        self.list("evidence", |line| {
            for &seq in &alert.evidence {
                line.comma();
                line.element(seq);
            }
        });
        if let Some(finding) = &alert.finding {
            self.object("finding", |line| line.finding(finding));
        }
    }

    fn finding(&mut self, finding: &Finding) {
        self.number("limit", finding.limit);
        self.number("window_ms", finding.window_ms);
        self.number("first_ns", finding.first_ns);
        self.number("last_ns", finding.last_ns);
        self.list("samples", |line| {
            for sample in &finding.samples {
                line.comma();
                write_bytes(line.out, sample.as_bytes());
            }
        });
    }
}

fn plain(bytes: &[u8]) -> bool {
    let special = bytes.iter().fold(false, |special, &byte| {
        special | !(0x20..0x7f).contains(&byte) | (byte == b'"') | (byte == b'\\')
    });
    !special
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    if plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        for piece in pieces(bytes) {
            match piece {
                Piece::Text(text) => write_escaped(out, text),
                Piece::Backslash => out.extend_from_slice(br"\\\\"),
                Piece::Byte(byte) => {
                    out.extend_from_slice(br"\\x");
                    out.extend(hex(byte));
                }
            }
        }
    }
    out.push(b'"');
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        write_escaped(out, text);
    }
    out.push(b'"');
}

/// JSON's own escapes. DEL is escaped too, so that no control byte reaches a terminal raw.
fn write_escaped(out: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 | 0x7f => {
                out.extend_from_slice(br"\u00");
                out.extend(hex(byte));
            }
            _ => out.push(byte),
        }
    }
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}
