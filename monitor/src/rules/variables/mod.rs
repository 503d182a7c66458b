//! Values of variables, put into patterns as literals.
//!
//! A variable at the start of a pattern is a path: made absolute and canonical. When wildcards
//! follow, it is refused if it is the root or if it lets the pattern cover a member of a built-in
//! set. Anywhere else it is a name within one component. A URL without a host is the file that it
//! names; where an address is wanted, a URL is the address that it leads to.

mod arguments;
#[cfg(test)]
mod tests;
pub(super) mod url;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use arguments::option_values;
pub(super) use arguments::own_arguments;
use monitor_common::policy::set;

use super::{
    Bindings,
    error::nearest,
    pattern::{Pattern, Piece},
    resolve::{Links, resolve},
};
use crate::event::Bytes;

const NAMES: [&str; 8] =
    ["HOME", "USER", "CWD", "TMPDIR", "ARGS_AFTER_MATCH", "ENV:NAME", "OPT:--name", "OTHER_HOMES"];

/// Variables that do not come from environment or arguments.
const OF_THE_USER: [&str; 5] = ["HOME", "USER", "CWD", "TMPDIR", "OTHER_HOMES"];

/// Where a pattern stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In rules: `${HOME}` is the one home of the server.
    Rules,
    /// In a set, which only protects: `${HOME}` is every home of the user, and `${OTHER_HOMES}`
    /// are those of other people.
    Set,
    /// In a set, for members on this machine, whatever a container calls them: `${HOME}` is every
    /// home of the user.
    Own,
    /// The same of other people: `${HOME}` and `${OTHER_HOMES}` are their homes.
    Others,
    /// In an argument of a program: values are text and no paths.
    Argument,
}

impl Scope {
    /// In a set. Its variables may have no value, and then there are no members.
    fn is_set(self) -> bool {
        matches!(self, Self::Set | Self::Own | Self::Others)
    }
}

/// Where a variable stands in its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is all of it.
    Whole,
    /// At its start; `open` when wildcards follow, so that the value decides how much is covered.
    Start { open: bool },
    /// Behind other text.
    Within,
    /// In what is no path.
    Text,
}

/// Why a variable has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    #[error("there is no variable `${{{0}}}`")]
    Unknown(String),
    /// The server was started without it: its entry says nothing.
    #[error("`${{{0}}}` has no value here")]
    Missing(String),
    #[error("`${{{0}}}` is empty")]
    Empty(String),
    #[error("`${{{0}}}` is the root directory")]
    Root(String),
    #[error("`${{{name}}}` makes this {value}, which lies over the {set} set ({member})")]
    OverSet { name: String, value: String, set: &'static str, member: String },
    #[error("`${{{0}}}` stands within a path, and its value is not a plain name")]
    NotAName(String),
    #[error("`${{{0}}}` is no address")]
    NotAnAddress(String),
}

impl VariableError {
    /// Whether nobody chose the value for these rules: where a server happens to be started lies
    /// over a set. Then an allow is left out, and everything else stands.
    pub fn is_by_chance(&self) -> bool {
        let (Self::Root(name) | Self::OverSet { name, .. }) = self else { return false };
        ["CWD", "TMPDIR"].contains(&name.as_str())
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Unknown(name) => match nearest(name, NAMES) {
                Some(near) => format!("did you mean `${{{near}}}`?"),
                None => format!("the variables are ${{{}}}", NAMES[..7].join("}, ${")),
            },
            Self::Missing(_) | Self::Empty(_) => {
                "start the server with it, or remove the entry".to_owned()
            }
            Self::Root(_) | Self::OverSet { .. } => {
                "start the server with a directory of its own, or name the directory in \
                 the entry"
                    .to_owned()
            }
            Self::NotAnAddress(_) => {
                "addresses come from ${ENV:NAME}, ${OPT:--name} and ${ARGS_AFTER_MATCH}".to_owned()
            }
            Self::NotAName(_) => "put the variable at the start of the pattern".to_owned(),
        })
    }
}

/// Literal members of the sets that no variable's value may lie over.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    members: Vec<(Vec<u8>, bool, &'static str)>,
}

impl Guard {
    /// Adds a member; `tree` when all beneath it belongs to the set too. The sets of sockets and
    /// devices are not watched over: they have members in `/tmp` and `/run`.
    pub fn add(&mut self, set: usize, path: &[u8], tree: bool) {
        if matches!(set, set::SECRETS | set::PERSISTENCE | set::MCP_CONFIG) && !path.is_empty() {
            self.members.push((path.to_vec(), tree, set::NAMES[set]));
        }
    }

