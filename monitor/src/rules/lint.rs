//! What is wrong with rules although they can be loaded: entries that decide nothing or too much,
//! and servers that cannot be told apart. Only `check` asks; the shipped rules give no finding.

use std::{
    ffi::OsStr, fs::File, io::Read as _, ops::Range, os::unix::ffi::OsStrExt as _, path::Path,
    sync::Arc,
};

use monitor_common::policy::{access, class, verdict};

use super::{
    Finding, Loaded, Mode, Severity, Source, SourceKind,
    load::{AddressRule, PathRule},
    matcher::{self, Traits},
    parse::Match,
    pattern::Pattern,
    source::Origin,
};

/// What the backend that rules are checked for does not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// Nothing that rules speak of.
    No,
    /// What a dynamic loader runs.
    ToLoaders,
}

/// What is wrong with the rules of one server.
pub fn lint(loaded: &Loaded, blind: Blind) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    pointless_lists(loaded, &mut findings);
    repeated(loaded, &mut findings);
    shadowed(loaded, &mut findings);
    no_secret(loaded, &mut findings);
    too_wide(loaded, &mut findings);
    scripts(loaded, &mut findings);
    if blind == Blind::ToLoaders {
        loaders(loaded, &mut findings);
    }
    matches(loaded, &mut findings);
    findings.0
}

/// What is wrong with servers beside each other.
pub fn lint_servers(servers: &[&Loaded]) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    for (i, server) in servers.iter().enumerate() {
        for earlier in &servers[..i] {
            if earlier.server.eq_ignore_ascii_case(&server.server)
                && let Some(source) = server.sources.first()
            {
                let message = format!(
                    "this server and {} differ only in the case of letters",
                    earlier.server
                );
                findings.add(source, 0..0, message, "give one of them another name");
            }
            for (source, entry) in &server.matches {
                let same = |(_, other): &&(_, Match)| other.meaning() == entry.meaning();
                if earlier.matches.iter().any(|other| same(&other)) {
                    let message = format!("server {} has the same match", earlier.server);
                    let help = "a process can be one server only: ask for more in one of them";
                    findings.add(source, line_of(source, &entry.span), message, help);
                }
            }
        }
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, source: &Arc<Source>, span: Range<usize>, message: String, help: &str) {
        let (source, help) = (source.clone(), Some(help.to_owned()));
        let finding = Finding { severity: Severity::Warning, message, help, source, span };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    fn at(&mut self, origin: &Origin, message: String, help: &str) {
        self.add(&origin.source, origin.span.clone(), message, help);
    }
}

/// The first line of a span.
fn line_of(source: &Source, span: &Range<usize>) -> Range<usize> {
    let text = source.text.get(span.clone()).unwrap_or_default();
    span.start..span.start + text.lines().next().map_or(0, str::len)
}

/// Written by whoever wrote the server's file, and not by an include.
fn is_own(origin: &Origin) -> bool {
    matches!(origin.source.kind, SourceKind::Server | SourceKind::DropIn | SourceKind::Grant)
}

/// Whether two entries stand in one text, or both in the server's own.
fn is_beside(one: &Origin, other: &Origin) -> bool {
    one.source.path == other.source.path || is_own(one) && is_own(other)
}

/// Entries of the rules, without links and without those of the sets.
fn entries(loaded: &Loaded) -> impl Iterator<Item = &PathRule> {
    loaded.paths.iter().filter(|rule| !rule.is_link && rule.class & class::SETS == 0)
}

fn rules_about_addresses(loaded: &Loaded) -> impl Iterator<Item = &AddressRule> {
    loaded.addresses.iter().filter(|rule| rule.class & class::SETS == 0)
}

/// The accesses that a list allows.
fn allows(class: u32) -> u8 {
    match class & !class::RUNTIME {
        class::READ => access::READ,
        class::WRITE => access::READ | access::WRITE,
        class::EXEC | class::ARGUMENTS => access::EXEC,
        class::CONNECT => access::CONNECT,
        class::LISTEN => access::LISTEN,
        class::UNIX => access::UNIX,
        _ => 0,
    }
}

