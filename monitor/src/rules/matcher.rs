//! Which processes that others start are servers: the `[[match]]` entries of all rules, as one
//! table for the kernel and, for the agent, as the question which server it is.
//!
//! The kernel cannot know what `${HOME}` and `${USER}` are for a process: its table takes anything
//! for them. What it accepts by that alone the agent lets go.

use std::sync::Arc;

use super::{
    Finding, RuleError, SearchPath, Severity, Source, SourceKind,
    compile::{Automaton, MatchRule, match_table},
    parse::{self, Entry, Match},
    pattern::{self, Component, Pattern, PatternError, Piece, alternatives, pieces},
    resolve::Links,
};

/// All matches of all servers.
#[derive(Debug, Default)]
pub struct Matcher {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    name: String,
    fits: Vec<Fit>,
}

/// One entry. A list that is empty asks for nothing; of another one something has to fit.
#[derive(Debug)]
struct Fit {
    source: Arc<Source>,
    entry: Match,
    exe: Vec<Vec<Piece>>,
    arguments: Vec<Vec<Piece>>,
    units: Vec<Vec<Piece>>,
    cgroups: Vec<Vec<Piece>>,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug)]
pub struct Traits<'a> {
    /// Its executable.
    pub exe: &'a [u8],
    /// Its cgroup beneath the root of the hierarchy.
    pub cgroup: &'a [u8],
    /// Its arguments behind argv\[0\].
    pub arguments: &'a [Vec<u8>],
    /// Home and name of its user, where there is such a user.
    pub user: Option<(&'a [u8], &'a [u8])>,
}

/// What stands for variables.
#[derive(Clone, Copy)]
enum Values<'a> {
    /// Anything.
    Any,
    /// Home and name of a user.
    Of(&'a [u8], &'a [u8]),
    /// Nothing: there is no such user.
    None,
}

impl Matcher {
    /// Whether no server is known by anything.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Reads the matches of all servers; and what is wrong with the rules of servers that are left
    /// out for it.
    ///
    /// # Errors
    /// When a directory or file cannot be read.
    pub fn load(search: &SearchPath) -> Result<(Self, Vec<Finding>), RuleError> {
        let (mut servers, mut wrong) = (Vec::new(), Vec::new());
        for name in search.names(SourceKind::Server)? {
            match fits_of(search, &name)? {
                Ok(fits) if fits.is_empty() => {}
                Ok(fits) => servers.push(Server { name, fits }),
                Err(findings) => wrong.extend(findings),
            }
        }
        Ok((Self { servers }, wrong))
    }

    /// The server that a process is: the first by name of those whose matches fit.
    pub fn server_of(&self, process: &Traits<'_>) -> Option<&str> {
        let fits = |server: &&Server| server.fits.iter().any(|fit| fit.is_met_by(process));
        self.servers.iter().find(fits).map(|server| server.name.as_str())
    }

    /// The table for the kernel; `None` when nothing is to be matched.
    ///
    /// # Errors
    /// When it grows too large.
    pub fn table(&self) -> Result<Option<Automaton>, RuleError> {
        let fits = || self.servers.iter().flat_map(|server| &server.fits);
        let rules: Vec<MatchRule> = fits().flat_map(Fit::rules).collect();
        if rules.is_empty() {
            return Ok(None);
        }
        match_table(&rules).map(Some).map_err(|error| {
            let findings = fits().take(3).map(|fit| Finding {
                severity: Severity::Error,
                message: format!("all matches together take too much: {error}"),
                help: Some("write fewer `**` and `*` before other text".to_owned()),
                source: fit.source.clone(),
                span: fit.entry.span.clone(),
            });
            RuleError::Findings(findings.collect())
        })
    }
}

/// Whether a process fits one entry, whose mistakes have been told elsewhere.
pub(super) fn fits(source: &Arc<Source>, entry: &Match, process: &Traits<'_>) -> bool {
    Fit::of(source, entry.clone()).is_ok_and(|fit| fit.is_met_by(process))
}

/// The matches of one server, or what is wrong with its rules.
fn fits_of(search: &SearchPath, name: &str) -> Result<Result<Vec<Fit>, Vec<Finding>>, RuleError> {
    let mut fits = Vec::new();
    let own = search.find(SourceKind::Server, name)?;
    for source in own.into_iter().chain(search.drop_ins(name)?) {
        let entries = match parse::document(&source) {
            Ok(document) => document.matches,
            Err(findings) => return Ok(Err(findings)),
        };
        for entry in entries {
            match Fit::of(&source, entry) {
                Ok(fit) => fits.push(fit),
                Err(finding) => return Ok(Err(vec![finding])),
            }
        }
    }
    Ok(Ok(fits))
}

impl Fit {
    fn of(source: &Arc<Source>, entry: Match) -> Result<Self, Finding> {
        let list = |entries: &[Entry], check: fn(&[Piece]) -> Result<(), PatternError>| {
            let mut all = Vec::new();
            for entry in entries {
                let read = pieces(&entry.text).and_then(|pieces| alternatives(&pieces));
                let checked = read.and_then(|read| {
                    read.iter().try_for_each(|pieces| check(pieces))?;
                    Ok(read)
                });
                all.extend(checked.map_err(|error| Finding {
                    severity: Severity::Error,
                    message: error.to_string(),
                    help: error.help(&entry.text),
                    source: source.clone(),
                    span: entry.span.clone(),
                })?);
            }
            Ok(all)
        };
        let is_path = |pieces: &[Piece]| path(pieces, Values::Any).transpose().map(drop);
        Ok(Self {
            exe: list(&entry.exe, is_path)?,
            arguments: list(&entry.args, |_| Ok(()))?,
            units: list(&entry.unit, |_| Ok(()))?,
            cgroups: list(&entry.cgroup, is_path)?,
            source: source.clone(),
            entry,
        })
    }