    /// The member that a pattern covers, or that the directory it begins with is a part of.
    fn over(&self, pattern: &Pattern) -> Option<(&[u8], &'static str)> {
        let hit = |(member, tree, _): &&(Vec<u8>, bool, _)| {
            pattern.matches(member) || (*tree && is_within(&pattern.prefix, member))
        };
        self.members.iter().find(hit).map(|(member, _, set)| (member.as_slice(), *set))
    }
}

fn is_within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Puts values in.
pub struct Variables<'a> {
    /// Where values come from.
    pub bindings: &'a Bindings,
    /// Where symbolic links lead.
    pub links: Links<'a>,
    /// What values may not lie over.
    pub guard: Guard,
    /// The variables used so far with their values, escaped.
    pub used: BTreeMap<String, String>,
    /// Of those that come from environment and arguments the values as they were, without secrets.
    pub raw: BTreeMap<String, Vec<Bytes>>,
}

impl<'a> Variables<'a> {
    pub fn new(bindings: &'a Bindings) -> Self {
        let links = match &bindings.elsewhere {
            Some(elsewhere) => Links::recorded(&elsewhere.links),
            None => Links::of(bindings.root.as_ref()),
        };
        Self {
            bindings,
            links,
            guard: Guard::default(),
            used: BTreeMap::new(),
            raw: BTreeMap::new(),
        }
    }

    /// One pattern for each value of each variable.
    pub fn expand(
        &mut self,
        pieces: &[Piece],
        scope: Scope,
    ) -> Result<Vec<Vec<Piece>>, VariableError> {
        let mut all: Vec<Vec<Piece>> = vec![Vec::new()];
        let mut guarded = None;
        for (i, piece) in pieces.iter().enumerate() {
            let Piece::Variable(name) = piece else {
                all.iter_mut().for_each(|one| one.push(piece.clone()));
                continue;
            };
            let place = match (i, &pieces[i + 1..]) {
                _ if scope == Scope::Argument => Place::Text,
                (0, []) => Place::Whole,
                (0, rest) => Place::Start { open: rest.iter().any(is_wildcard) },
                _ => Place::Within,
            };
            let own_home = name == "HOME" || scope.is_set();
            if matches!(place, Place::Start { open: true }) && !own_home {
                guarded = Some(name);
            }
            let values = self.values(name, place, scope)?;
            let with = |value: &Vec<u8>| {
                let value: Vec<Piece> = value.iter().copied().map(Piece::Byte).collect();
                all.iter().map(|one| [one.as_slice(), &value].concat()).collect::<Vec<_>>()
            };
            all = values.iter().flat_map(with).collect();
        }
        if let Some(name) = guarded {
            for pattern in all.iter().filter_map(|pieces| Pattern::new(pieces).ok()) {
                self.check_over(name, &pattern)?;
            }
        }
        Ok(all)
    }

    /// The addresses that a variable's values lead to, as entries of `network.connect`. Of several
    /// arguments those count that are addresses.
    pub fn destinations(&mut self, name: &str) -> Result<Vec<String>, VariableError> {
        let raw = self.raw(name, Scope::Rules)?;
        let all: Vec<String> =
            raw.iter().filter_map(|value| value.to_str()).flat_map(url::destinations).collect();
        if OF_THE_USER.contains(&name) {
            return Err(VariableError::NotAnAddress(name.to_owned()));
        }
        let values = raw.iter().map(|value| value.as_bytes().into()).collect();
        self.raw.entry(name.to_owned()).or_insert(values);
        if all.is_empty() {
            return Err(VariableError::Missing(name.to_owned()));
        }
        self.used.insert(name.to_owned(), all.join("\n"));
        Ok(all)
    }

    fn check_over(&self, name: &str, pattern: &Pattern) -> Result<(), VariableError> {
        let Some((member, set)) = self.guard.over(pattern) else { return Ok(()) };
        Err(VariableError::OverSet {
            name: name.to_owned(),
            value: pattern.display(),
            set,
            member: member.escape_ascii().to_string(),
        })
    }