/// Lists of what is allowed anyhow.
fn pointless_lists(loaded: &Loaded, findings: &mut Findings) {
    let is_pointless = |class: u32| {
        // What `runtime` names is not counted.
        let counted = class & class::RUNTIME == 0;
        let bits = (0..access::COUNT).filter(|bit| allows(class) >> bit & 1 == 1);
        counted
            && allows(class) != 0
            && bits.into_iter().all(|bit| loaded.unlisted[bit] == verdict::ALLOW)
    };
    let paths = entries(loaded).map(|rule| (rule.class, &rule.origin));
    let addresses = rules_about_addresses(loaded).map(|rule| (rule.class, &rule.origin));
    let mut told: Vec<&str> = Vec::new();
    for (class, origin) in paths.chain(addresses) {
        if is_own(origin) && is_pointless(class) && !told.contains(&origin.list.as_str()) {
            told.push(&origin.list);
            let message =
                format!("{} decides nothing: what it does not name is allowed, too", origin.list);
            findings.at(origin, message, "say `deny` in response.unlisted, or remove the list");
        }
    }
}

/// The same entry twice in a list.
fn repeated(loaded: &Loaded, findings: &mut Findings) {
    let paths = entries(loaded).map(|rule| &rule.origin);
    let all: Vec<&Arc<Origin>> =
        paths.chain(rules_about_addresses(loaded).map(|rule| &rule.origin)).collect();
    let place = |origin: &Origin| (origin.source.path.clone(), origin.span.start);
    for (i, origin) in all.iter().enumerate() {
        let same = |earlier: &&&Arc<Origin>| {
            is_beside(earlier, origin)
                && (earlier.list.as_str(), earlier.written.as_str())
                    == (origin.list.as_str(), origin.written.as_str())
                && place(earlier) != place(origin)
        };
        if let Some(earlier) = all[..i].iter().find(same) {
            let line = earlier.source.line(earlier.span.start);
            let message = format!("line {line} of {} says this already", earlier.source.path);
            findings.at(origin, message, "remove one of them");
        }
    }
}

/// Allows that a `deny` takes away altogether; of an include, whose allows a server may narrow, only
/// by its own. Those that a set outranks are told when rules are loaded.
fn shadowed(loaded: &Loaded, findings: &mut Findings) {
    let tell = |allow: &Origin, deny: &Origin, findings: &mut Findings| {
        let line = deny.source.line(deny.span.start);
        let message =
            format!("{:?} ({}:{line}) denies all of this", deny.written, deny.source.path);
        findings.at(allow, message, "remove one of them");
    };
    let allows = |rule: &&PathRule| rule.class & (class::DENY | class::DENY_SOCKET) == 0;
    for rule in entries(loaded).filter(allows) {
        let denying = match rule.class & !(class::UNIX | class::LISTEN) {
            0 => class::DENY | class::DENY_SOCKET,
            _ => class::DENY,
        };
        let denies = |deny: &&PathRule| {
            deny.class & denying != 0
                && is_beside(&deny.origin, &rule.origin)
                && deny.pattern.surely_covers(&rule.pattern)
        };
        if let Some(deny) = entries(loaded).find(denies) {
            tell(&rule.origin, &deny.origin, findings);
        }
    }
    for rule in rules_about_addresses(loaded).filter(|rule| rule.class & class::DENY == 0) {
        let denies = |deny: &&AddressRule| {
            deny.class & class::DENY != 0
                && is_beside(&deny.origin, &rule.origin)
                && deny.destination.covers(&rule.destination)
        };
        if let Some(deny) = rules_about_addresses(loaded).find(denies) {
            tell(&rule.origin, &deny.origin, findings);
        }
    }
}

/// Paths in `allow_secret` that are no secrets.
fn no_secret(loaded: &Loaded, findings: &mut Findings) {
    if loaded.matches.iter().any(|(_, entry)| !entry.cgroup.is_empty()) {
        // In a container secrets of the host have other names.
        return;
    }
    let members = || loaded.paths.iter().filter(|rule| rule.class & class::SETS != 0);
    let named = entries(loaded).filter(|rule| rule.class == class::ALLOW_SECRET);
    // Where wildcards meet wildcards, nobody knows what is in both.
    for rule in named.filter(|rule| rule.pattern.rest.is_empty() && is_own(&rule.origin)) {
        if !members().any(|member| member.pattern.matches(&rule.pattern.prefix)) {
            let message = "no built-in set has this".to_owned();
            findings.at(&rule.origin, message, "allow it in files.read or files.write");
        }
    }
}

