//! Puts a policy together: the server's text, its includes, the sets, then all their entries.

mod programs;

use std::{collections::BTreeSet, sync::Arc};

use monitor_common::policy::{access, class, set, verdict};

use super::{
    super::{
        Bindings, Finding, RuleError, SearchPath, Severity, Source, SourceKind,
        address::{self, Purpose, Target},
        error::nearest,
        labels,
        parse::{self, Document, Entry, Holds, List, RECORD_ALL, SetDocument},
        pattern::{self, Pattern, Piece},
        resolve::Links,
        search::is_name,
        source::Origin,
        variables::{Scope, VariableError, Variables},
    },
    AddressRule, Loaded, Mode, NAMES, NameRule, PathRule, Resources, VectorRule, limits, set_of,
};

/// Members of the sets as this machine has them: their inodes carry labels, under whatever names a
/// server or its container finds them.
#[derive(Default)]
struct Members {
    own: Vec<PathRule>,
    /// The same in homes of other people.
    others: Vec<PathRule>,
    /// Homes of other people as a whole.
    homes: Vec<PathRule>,
}

pub struct Loader<'a> {
    search: &'a SearchPath,
    findings: Vec<Finding>,
    variables: Variables<'a>,
    /// A command is to be started: its arguments and environment are known.
    started: bool,
    open: BTreeSet<String>,
    /// The server first, then its includes.
    documents: Vec<Document>,
    /// Includes that are being read, to find cycles.
    stack: Vec<String>,
    paths: Vec<PathRule>,
    members: Members,
    vectors: Vec<VectorRule>,
    addresses: Vec<AddressRule>,
    names: Vec<NameRule>,
}

impl<'a> Loader<'a> {
    pub fn new(search: &'a SearchPath, bindings: &'a Bindings) -> Self {
        Self {
            search,
            findings: Vec::new(),
            variables: Variables::new(bindings),
            started: !bindings.arguments.is_empty() || bindings.elsewhere.is_some(),
            open: BTreeSet::new(),
            documents: Vec::new(),
            stack: Vec::new(),
            paths: Vec::new(),
            members: Members::default(),
            vectors: Vec::new(),
            addresses: Vec::new(),
            names: Vec::new(),
        }
    }

    fn finding(
        &mut self,
        severity: Severity,
        origin: &Origin,
        message: String,
        help: Option<String>,
    ) {
        let (source, span) = (origin.source.clone(), origin.span.clone());
        let finding = Finding { severity, message, help, source, span };
        // Each alternative of an entry's braces would say it once more.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    pub fn document(&mut self, source: &Arc<Source>) -> Result<(), RuleError> {
        let document = match parse::document(source) {
            Ok(document) => document,
            Err(findings) => {
                self.findings.extend(findings);
                return Ok(());
            }
        };
        let include = document.include.clone();
        self.documents.push(document);
        for entry in include {
            self.include(source, &entry)?;
        }
        Ok(())
    }

