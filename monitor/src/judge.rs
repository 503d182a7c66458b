//! The verdict on an event, reached in userspace as the kernel programs reach it: the same tables
//! and the same precedence over what the event holds. Replay judges recorded events by it, and the
//! rule behind every verdict is found by it, live and in replay.
//!
//! | what | judged as |
//! | --- | --- |
//! | `open`, a received descriptor | path and labels; procfs files of others also as `processes` |
//! | `change` | each path that is changed, as a write |
//! | `exec` | the file that runs, where the backend judged it by this event, and its arguments |
//! | `mount` | a write to the place, and `escape` |
//! | addresses | the address table, and the host that the address was known to belong to |
//! | `resolve` | the rules that name hosts, and where the name led |
//! | AF_UNIX | path or abstract name of the peer |
//! | ptrace, signals | `processes`, when the other is outside the instance |
//! | `bpf`, `namespace` | `escape` |

use std::sync::Arc;

use monitor_common::{
    file::{PIPEFS_MAGIC, PROC_SUPER_MAGIC},
    network::protocol,
    policy::{Decision, access, beyond_bound, class, decide, reason, set, stronger, verdict},
    record::{Peer, Target, change, did, flags, process},
};

use crate::{
    detect::Limits,
    event::{Body, Bytes, Contact, Event, Exec, File, Observed, Rule, Veil},
    rules::{Compiled, Subject},
};

/// What is judged together: one object of an event, and what is asked of it.
pub struct Case<'a> {
    /// Its path; of what has none only the classes count.
    pub path: Option<&'a [u8]>,
    /// Bits of [`class`] that do not come from the path: labels, sets by kind.
    pub classes: u32,
    /// Bits of [`access`].
    pub asked: u8,
}

/// What an event asks of paths and of other processes; addresses and programs aside.
pub fn cases_of(event: &Event) -> impl Iterator<Item = Case<'_>> {
    let cases = event.observed.as_ref().map(|observed| cases(event, observed));
    cases.into_iter().flatten().flatten().filter(|case| case.asked != 0)
}

/// The verdict on an event under a policy, as in enforce mode.
pub fn judge(event: &Event, rules: &Compiled) -> Decision {
    if let Body::Resolve(resolve) = &event.body {
        return rules.judge_name(&resolve.name, &resolve.addresses).decision;
    }
    let Some(observed) = &event.observed else { return Decision::default() };
    let decision = match &event.body {
        Body::Connect(contact) | Body::Send(contact) => peer(contact, access::CONNECT, rules),
        Body::Listen(contact) if contact.file.is_none() => peer(contact, access::LISTEN, rules),
        Body::Socket(_) => decide(&rules.policy, 0, access::CONNECT),
        Body::Exec(exec) => executed(exec, observed.flags, rules),
        _ => cases(event, observed)
            .into_iter()
            .flatten()
            .fold(Decision::default(), |so_far, case| {
                stronger(so_far, case.decide(observed.flags, rules))
            }),
    };
    allow_launch(event, observed, decision)
}

/// The verdict on an exec that took effect, had it not been judged before: of the file that runs
/// and, of a script, of the script too.
pub fn judge_exec(event: &Event, rules: &Compiled) -> Decision {
    let (Some(observed), Body::Exec(exec)) = (&event.observed, &event.body) else {
        return Decision::default();
    };
    let script = (!exec.interpreter.is_empty()).then(|| (exec.file.path.as_bytes(), 0));
    let files = [Some((program(exec), named(exec, observed.flags, rules))), script];
    let decision =
        files.into_iter().flatten().fold(Decision::default(), |so_far, (path, named)| {
            stronger(so_far, program_case(exec, path, named).decide(observed.flags, rules))
        });
    allow_launch(event, observed, decision)
}

fn program_case<'a>(exec: &'a Exec, path: &'a [u8], named: u32) -> Case<'a> {
    Case { path: Some(path), classes: exec.file.labels | named, asked: access::EXEC }
}

/// The verdict on an exec as the backend came to it: the file before it took effect or by this
/// event, and the arguments by this event.
fn executed(exec: &Exec, seen: u32, rules: &Compiled) -> Decision {
    let path = program(exec);
    if seen & flags::CHECK != 0 {
        let named = if seen & flags::NAMED_ARGUMENTS != 0 { class::NAMED } else { 0 };
        return program_case(exec, path, named).decide(seen, rules);
    }
    let case = program_case(exec, path, named(exec, seen, rules));
    let judged_before = seen & flags::AFTER == 0;
    let bound = seen & (flags::TRUNCATED | flags::FOREIGN) != 0;
    let needs_named =
        || rules.classify_path(path) & class::ARGUMENTS != 0 && case.classes & class::NAMED == 0;
    if judged_before && (bound || !needs_named()) {
        return Decision::default();
    }
    case.decide(seen, rules)
}