    fn is_met_by(&self, process: &Traits<'_>) -> bool {
        let values = match process.user {
            Some((home, name)) => Values::Of(home, name),
            None => Values::None,
        };
        let is_any = |patterns: &[Vec<Piece>], of: Of, text: &[u8]| {
            let mut patterns = patterns.iter().flat_map(|pieces| of.patterns(pieces, values));
            patterns.any(|pattern| pattern.matches(text))
        };
        let argument = |pieces: &Vec<Piece>| {
            let pieces = text(pieces, values);
            pieces.is_some_and(|pieces| {
                process.arguments.iter().any(|own| pattern::argument_matches(&pieces, own))
            })
        };
        (self.exe.is_empty() || is_any(&self.exe, Of::Executable, process.exe))
            && (self.units.is_empty() || is_any(&self.units, Of::Unit, process.cgroup))
            && (self.cgroups.is_empty() || is_any(&self.cgroups, Of::Cgroup, process.cgroup))
            && (self.arguments.is_empty() || self.arguments.iter().any(argument))
    }

    /// Everything that fits, and what fits a unit but not a cgroup that is asked for beside it.
    fn rules(&self) -> Vec<MatchRule> {
        let all = |patterns: &[Vec<Piece>], of: Of| -> Vec<Option<Pattern>> {
            let patterns = patterns.iter().flat_map(|pieces| of.patterns(pieces, Values::Any));
            or_anything(patterns.collect())
        };
        let cgroups = match self.units.is_empty() {
            true => all(&self.cgroups, Of::Cgroup),
            false => all(&self.units, Of::Unit),
        };
        let arguments = self.arguments.iter().filter_map(|pieces| text(pieces, Values::Any));
        let arguments = or_anything(arguments.collect());
        let mut rules = Vec::new();
        for exe in &all(&self.exe, Of::Executable) {
            for cgroup in &cgroups {
                for argument in &arguments {
                    let (exe, cgroup) = (exe.clone(), cgroup.clone());
                    rules.push(MatchRule { exe, cgroup, argument: argument.clone() });
                }
            }
        }
        rules
    }
}

/// What a pattern is about.
#[derive(Clone, Copy)]
enum Of {
    Executable,
    Cgroup,
    Unit,
}

impl Of {
    /// The patterns that the text of one stands for.
    fn patterns(self, pieces: &[Piece], values: Values<'_>) -> Vec<Pattern> {
        match self {
            Self::Cgroup => path(pieces, values).and_then(Result::ok).into_iter().collect(),
            Self::Unit => text(pieces, values).map(|name| unit(&name)).into_iter().collect(),
            Self::Executable => {
                let Some(Ok(written)) = path(pieces, values) else { return Vec::new() };
                let mut resolved = written.clone();
                resolved.resolve(&Links::default());
                // In a container links may lead elsewhere.
                if resolved == written { vec![written] } else { vec![written, resolved] }
            }
        }
    }
}

/// A systemd unit is a cgroup of its name, whatever is above and beneath.
fn unit(name: &[Piece]) -> Pattern {
    let star = |piece: &Piece| match piece {
        Piece::DoubleStar => Piece::Star,
        other => other.clone(),
    };
    let name = Component::Name(name.iter().map(star).collect());
    let rest = vec![Component::Recursive, name, Component::Recursive];
    Pattern { prefix: Vec::new(), rest, glued: false }
}

/// A path with values put in; `None` when there is none for a variable.
fn path(pieces: &[Piece], values: Values<'_>) -> Option<Result<Pattern, PatternError>> {
    let home = |all: &mut Vec<Piece>| all.extend([Piece::Byte(b'/'), Piece::DoubleStar]);
    Some(Pattern::new(&put_in(pieces, values, home)?))
}

/// The same for what is no path.
fn text(pieces: &[Piece], values: Values<'_>) -> Option<Vec<Piece>> {
    put_in(pieces, values, |all| all.push(Piece::DoubleStar))
}

fn put_in(
    pieces: &[Piece],
    values: Values<'_>,
    any_home: fn(&mut Vec<Piece>),
) -> Option<Vec<Piece>> {
    let mut all = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let Piece::Variable(name) = piece else {
            all.push(piece.clone());
            continue;
        };
        match (values, name.as_str()) {
            (Values::None, _) => return None,
            (Values::Any, "HOME") => any_home(&mut all),
            (Values::Any, _) => all.push(Piece::Star),
            (Values::Of(home, _), "HOME") => all.extend(home.iter().copied().map(Piece::Byte)),
            (Values::Of(_, user), _) => all.extend(user.iter().copied().map(Piece::Byte)),
        }
    }
    Some(all)
}

/// Nothing that is asked for is fulfilled by anything.
fn or_anything<T>(patterns: Vec<T>) -> Vec<Option<T>> {
    if patterns.is_empty() { vec![None] } else { patterns.into_iter().map(Some).collect() }
}
