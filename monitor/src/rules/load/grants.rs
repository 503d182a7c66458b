//! Rules that a person has granted for a while: they are loaded like a drop-in behind all others.

use std::{collections::BTreeMap, sync::Arc};

use monitor_common::{
    network::protocol,
    policy::{access, class, verdict},
};

use super::{
    super::{
        Compiled, Finding, RuleError, SearchPath, Severity, Source, SourceKind, Subject,
        address::{Place, Prefix},
        parse,
        pattern::{Pattern, alternatives, pieces},
        resolve::{Links, Root},
        source::Origin,
    },
    Loaded, NAMES, load_recorded,
};
use crate::event::{Bytes, PolicyText, SourceText};

/// The lines of a grant as rules take them in.
///
/// # Errors
/// What is wrong with them. Variables are: a grant is for what stands in it.
pub fn parse_grant(id: u32, rules: &str) -> Result<Arc<Source>, RuleError> {
    let kind = SourceKind::Grant;
    let name = id.to_string();
    let path = format!("{}/{name}", kind.folder());
    let text = format!("schema = {}\n{rules}", parse::SCHEMA);
    let source = Arc::new(Source { kind, name, path, text });
    patterns(&source).map(|_| source)
}

/// Lines under which a server reaches no address and listens nowhere, whatever its rules say; nor,
/// where `sockets` is said, at AF_UNIX sockets that have names.
pub fn isolation(sockets: bool) -> Arc<Source> {
    let sockets = if sockets { ", \"/**\", \"@*/**\"" } else { "" };
    let deny = format!("[\"0.0.0.0/0\", \"[::/0]\"{sockets}]");
    let text = format!("schema = {}\nnetwork.deny = {deny}\n", parse::SCHEMA);
    let name = "isolation".to_owned();
    Arc::new(Source { kind: SourceKind::Grant, path: name.clone(), name, text })
}

/// The grants that a policy holds.
pub fn granted(policy: &PolicyText) -> impl Iterator<Item = &SourceText> {
    policy.sources.iter().filter(|source| source.kind == SourceKind::Grant.name())
}

/// A policy with these grants in place of those that it holds. All else stays as it is, whatever
/// the files say by now; `search` is asked only for what hosts in grants need. `root` is the one of
/// a server in a container.
///
/// # Errors
/// As [`super::load`]. `None` when the policy does not hold enough of its machine.
pub fn load_granted(
    policy: &PolicyText,
    grants: &[Arc<Source>],
    search: &SearchPath,
    root: Option<&Root>,
) -> Result<Option<Loaded>, RuleError> {
    let mut policy = policy.clone();
    policy.sources.retain(|source| source.kind != SourceKind::Grant.name());
    policy.sources.extend(grants.iter().map(|source| SourceText::from(&**source)));
    let include = SourceKind::Include;
    let answers_dns =
        |source: &SourceText| (&*source.kind, &*source.name) == (include.name(), NAMES);
    if !policy.sources.iter().any(answers_dns) {
        let names = search.find(include, NAMES)?;
        policy.sources.extend(names.iter().map(|source| SourceText::from(&**source)));
    }
    if let Some(world) = &mut policy.world {
        world.links.extend(links(grants, root)?);
    }
    load_recorded(&policy, None)
}

/// The symbolic links on the way of patterns of grants.
fn links(grants: &[Arc<Source>], root: Option<&Root>) -> Result<BTreeMap<Bytes, Bytes>, RuleError> {
    let links = Links::of(root);
    for grant in grants {
        patterns(grant)?.iter_mut().for_each(|pattern| drop(pattern.resolve(&links)));
    }
    Ok(links.into_met())
}

/// All patterns of a grant.
fn patterns(grant: &Arc<Source>) -> Result<Vec<Pattern>, RuleError> {
    let document = parse::checked(grant).map_err(RuleError::Findings)?;
    let mut patterns = Vec::new();
    for (list, entry) in &document.lists {
        let wrong = |message: String, help: Option<String>| {
            let (source, span) = (grant.clone(), entry.span.clone());
            let severity = Severity::Error;
            RuleError::Findings(vec![Finding { severity, message, help, source, span }])
        };
        if entry.text.contains("${") {
            let help = "write what they stand for".to_owned();
            return Err(wrong("a grant names no variables".to_owned(), Some(help)));
        }
        if list.is_pattern(&entry.text) {
            let all = pieces(&entry.text).and_then(|pieces| alternatives(&pieces));
            let all = all.and_then(|all| all.iter().map(|one| Pattern::new(one)).collect());
            let all: Vec<Pattern> =
                all.map_err(|error| wrong(error.to_string(), error.help(&entry.text)))?;
            patterns.extend(all);
        }
    }
    Ok(patterns)
}

/// What grants name and still do not allow, and which entry outranks them. Only what stands for one
/// path or address can be told.
pub fn without_effect(loaded: &Loaded, compiled: &Compiled) -> Vec<String> {
    let is_grant = |origin: &Origin| origin.source.kind == SourceKind::Grant;
    let mut all = Vec::new();
    let mut judge = |origin: &Origin, subject, asked| {
        let explained = compiled.explain(subject, 0, asked);
        if explained.decision.verdict == verdict::ALLOW {
            return;
        }
        let by = explained.by.map_or_else(String::new, |by| {
            format!(": {} {:?} ({}:{}) outranks it", by.list, by.text, by.file, by.line)
        });
        all.push(format!("{} {:?} would allow nothing{by}", origin.list, origin.written));
    };
    for rule in loaded.paths.iter().filter(|rule| is_grant(&rule.origin) && !rule.is_link) {
        let asked = match rule.class {
            class::READ => access::READ,
            class::WRITE | class::ALLOW_SECRET => access::WRITE,
            class::EXEC => access::EXEC,
            _ => continue,
        };
        if rule.pattern.rest.is_empty() {
            judge(&rule.origin, Subject::Path(&rule.pattern.prefix), asked);
        }
    }
    for rule in loaded.addresses.iter().filter(|rule| is_grant(&rule.origin)) {
        let Place::Within(Prefix { bits: 128, address }) = rule.destination.place else { continue };
        let tcp = rule.destination.protocols & protocol::TCP != 0;
        let subject = Subject::Address {
            address: address.to_be_bytes(),
            port: rule.destination.ports.0,
            protocol: if tcp { protocol::TCP } else { protocol::UDP },
        };
        judge(&rule.origin, subject, access::CONNECT);
    }
    all
}