/// [`class::NAMED`] if the rules name these arguments of the program. Where the recording holds
/// them in another form, or not at all, the kernel's word stands.
fn named(exec: &Exec, seen: u32, rules: &Compiled) -> u32 {
    let known = exec.argv.split_first().filter(|_| !exec.argv.iter().all(Veil::is_hashed));
    let is_named = match known {
        _ if seen & (flags::ARGV_TRUNCATED | flags::UNREADABLE) != 0 => false,
        Some((_, rest)) => rules.names_arguments(program(exec), rest.iter().map(Bytes::as_bytes)),
        None => seen & flags::NAMED_ARGUMENTS != 0,
    };
    if is_named { class::NAMED } else { 0 }
}

/// The command that the person launched needs no rule of its own. It is the first that its process
/// executes, so that the process has run nothing before.
fn allow_launch(event: &Event, observed: &Observed, decision: Decision) -> Decision {
    let launched = matches!(event.body, Body::Exec(_)) && observed.process.image.exe.is_empty();
    if launched && matches!(decision.reason, reason::UNLISTED | reason::ARGUMENTS) {
        return Decision { verdict: verdict::ALLOW, reason: reason::LAUNCH, ..decision };
    }
    decision
}

fn cases<'a>(event: &'a Event, observed: &Observed) -> [Option<Case<'a>>; 2] {
    let one = |case| [Some(case), None];
    let file_case = |file: &'a File, classes, asked| Case {
        path: (!is_pathless(file, observed)).then(|| file.path.as_bytes()),
        classes: file.labels | classes,
        asked,
    };
    match &event.body {
        Body::Open { access, file } => one(opened(file, *access, observed)),
        Body::Process { op, access, file, .. } if *op == process::DESCRIPTOR => {
            one(opened(file, *access, observed))
        }
        Body::Process { target, .. } if is_outside(target, event) => one(by_set(set::PROCESSES)),
        Body::Bpf { .. } | Body::Namespace => one(by_set(set::ESCAPE)),
        Body::Change { op, file, second } => {
            let first = file_case(file, 0, access::WRITE);
            let second = matches!(*op, change::RENAME | change::LINK).then(|| Case {
                path: Some(second.as_bytes()),
                ..file_case(file, 0, access::WRITE)
            });
            [Some(first), second]
        }
        Body::Mount { file, .. } => {
            let escape = class::of_set(set::ESCAPE);
            if observed.flags & flags::ARGUMENT == 0 {
                return one(file_case(file, escape, access::WRITE));
            }
            let by_kind = Case { path: None, classes: escape, asked: access::WRITE };
            [Some(file_case(file, 0, access::WRITE)), Some(by_kind)]
        }
        Body::Unix { file } if !is_unnamed(file, observed) => one(file_case(file, 0, access::UNIX)),
        Body::Listen(Contact { file: Some(file), .. }) if !is_unnamed(file, observed) => {
            one(file_case(file, 0, access::LISTEN))
        }
        _ => [None, None],
    }
}

/// A file that was opened. Of O_PATH descriptors and of what has no name nothing is asked.
fn opened<'a>(file: &'a File, did: u32, observed: &Observed) -> Case<'a> {
    let wanted = (did & (did::READ | did::WRITE)) as u8
        | if did & did::TRUNCATE != 0 { access::WRITE } else { 0 };
    let is_nameless = observed.flags & flags::DETACHED != 0
        && observed.flags & flags::DIRECTORY == 0
        && file.path.as_bytes() == b"/";
    let asked = match wanted {
        _ if did & did::PATH != 0 || is_nameless => 0,
        0 => access::READ,
        wanted => wanted,
    };
    let of_other = file.sets & class::of_set(set::PROCESSES);
    if file.fs_magic == PIPEFS_MAGIC && of_other != 0 {
        // A pipe of a process that has not handed it over.
        let asked = if wanted == 0 { access::READ } else { wanted };
        return Case { path: None, classes: of_other | class::READ | class::WRITE, asked };
    }
    if is_pathless(file, observed) {
        // Behind a stacked file system, whose own file has been judged by its path.
        return Case { path: None, classes: file.labels | class::READ | class::WRITE, asked };
    }
    let of_other = match file.fs_magic {
        PROC_SUPER_MAGIC => of_other | file.sets & class::of_set(set::SENSITIVE),
        _ => 0,
    };
    Case { path: Some(file.path.as_bytes()), classes: file.labels | of_other, asked }
}

/// No path was looked for, which is something else than one that exceeds the bounds.
fn is_pathless(file: &File, observed: &Observed) -> bool {
    file.path.is_empty() && observed.flags & (flags::TRUNCATED | flags::FOREIGN) == 0
}

/// A socket of the tree itself, or one that was handed over.
fn is_unnamed(file: &File, observed: &Observed) -> bool {
    is_pathless(file, observed)
}

/// What no rule can allow, judged by a set alone.
fn by_set(set: usize) -> Case<'static> {
    let classes = class::of_set(set) | class::READ | class::WRITE;
    Case { path: None, classes, asked: access::WRITE }
}

fn is_outside(target: &Target, event: &Event) -> bool {
    *target != Target::default() && target.instance != event.instance
}

