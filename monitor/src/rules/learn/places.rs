//! Which variable a path begins with: the directories that a start has given to the server, the
//! home, the directory for temporary files.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use super::{
    super::{
        resolve::{Links, resolve},
        variables::{own_arguments, url},
    },
    shape,
};
use crate::event::{Bytes, World};

/// What a place is, which says how far what is seen in it may be generalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory or file that the person gave to the server.
    Work,
    /// The person's home.
    Home,
    /// Temporary files.
    Temporary,
    /// Everything else.
    System,
}

/// The beginning of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// As it is written: a variable, or nothing.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// A path behind its [`Root`].
pub struct Placed<'a> {
    /// The root.
    pub root: &'a Root,
    /// What follows, with its slash; empty for the root itself.
    pub rest: &'a [u8],
}

/// The variables of one start and their values, longest value first.
pub struct Places {
    values: Vec<(Vec<u8>, Root)>,
    homes: Vec<Bytes>,
    system: Root,
    /// Addresses on the command line: the variable, and the entry that it stands for.
    pub addresses: Vec<(String, String)>,
}

impl Places {
    /// Those of the machine and the start that a recording is from.
    pub fn of(world: &World) -> Self {
        let mut places = Self {
            values: Vec::new(),
            homes: world.own_homes.iter().chain([&world.home]).cloned().collect(),
            system: Root { text: String::new(), kind: Kind::System },
            addresses: Vec::new(),
        };
        for (name, value) in arguments(world) {
            if let Ok(text) = str::from_utf8(&value) {
                let addresses = url::destinations(text).into_iter();
                places.addresses.extend(addresses.map(|address| (format!("${{{name}}}"), address)));
            }
            let path = url::path(&value);
            if path.contains(&b'/') && !text_is_address(path) {
                places.add(&name, path, world.cwd.as_bytes(), Kind::Work);
            }
        }
        for (name, value, kind) in [
            ("CWD", &world.cwd, Kind::Work),
            ("HOME", &world.home, Kind::Home),
            ("TMPDIR", &world.tmpdir, Kind::Temporary),
        ] {
            places.add(name, value.as_bytes(), b"/", kind);
        }
        // The sort is stable: of equal values the first that was named stays in front.
        places.values.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        places
    }

    fn add(&mut self, name: &str, value: &[u8], base: &[u8], kind: Kind) {
        let absolute =
            if value.starts_with(b"/") { value.to_vec() } else { [base, b"/", value].concat() };
        let value = resolve(&absolute, &Links::default()).path;
        let text = format!("${{{name}}}");
        // A start in the home directory, or above it, gives nothing of it to the server.
        let over_home = self.homes.iter().any(|home| within(home.as_bytes(), &value).is_some());
        if value.len() < 2 || over_home && kind != Kind::Home {
            return;
        }
        if !self.values.iter().any(|(known, _)| *known == value) {
            self.values.push((value, Root { text, kind }));
        }
    }

    /// Splits a path.
    pub fn place<'a>(&'a self, path: &'a [u8]) -> Placed<'a> {
        let found = self.values.iter().find_map(|(value, root)| Some((root, within(path, value)?)));
        let (root, rest) = found.unwrap_or((&self.system, path));
        Placed { root, rest }
    }
}

impl Placed<'_> {
    /// The names of what follows, without what is made up anew every time.
    pub fn names(&self) -> Vec<String> {
        let names = self.rest.split(|byte| *byte == b'/').skip(1).filter(|name| !name.is_empty());
        let in_proc = self.root.kind == Kind::System && self.rest.starts_with(b"/proc/");
        let names = names.enumerate().map(|(depth, name)| {
            let number = in_proc && name.iter().all(u8::is_ascii_digit);
            if number {
                return "*".to_owned();
            }
            shape::component(name, self.root.kind == Kind::Temporary && depth == 0)
        });
        names.collect()
    }
}

/// Options with a value and arguments behind the server, with the names of their variables.
fn arguments(world: &World) -> Vec<(String, Vec<u8>)> {
    let all: Vec<OsString> =
        world.arguments.iter().map(|a| OsString::from_vec(a.as_bytes().to_vec())).collect();
    let own: Vec<Vec<u8>> = own_arguments(&all).iter().cloned().map(OsString::into_vec).collect();
    let mut found = Vec::new();
    let mut option: Option<String> = None;
    for argument in own {
        let is_option = argument.starts_with(b"-");
        let name = |bytes: &[u8]| str::from_utf8(bytes).ok().map(|name| format!("OPT:{name}"));
        if is_option {
            let (before, value) = match argument.iter().position(|byte| *byte == b'=') {
                Some(at) => (&argument[..at], Some(argument[at + 1..].to_vec())),
                None => (&argument[..], None),
            };
            option = name(before);
            if let (Some(name), Some(value)) = (option.clone(), value) {
                found.push((name, value));
                option = None;
            }
            continue;
        }
        let variable = option.take().unwrap_or_else(|| "ARGS_AFTER_MATCH".to_owned());
        found.push((variable, argument));
    }
    found
}

fn text_is_address(path: &[u8]) -> bool {
    memchr::memmem::find(path, b"://").is_some()
}

/// What follows a directory in a path, empty for itself.
fn within<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}