/// Allows that a home or the whole disk fits into.
fn too_wide(loaded: &Loaded, findings: &mut Findings) {
    // Names that nobody has thought of.
    const NAMES: [&str; 3] = ["/q7zk", "/.q7zk", "/q7zk/q7zk.q7"];
    let holds = |rule: &PathRule, place: &[u8]| {
        NAMES.iter().all(|name| rule.pattern.matches(&[place, name.as_bytes()].concat()))
    };
    let world = &loaded.world;
    let homes = || world.own_homes.iter().chain([&world.home]);
    for rule in entries(loaded).filter(|rule| allows(rule.class) & FILES != 0) {
        let what = match rule.origin.list.as_str() {
            _ if holds(rule, b"") => "the whole disk".to_owned(),
            _ => match homes().find(|home| !home.is_empty() && holds(rule, home.as_bytes())) {
                Some(home) => format!("all of {}", home.as_bytes().escape_ascii()),
                None => continue,
            },
        };
        let message = format!("{} allows {what}", rule.origin.list);
        findings.at(&rule.origin, message, "name the directories that the server needs");
    }
}

const FILES: u8 = access::READ | access::WRITE | access::EXEC;

/// Scripts with arguments: they would be those of the interpreter.
fn scripts(loaded: &Loaded, findings: &mut Findings) {
    let programs = entries(loaded).filter(|rule| rule.class == class::ARGUMENTS);
    for rule in programs.filter(|rule| rule.pattern.rest.is_empty()) {
        let path = Path::new(OsStr::from_bytes(&rule.pattern.prefix));
        let mut head = [0; 2];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
        if read.is_ok() && head == *b"#!" {
            let message = "this is a script: lsm refuses it, and tracepoint does not judge its \
                           arguments"
                .to_owned();
            let help = "name its interpreter, with the script as the first argument, and the \
                        script in exec.allow";
            findings.at(&rule.origin, message, help);
        }
    }
}

/// Dynamic loaders among the programs.
fn loaders(loaded: &Loaded, findings: &mut Findings) {
    for rule in entries(loaded).filter(|rule| rule.class & (class::EXEC | class::ARGUMENTS) != 0) {
        let is_loader = |loader: &Pattern| loader.matches(&rule.pattern.prefix);
        if rule.pattern.rest.is_empty() && loaded.loaders.iter().any(is_loader) {
            let message = "tracepoint does not judge what this dynamic loader runs".to_owned();
            findings.at(&rule.origin, message, "leave it out, or use the lsm backend");
        }
    }
}

/// podman's runtimes, where its monitor starts them: in a cgroup beside the container's.
const STARTERS: [Traits<'_>; 2] = [
    starter(b"/machine.slice/libpod-conmon-0f.scope"),
    starter(b"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-0f.scope"),
];

const fn starter(cgroup: &'static [u8]) -> Traits<'static> {
    Traits { exe: b"/usr/bin/crun", cgroup, arguments: &[], user: None }
}

/// `[[match]]` that others can imitate, that fits more than is meant, or that repeats itself.
fn matches(loaded: &Loaded, findings: &mut Findings) {
    for (i, (source, entry)) in loaded.matches.iter().enumerate() {
        let place = line_of(source, &entry.span);
        if loaded.mode == Mode::Enforce && entry.is_by_arguments_alone() {
            let message = "in enforce, arguments alone do not tell a server".to_owned();
            let help =
                "whoever starts a program chooses them: ask for its exe, unit or cgroup, too";
            findings.add(source, place.clone(), message, help);
        }
        let is_about_podman = entry.cgroup.iter().any(|entry| entry.text.contains("libpod"));
        if is_about_podman && STARTERS.iter().any(|one| matcher::fits(source, entry, one)) {
            let message = "this fits what starts podman's containers, too".to_owned();
            let help = "such a container does not start: ask for its exe as well, or write \
                        `libpod-[0-9a-f][0-9a-f]*.scope`, which is no name of theirs";
            findings.add(source, place.clone(), message, help);
        }
        if loaded.matches[..i].iter().any(|(_, other)| other.meaning() == entry.meaning()) {
            findings.add(source, place, "an earlier match says the same".to_owned(), "remove it");
        }
    }
}