/// The file that an exec runs: of a script its interpreter.
fn program(exec: &Exec) -> &[u8] {
    let Exec { file, interpreter, .. } = exec;
    if interpreter.is_empty() { file.path.as_bytes() } else { interpreter.as_bytes() }
}

impl Case<'_> {
    fn decide(&self, seen: u32, rules: &Compiled) -> Decision {
        let Self { path, classes, asked } = *self;
        let Some(path) = path.filter(|_| asked != 0) else {
            return decide(&rules.policy, classes, asked);
        };
        let beyond = seen & flags::FOREIGN != 0 || seen & flags::TRUNCATED != 0 && path.is_empty();
        if !beyond {
            return decide(&rules.policy, rules.classify_path(path) | classes, asked);
        }
        // What its inode is known for says more than that its path says nothing.
        let (by_label, bound) = (decide(&rules.policy, classes, asked), beyond_bound(asked));
        let says_more = by_label.reason == reason::SET && by_label.verdict >= bound.verdict;
        if says_more { by_label } else { bound }
    }
}

fn peer(contact: &Contact, asked: u8, rules: &Compiled) -> Decision {
    let Peer { address, port, family, .. } = contact.peer;
    let classes = match i32::from(family) {
        libc::AF_INET | libc::AF_INET6 if asked == access::LISTEN => {
            rules.classify_local(address, port, protocol::of(&contact.peer))
        }
        libc::AF_INET | libc::AF_INET6 => {
            let protocol = protocol::of(&contact.peer);
            let host = contact.name.as_deref();
            let by_name = host.map(|name| rules.classify_host(name, address, port, protocol));
            rules.classify_address(address, port, protocol) | by_name.unwrap_or(0)
        }
        _ => 0,
    };
    decide(&rules.policy, classes, asked)
}

/// A policy that can name the rule behind a verdict.
pub trait Explain: Send + Sync {
    /// The rule that decided about `subject`.
    fn blame(&self, subject: Subject<'_>, decision: Decision) -> Option<Rule>;

    /// The limits of its detectors, when it has any.
    fn limits(&self) -> Option<Arc<Limits>>;

    /// Whether a path is one of the runtime's own.
    fn is_runtime(&self, path: &[u8]) -> bool;
    /// Bits of [`class`] that an address falls in because it belongs to the host `name`.
    fn classify_host(&self, name: &str, address: [u8; 16], port: u16, protocol: u8) -> u32;
}

impl Explain for Compiled {
    fn blame(&self, subject: Subject<'_>, decision: Decision) -> Option<Rule> {
        let any = u32::MAX;
        Compiled::blame(self, subject, any, decision).map(|rule| Rule {
            file: rule.file,
            line: rule.line,
            list: rule.list,
            text: rule.text,
        })
    }

    fn limits(&self) -> Option<Arc<Limits>> {
        Some(self.limits.clone())
    }

    fn is_runtime(&self, path: &[u8]) -> bool {
        self.classify_path(path) & class::RUNTIME != 0
    }

    fn classify_host(&self, name: &str, address: [u8; 16], port: u16, protocol: u8) -> u32 {
        Compiled::classify_host(self, name, address, port, protocol)
    }
}

/// Whether a path of an event is one of the runtime's own. One that exceeds the bounds is not.
pub fn is_runtime(event: &Event, path: &Bytes, rules: &dyn Explain) -> bool {
    let seen = event.observed.as_ref().map_or(0, |observed| observed.flags);
    seen & flags::FOREIGN == 0 && !path.is_empty() && rules.is_runtime(path.as_bytes())
}

/// The rule behind a verdict on what an event tells. Where two paths were judged, the first that a
/// rule is found for.
pub fn blame(body: &Body, decision: Decision, rules: &dyn Explain) -> Option<Rule> {
    let ask = |path: &[u8]| rules.blame(Subject::Path(path), decision);
    let either = |first: &[u8], second: &[u8]| {
        ask(first).or_else(|| if second.is_empty() { None } else { ask(second) })
    };
    match body {
        Body::Listen(Contact { file: Some(file), .. }) => ask(file.path.as_bytes()),
        Body::Connect(contact)
        | Body::Send(contact)
        | Body::Bind(contact)
        | Body::Listen(contact)
        | Body::Socket(contact) => {
            let Peer { address, port, .. } = contact.peer;
            let protocol = protocol::of(&contact.peer);
            rules.blame(Subject::Address { address, port, protocol }, decision)
        }
        Body::Resolve(resolve) => {
            rules.blame(Subject::Host { name: &resolve.name, port: None }, decision)
        }
        Body::Exec(exec) if exec.interpreter.is_empty() => ask(exec.file.path.as_bytes()),
        Body::Exec(exec) => either(exec.interpreter.as_bytes(), exec.file.path.as_bytes()),
        Body::Change { file, second, .. } => either(file.path.as_bytes(), second.as_bytes()),
        Body::Mount { file, origin } => either(file.path.as_bytes(), origin.as_bytes()),
        Body::Open { file, .. } | Body::Unix { file } | Body::Process { file, .. } => {
            ask(file.path.as_bytes())
        }
        _ => ask(b""),
    }
}
