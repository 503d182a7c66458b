//! Values of variables, put into patterns as literals.
//!
//! A variable at the start of a pattern is a path: made absolute and canonical, and, when wildcards
//! follow, refused when it is the root or lies over a built-in set. Anywhere else it is a name
//! within one component.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use monitor_common::policy::set;

use super::{Bindings, error::nearest, pattern::Piece, resolve::resolve};

const NAMES: [&str; 8] =
    ["HOME", "USER", "CWD", "TMPDIR", "ARGS_AFTER_MATCH", "ENV:NAME", "OPT:--name", "OTHER_HOMES"];

/// Where a pattern stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In rules: `${HOME}` is the one home of the server.
    Rules,
    /// In a set, which only protects: `${HOME}` is every home of the user, and `${OTHER_HOMES}`
    /// are those of other people.
    Set,
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
    #[error("`${{{name}}}` is {value}, which lies over the {set} set ({member})")]
    OverSet { name: String, value: String, set: &'static str, member: String },
    #[error("`${{{0}}}` stands within a path, and its value is not a plain name")]
    NotAName(String),
}

impl VariableError {
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

    fn over(&self, value: &[u8]) -> Option<(&[u8], &'static str)> {
        let hit = |(member, tree, _): &&(Vec<u8>, bool, _)| {
            is_within(member, value) || (*tree && is_within(value, member))
        };
        self.members.iter().find(hit).map(|(member, _, set)| (member.as_slice(), *set))
    }
}

fn is_within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Puts values in.
pub struct Variables<'a> {
    bindings: &'a Bindings,
    /// What values may not lie over.
    pub guard: Guard,
    /// The variables used so far with their values, escaped.
    pub used: BTreeMap<String, String>,
}

impl<'a> Variables<'a> {
    pub fn new(bindings: &'a Bindings) -> Self {
        Self { bindings, guard: Guard::default(), used: BTreeMap::new() }
    }

    /// One pattern for each value of each variable.
    pub fn expand(
        &mut self,
        pieces: &[Piece],
        scope: Scope,
    ) -> Result<Vec<Vec<Piece>>, VariableError> {
        let mut all: Vec<Vec<Piece>> = vec![Vec::new()];
        for (i, piece) in pieces.iter().enumerate() {
            let Piece::Variable(name) = piece else {
                all.iter_mut().for_each(|one| one.push(piece.clone()));
                continue;
            };
            let place = match (i, &pieces[i + 1..]) {
                (0, []) => Place::Whole,
                (0, rest) => Place::Start { open: rest.iter().any(is_wildcard) },
                _ => Place::Within,
            };
            let values = self.values(name, place, scope)?;
            let with = |value: &Vec<u8>| {
                let value: Vec<Piece> = value.iter().copied().map(Piece::Byte).collect();
                all.iter().map(|one| [one.as_slice(), &value].concat()).collect::<Vec<_>>()
            };
            all = values.iter().flat_map(with).collect();
        }
        Ok(all)
    }

    fn values(
        &mut self,
        name: &str,
        place: Place,
        scope: Scope,
    ) -> Result<Vec<Vec<u8>>, VariableError> {
        let raw = self.raw(name, scope)?;
        let optional = matches!((name, scope), ("OTHER_HOMES" | "HOME", Scope::Set));
        if raw.is_empty() && !optional {
            return Err(VariableError::Missing(name.to_owned()));
        }
        let mut values = Vec::new();
        for value in raw {
            let value = match place {
                Place::Within => plain(name, value)?,
                _ => self.path(name, value, place, scope)?,
            };
            values.push(value);
        }
        let key = if optional { format!("sets:{name}") } else { name.to_owned() };
        let shown: Vec<String> = values.iter().map(|v| v.escape_ascii().to_string()).collect();
        self.used.insert(key, shown.join("\n"));
        Ok(values)
    }