    fn include(&mut self, from: &Arc<Source>, entry: &Entry) -> Result<(), RuleError> {
        let name = &entry.text;
        let origin = origin(from, entry, "include".to_owned());
        if self.stack.contains(name) {
            let way = format!("{} -> {name}", self.stack.join(" -> "));
            let help = Some("remove one of these includes".to_owned());
            self.finding(Severity::Error, &origin, format!("includes go in a circle: {way}"), help);
            return Ok(());
        }
        let is_loaded = |document: &Document| {
            document.source.kind == SourceKind::Include && document.source.name == *name
        };
        if self.documents.iter().any(is_loaded) {
            return Ok(());
        }
        let found = if is_name(name) { self.search.find(SourceKind::Include, name)? } else { None };
        let Some(source) = found else {
            let names = self.search.names(SourceKind::Include)?;
            let help = match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("the includes are {}", names.join(", ")),
            };
            let message = format!("there is no include {name:?}");
            self.finding(Severity::Error, &origin, message, Some(help));
            return Ok(());
        };
        self.stack.push(name.clone());
        self.document(&source)?;
        self.stack.pop();
        Ok(())
    }

    fn has_names(&self) -> bool {
        let is_it = |document: &Document| {
            document.source.kind == SourceKind::Include && document.source.name == NAMES
        };
        self.documents.iter().any(is_it)
    }

    /// Takes in what rules that name hosts need.
    pub fn names(&mut self) -> Result<(), RuleError> {
        let is_name = |(list, entry): &(&List, Entry)| {
            let target = address::parse(&entry.text, list.purpose());
            !list.is_pattern(&entry.text) && matches!(target, Ok(Target::Host(_)))
        };
        if !self.documents.iter().any(|document| document.lists.iter().any(is_name)) {
            return Ok(());
        }
        if self.has_names() {
            return Ok(());
        }
        match self.search.find(SourceKind::Include, NAMES)? {
            Some(source) => self.document(&source),
            None => Err(RuleError::Missing(NAMES)),
        }
    }

    /// Reads all sets and takes their members in.
    pub fn sets(&mut self) -> Result<Vec<SetDocument>, RuleError> {
        let mut sets = Vec::new();
        for name in set::NAMES {
            let Some(source) = self.search.find(SourceKind::Set, name)? else { continue };
            match parse::set(&source) {
                Ok(document) => sets.push(document),
                Err(findings) => self.findings.extend(findings),
            }
        }
        for document in &sets {
            let class = class::of_set(document.set);
            let list = format!("sets.{}", set::NAMES[document.set]);
            for entry in &document.paths {
                let origin = origin(&document.source, entry, list.clone());
                self.path(&origin, class, Scope::Set, true);
                if self.variables.bindings.elsewhere.is_none() {
                    self.members(&origin, class);
                }
            }
            for entry in &document.addresses {
                let origin = origin(&document.source, entry, list.clone());
                self.address(&origin, class, Purpose::Refuse);
            }
        }
        for rule in self.paths.iter().filter(|rule| !rule.is_link) {
            let tree = rule.pattern.rest == [pattern::Component::Recursive];
            if let Some(set) = set_of(rule.class)
                && (tree || rule.pattern.rest.is_empty())
            {
                self.variables.guard.add(set, &rule.pattern.prefix, tree);
            }
        }
        Ok(sets)
    }

    pub fn rules(&mut self) {
        for document in std::mem::take(&mut self.documents) {
            for (list, entry) in &document.lists {
                let origin = origin(&document.source, entry, list.name());
                if !list.is_pattern(&entry.text) {
                    self.address(&origin, list.class, list.purpose());
                } else if list.holds == Holds::Paths && entry.text.starts_with('@') {
                    let help = "a file whose name begins with @ is written with its directory";
                    let message = "abstract socket names stand in network.unix or network.listen";
                    self.finding(
                        Severity::Error,
                        &origin,
                        message.to_owned(),
                        Some(help.to_owned()),
                    );
                } else {
                    let is_socket = list.holds == Holds::AddressesAndSockets;
                    let class = if is_socket { list.socket_class() } else { list.class };
                    self.path(&origin, class, Scope::Rules, list.restricts());
                }
            }
            for program in &document.programs {
                self.program(&document.source, program);
            }
            self.documents.push(document);
        }
    }

    /// Takes a pattern in; `links`: the symbolic links on its way belong to it.
    fn path(&mut self, origin: &Arc<Origin>, class: u32, scope: Scope, links: bool) {
        for pieces in self.expanded(origin, scope, links) {
            match Pattern::new(&pieces) {
                Ok(pattern) => self.pattern(pattern, class, origin, links),
                Err(error) => {
                    let help = error.help(&origin.written);
                    self.finding(Severity::Error, origin, error.to_string(), help);
                }
            }
        }
    }

    /// What an entry stands for, with all alternatives and values. Without the values of a
    /// variable a rule that `must` say something is wrong.
    fn expanded(&mut self, origin: &Arc<Origin>, scope: Scope, must: bool) -> Vec<Vec<Piece>> {
        let written = origin.written.as_str();
        let mut all = Vec::new();
        let expanded = pattern::pieces(written)
            .and_then(|pieces| pattern::alternatives(&pieces))
            .map_err(|error| (error.to_string(), error.help(written)));
        let alternatives = match expanded {
            Ok(alternatives) => alternatives,
            Err((message, help)) => {
                self.finding(Severity::Error, origin, message, help);
                return all;
            }
        };
        for alternative in alternatives {
            match self.variables.expand(&alternative, scope) {
                Ok(values) => all.extend(values),
                // An allow that says nothing allows nothing; a refusal must say something.
                Err(VariableError::Missing(name)) if !self.started || !must => {
                    self.open.insert(name);
                }
                Err(error) => {
                    let harmless = error.is_by_chance() && !must;
                    let severity = if harmless { Severity::Warning } else { Severity::Error };
                    self.finding(severity, origin, error.to_string(), error.help());
                }
            }
        }
        all
    }

    /// Notes the members of a set that have labels.
    fn members(&mut self, origin: &Arc<Origin>, class: u32) {
        let mut of = |scope| -> Vec<PathRule> {
            let all = self.expanded(origin, scope, true);
            let patterns = all.iter().filter_map(|pieces| Pattern::new(pieces).ok());
            let rule = |mut pattern: Pattern| {
                pattern.resolve(&Links::default());
                PathRule { pattern, class, origin: origin.clone(), is_link: false, before: None }
            };
            patterns.map(rule).collect()
        };
        if origin.written.contains("${OTHER_HOMES}") {
            let homes = of(Scope::Others);
            self.members.homes.extend(homes);
            return;
        }
        let own = of(Scope::Own);
        let others = match origin.written.contains("${HOME}") {
            true => of(Scope::Others),
            false => Vec::new(),
        };
        self.members.own.extend(own);
        self.members.others.extend(others);
    }

    fn pattern(&mut self, mut pattern: Pattern, class: u32, origin: &Arc<Origin>, links: bool) {
        let name = pattern.prefix.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
        let is_path = pattern.rest.is_empty();
        let written = pattern.display();
        let links_met = pattern.resolve(&self.variables.links);
        let before = (!links_met.is_empty()).then_some(written);
        for link in links_met {
            // Whoever is kept from what a link leads to must not point it elsewhere either. An
            // allow covers the link that it names, and none on the way.
            let is_named = is_path && link.rsplit(|b| *b == b'/').next() == Some(&name);
            if links || is_named {
                let pattern = Pattern { prefix: link, rest: Vec::new(), glued: false };
                let origin = origin.clone();
                self.paths.push(PathRule { pattern, class, origin, is_link: true, before: None });
            }
        }
        let origin = origin.clone();
        self.paths.push(PathRule { pattern, class, origin, is_link: false, before });
    }

    fn address(&mut self, origin: &Arc<Origin>, class: u32, purpose: Purpose) {
        let Some(name) = address::variable(&origin.written) else {
            return self.destination(origin, &origin.written, class, purpose);
        };
        let restricts = purpose == Purpose::Refuse;
        match self.variables.destinations(name) {
            Ok(all) => all.iter().for_each(|text| self.destination(origin, text, class, purpose)),
            Err(VariableError::Missing(name)) if !self.started || !restricts => {
                self.open.insert(name);
            }
            Err(error) => self.finding(Severity::Error, origin, error.to_string(), error.help()),
        }
    }

    fn destination(&mut self, origin: &Arc<Origin>, text: &str, class: u32, purpose: Purpose) {
        match address::parse(text, purpose) {
            Ok(Target::Addresses(destination)) => {
                self.addresses.push(AddressRule { destination, class, origin: origin.clone() });
            }
            Ok(Target::Host(destination)) => {
                self.names.push(NameRule { destination, class, origin: origin.clone() });
            }
            Err(error) => self.finding(Severity::Error, origin, error.to_string(), error.help()),
        }
    }

    pub fn into_loaded(
        self,
        server: &str,
        is_default: bool,
        sets: &[SetDocument],
    ) -> Result<Loaded, RuleError> {
        if self.findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(RuleError::Findings(self.findings));
        }
        let answers_dns = self.has_names();
        let sources = self.documents.iter().map(|document| document.source.clone());
        let Variables { bindings, links, used, raw, .. } = self.variables;
        let loaders = loaders(&links);
        let Members { own, others, homes } = self.members;
        let world = bindings.world(raw, links.into_met());
        let mut loaded = Loaded {
            server: server.to_owned(),
            is_default,
            mode: Mode::Observe,
            sources: sources.chain(sets.iter().map(|set| set.source.clone())).collect(),
            bindings: used,
            pass: self
                .documents
                .iter()
                .flat_map(|document| document.pass.iter().map(|name| name.text.clone()))
                .collect(),
            resources: Resources::default(),
            matches: self
                .documents
                .iter()
                .flat_map(|document| {
                    document.matches.iter().map(|entry| (document.source.clone(), entry.clone()))
                })
                .collect(),
            warnings: self.findings,
            open: self.open,
            record: RECORD_ALL,
            unlisted: [verdict::ALERT; access::COUNT],
            unlisted_origins: [const { None }; access::COUNT],
            set_verdict: [verdict::DENY; set::COUNT],
            set_access: [0; set::COUNT],
            limits: limits::of(&self.documents),
            env_secret: None,
            labels: labels::of_sets(&own, &others),
            labels_of_homes: labels::of_sets(&homes, &[]),
            paths: self.paths,
            vectors: self.vectors,
            addresses: self.addresses,
            names: self.names,
            answers_dns,
            loaders,
            world,
        };
        loaded.set_verdict[set::SENSITIVE] = verdict::ALERT;
        for document in sets {
            loaded.set_access[document.set] = document.access;
        }
        for document in &self.documents {
            loaded.respond(document);
        }
        for document in &self.documents {
            loaded.warnings.extend(limits::warnings(document, loaded.record));
        }
        loaded.warn_of_sets();
        Ok(loaded)
    }
}

fn origin(source: &Arc<Source>, entry: &Entry, list: String) -> Arc<Origin> {
    let (source, span) = (source.clone(), entry.span.clone());
    Arc::new(Origin { source, span, list, written: entry.text.clone() })
}

/// Dynamic loaders: run as a command they execute a file that no exec hook is asked about.
fn loaders(links: &Links<'_>) -> Vec<Pattern> {
    const PLACES: [&str; 3] = [
        "/{lib,lib32,lib64,libx32}/ld-*.so*",
        "/usr/{lib,lib32,lib64,libx32}/ld-*.so*",
        "/{lib,usr/lib}/*/ld-*.so*",
    ];
    let texts = PLACES.iter().filter_map(|text| pattern::pieces(text).ok());
    let all = texts.filter_map(|pieces| pattern::alternatives(&pieces).ok()).flatten();
    let mut loaders: Vec<Pattern> = Vec::new();
    for pieces in all {
        let Ok(mut pattern) = Pattern::new(&pieces) else { continue };
        pattern.resolve(links);
        if !loaders.contains(&pattern) {
            loaders.push(pattern);
        }
    }
    loaders
}