    fn values(
        &mut self,
        name: &str,
        place: Place,
        scope: Scope,
    ) -> Result<Vec<Vec<u8>>, VariableError> {
        let raw = self.raw(name, scope)?;
        let optional = matches!(name, "OTHER_HOMES" | "HOME") && scope.is_set();
        if raw.is_empty() && !optional {
            return Err(VariableError::Missing(name.to_owned()));
        }
        if !OF_THE_USER.contains(&name) {
            let raw = raw.iter().map(|value| value.as_bytes().into()).collect();
            match scope {
                // The same without what is left out elsewhere is found from it again.
                Scope::Argument => drop(self.raw.insert(name.to_owned(), raw)),
                _ => drop(self.raw.entry(name.to_owned()).or_insert(raw)),
            }
        }
        let mut values = Vec::new();
        for value in raw {
            let value = match place {
                // Canonical, and of the host.
                _ if matches!(scope, Scope::Own | Scope::Others) => value.as_bytes().to_vec(),
                Place::Within => plain(name, &value)?,
                Place::Text if value.is_empty() => {
                    return Err(VariableError::Empty(name.to_owned()));
                }
                Place::Text => value.as_bytes().to_vec(),
                _ => self.path(name, &value, place)?,
            };
            values.push(value);
        }
        if matches!(scope, Scope::Own | Scope::Others) {
            return Ok(values);
        }
        let key = if optional { format!("sets:{name}") } else { name.to_owned() };
        let shown: Vec<String> = values.iter().map(|v| v.escape_ascii().to_string()).collect();
        self.used.insert(key, shown.join("\n"));
        Ok(values)
    }

    /// Values as they are given; secrets that rules do not need are left out, so that they are in no
    /// recording. An argument of a program is matched whole.
    fn raw(&self, name: &str, scope: Scope) -> Result<Vec<OsString>, VariableError> {
        let given = self.given(name, scope)?.into_iter();
        if scope == Scope::Argument || OF_THE_USER.contains(&name) {
            return Ok(given.map(OsStr::to_owned).collect());
        }
        let without =
            |value: &OsStr| url::without_secrets(value.as_bytes()).map(OsString::from_vec);
        Ok(given.filter_map(without).collect())
    }

    fn given(&self, name: &str, scope: Scope) -> Result<Vec<&'a OsStr>, VariableError> {
        let bindings = self.bindings;
        let elsewhere = bindings.elsewhere.as_ref();
        if let Some(values) = elsewhere.and_then(|elsewhere| elsewhere.values.get(name)) {
            return Ok(values.iter().map(OsString::as_os_str).collect());
        }
        Ok(match (name, scope) {
            ("HOME", Scope::Set | Scope::Own) => {
                bindings.own_homes.iter().map(|p| p.as_os_str()).collect()
            }
            ("HOME" | "OTHER_HOMES", Scope::Others) | ("OTHER_HOMES", Scope::Set) => {
                bindings.other_homes.iter().map(|p| p.as_os_str()).collect()
            }
            ("HOME", _) => vec![bindings.home.as_os_str()],
            ("USER", _) => vec![OsStr::new(&bindings.user)],
            ("CWD", _) => vec![bindings.cwd.as_os_str()],
            ("TMPDIR", _) => vec![bindings.tmpdir.as_os_str()],
            ("ARGS_AFTER_MATCH", _) => own_arguments(&bindings.arguments)
                .iter()
                .map(OsString::as_os_str)
                .filter(|argument| !argument.as_bytes().starts_with(b"-"))
                .collect(),
            _ => {
                if let Some(variable) = name.strip_prefix("ENV:") {
                    bindings
                        .env
                        .get(OsStr::new(variable))
                        .map(OsString::as_os_str)
                        .into_iter()
                        .collect()
                } else if let Some(option) = name.strip_prefix("OPT:") {
                    option_values(&bindings.arguments, option)
                } else {
                    return Err(VariableError::Unknown(name.to_owned()));
                }
            }
        })
    }

    fn path(&self, name: &str, value: &OsStr, place: Place) -> Result<Vec<u8>, VariableError> {
        if value.is_empty() {
            return Err(VariableError::Empty(name.to_owned()));
        }
        let value = OsStr::from_bytes(url::path(value.as_bytes()));
        let path = self.bindings.cwd.join(value);
        let path = resolve(path.as_os_str().as_bytes(), &self.links).path;
        let Place::Start { open: true } = place else {
            // One path and no more: the sets and `deny` have their say about it as about any.
            let is_root = path.is_empty() && place == Place::Whole;
            return Ok(if is_root { b"/".to_vec() } else { path });
        };
        if path.is_empty() {
            return Err(VariableError::Root(name.to_owned()));
        }
        Ok(path)
    }
}

fn is_wildcard(piece: &Piece) -> bool {
    matches!(piece, Piece::Any | Piece::Star | Piece::DoubleStar | Piece::Class { .. })
}

fn plain(name: &str, value: &OsStr) -> Result<Vec<u8>, VariableError> {
    let value = value.as_bytes();
    if value.is_empty() {
        return Err(VariableError::Empty(name.to_owned()));
    }
    if value.contains(&b'/') || value == b"." || value == b".." {
        return Err(VariableError::NotAName(name.to_owned()));
    }
    Ok(value.to_vec())
}