    fn raw(&self, name: &str, scope: Scope) -> Result<Vec<&'a OsStr>, VariableError> {
        let bindings = self.bindings;
        Ok(match (name, scope) {
            ("HOME", Scope::Set) => bindings.own_homes.iter().map(|p| p.as_os_str()).collect(),
            ("OTHER_HOMES", Scope::Set) => {
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

    fn path(
        &self,
        name: &str,
        value: &OsStr,
        place: Place,
        scope: Scope,
    ) -> Result<Vec<u8>, VariableError> {
        if value.is_empty() {
            return Err(VariableError::Empty(name.to_owned()));
        }
        let path = resolve(self.bindings.cwd.join(value).as_os_str().as_bytes()).path;
        let Place::Start { open: true } = place else {
            // One path and no more: the sets and `deny` have their say about it as about any.
            let is_root = path.is_empty() && place == Place::Whole;
            return Ok(if is_root { b"/".to_vec() } else { path });
        };
        if path.is_empty() {
            return Err(VariableError::Root(name.to_owned()));
        }
        let checked = scope == Scope::Rules && name != "HOME";
        if let Some((member, set)) = checked.then(|| self.guard.over(&path)).flatten() {
            return Err(VariableError::OverSet {
                name: name.to_owned(),
                value: path.escape_ascii().to_string(),
                set,
                member: member.escape_ascii().to_string(),
            });
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

/// Values of `--option VALUE` and `--option=VALUE`.
fn option_values<'a>(arguments: &'a [OsString], option: &str) -> Vec<&'a OsStr> {
    let mut values = Vec::new();
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        let after = argument.as_bytes().strip_prefix(option.as_bytes());
        match after {
            Some([]) => values.extend(left.next().map(OsString::as_os_str)),
            Some([b'=', value @ ..]) => values.push(OsStr::from_bytes(value)),
            _ => {}
        }
    }
    values
}

/// The arguments behind the server itself, which in `npx -y PACKAGE DIR` is the package and in
/// `python3 -m MODULE DIR` the module.
fn own_arguments(arguments: &[OsString]) -> &[OsString] {
    const RUNNERS: [&str; 12] = [
        "npx", "bunx", "pnpx", "node", "nodejs", "bun", "deno", "uvx", "uv", "pipx", "npm", "pnpm",
    ];
    const WITH_VALUE: [&str; 9] = [
        "-p",
        "--package",
        "--from",
        "--with",
        "--python",
        "-r",
        "--require",
        "--import",
        "--directory",
    ];
    let Some((command, mut rest)) = arguments.split_first() else { return &[] };
    let command = command.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let command = String::from_utf8_lossy(command);
    if !RUNNERS.contains(&command.as_ref()) && !command.starts_with("python") {
        return rest;
    }
    while let Some((argument, after)) = rest.split_first() {
        let argument = argument.to_string_lossy();
        rest = after;
        if WITH_VALUE.contains(&argument.as_ref()) {
            rest = after.get(1..).unwrap_or_default();
        } else if argument == "-m" {
            return after.get(1..).unwrap_or_default();
        } else if !argument.starts_with('-')
            && !["run", "exec", "dlx", "x", "tool"].contains(&argument.as_ref())
        {
            return after;
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::rules::pattern::{Pattern, pieces};

    fn bindings(arguments: &[&str]) -> Bindings {
        Bindings {
            home: PathBuf::from("/nohome/u"),
            user: "u".to_owned(),
            cwd: PathBuf::from("/nowork/[a]*"),
            tmpdir: PathBuf::from("/"),
            arguments: arguments.iter().map(OsString::from).collect(),
            own_homes: vec![PathBuf::from("/nohome/u"), PathBuf::from("/nohome/v")],
            ..Bindings::default()
        }
    }

    fn expand(text: &str, bindings: &Bindings, scope: Scope) -> Result<Vec<String>, VariableError> {
        let mut variables = Variables::new(bindings);
        variables.guard.add(set::SECRETS, b"/nohome/u/.ssh", true);
        let all = variables.expand(&pieces(text).unwrap(), scope)?;
        Ok(all.iter().map(|pieces| Pattern::new(pieces).unwrap().display()).collect())
    }

    #[test]
    fn values_are_literals() {
        let mut variables = bindings(&[]);
        variables.arguments = vec![];
        let all =
            Variables::new(&variables).expand(&pieces("${CWD}/*").unwrap(), Scope::Rules).unwrap();
        let pattern = Pattern::new(&all[0]).unwrap();
        assert!(pattern.matches(b"/nowork/[a]*/x"));
        assert!(!pattern.matches(b"/nowork/aa/x"));
    }

    #[test]
    fn sets_cover_every_home_and_rules_only_the_servers() {
        let bindings = bindings(&[]);
        let rules = expand("${HOME}/.x", &bindings, Scope::Rules).unwrap();
        assert_eq!(rules, ["/nohome/u/.x"]);
        let set = expand("${HOME}/.x", &bindings, Scope::Set).unwrap();
        assert_eq!(set, ["/nohome/u/.x", "/nohome/v/.x"]);
    }

    #[test]
    fn roots_and_places_over_a_set_are_refused() {
        let refused = |arguments: &[&str]| {
            expand("${OPT:--dir}/**", &bindings(arguments), Scope::Rules).unwrap_err()
        };
        assert_eq!(
            expand("${TMPDIR}/**", &bindings(&[]), Scope::Rules),
            Err(VariableError::Root("TMPDIR".to_owned()))
        );
        assert!(matches!(refused(&["x", "--dir", "/nohome/u"]), VariableError::OverSet { .. }));
        assert!(matches!(refused(&["x", "--dir=/nohome"]), VariableError::OverSet { .. }));
        let beneath = ["x", "--dir", "/nohome/u/.ssh/keys"];
        assert!(matches!(refused(&beneath), VariableError::OverSet { .. }));
        assert!(matches!(refused(&["x", "--dir", "/a/../.."]), VariableError::Root(_)));
        assert!(matches!(refused(&["x", "--dir="]), VariableError::Empty(_)));
        assert!(matches!(refused(&["x", "--dir"]), VariableError::Missing(_)));
        let allowed = expand(
            "${OPT:--dir}/**",
            &bindings(&["x", "--dir", "/nohome/u/projects", "--dir=rel"]),
            Scope::Rules,
        );
        assert_eq!(allowed.unwrap(), ["/nohome/u/projects/**", "/nowork/[a]*/rel/**"]);
    }

    #[test]
    fn arguments_behind_the_server_are_found() {
        let own = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            own_arguments(&arguments).to_vec()
        };
        assert_eq!(own(&["npx", "-y", "@scope/server", "/a", "/b"]), ["/a", "/b"]);
        assert_eq!(own(&["/usr/bin/python3.11", "-m", "server", "/a"]), ["/a"]);
        assert_eq!(own(&["node", "--require", "x.js", "dist/index.js", "/a"]), ["/a"]);
        assert_eq!(own(&["/opt/server", "/a"]), ["/a"]);
        assert_eq!(own(&["uvx", "--from", "pkg", "server", "--x", "/a"]), ["--x", "/a"]);
        assert!(own(&["npx"]).is_empty());
    }

    #[test]
    fn names_within_a_path_hold_no_slash() {
        assert!(expand("/srv/${USER}/x", &bindings(&[]), Scope::Rules).is_ok());
        let odd = bindings(&["x", "--db", "../etc"]);
        assert!(matches!(
            expand("/srv/${OPT:--db}", &odd, Scope::Rules),
            Err(VariableError::NotAName(_))
        ));
    }

    #[test]
    fn unknown_variables_are_named_with_the_nearest() {
        let error = expand("${HOEM}/x", &bindings(&[]), Scope::Rules).unwrap_err();
        assert_eq!(error.help().unwrap(), "did you mean `${HOME}`?");
        assert!(expand("${OTHER_HOMES}/x", &bindings(&[]), Scope::Rules).is_err());
    }
}
