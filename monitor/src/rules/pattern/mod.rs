//! Patterns of paths: globset's syntax, where `*`, `?` and classes stop at `/`, and `/a/**` means
//! `/a` and everything beneath.
//!
//! A text becomes [`Piece`]s once. Braces are multiplied out and variables put in on pieces and
//! not on text, so a value can never be read as a pattern. The leading components without
//! wildcards become a literal path, which is resolved ([`crate::rules::resolve`]); the rest stays.

mod pieces;

use std::fmt::Write as _;

pub use pieces::{PatternError, Piece, alternatives, pieces};

use super::resolve::{Links, Resolved, resolve};

/// A component behind the literal prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// `**`: any number of components.
    Recursive,
    /// One component.
    Name(Vec<Piece>),
}

/// A pattern without braces and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Literal path that everything matched begins with; empty for the root. Of an abstract
    /// socket's name `@` and what follows.
    pub prefix: Vec<u8>,
    /// What follows.
    pub rest: Vec<Component>,
    /// `rest` follows without a slash, as in `@name-*`.
    pub glued: bool,
}

impl Pattern {
    /// From pieces in which only bytes, wildcards and classes are left.
    pub fn new(pieces: &[Piece]) -> Result<Self, PatternError> {
        let mut components: Vec<&[Piece]> = pieces.split(|p| *p == Piece::Byte(b'/')).collect();
        let first = components.remove(0);
        let mut prefix = Vec::new();
        let mut rest = Vec::new();
        let mut glued = false;
        if let [Piece::Byte(b'@'), name @ ..] = first {
            match literal(first) {
                Some(bytes) if bytes.len() + components.len() > 1 => prefix = bytes,
                Some(_) => return Err(PatternError::EmptyName),
                None if name.contains(&Piece::DoubleStar) => {
                    return Err(PatternError::PartialRecursion);
                }
                None => {
                    glued = true;
                    prefix.push(b'@');
                    rest.push(Component::Name(name.to_vec()));
                }
            }
        } else if is_recursive(first) {
            rest.push(Component::Recursive);
        } else if pieces.is_empty() {
            return Err(PatternError::Empty);
        } else if !first.is_empty() {
            return Err(PatternError::Relative);
        } else if components == [&[] as &[Piece]] {
            return Ok(Self { prefix, rest, glued });
        }
        let count = components.len();
        for (i, component) in components.into_iter().enumerate() {
            check_component(component, i + 1 == count)?;
            match literal(component) {
                Some(name) if rest.is_empty() => {
                    prefix.push(b'/');
                    prefix.extend(name);
                }
                _ if is_recursive(component) => {
                    if rest.last() != Some(&Component::Recursive) {
                        rest.push(Component::Recursive);
                    }
                }
                _ => rest.push(Component::Name(component.to_vec())),
            }
        }
        const PROC_LINKS: [&str; 4] = ["self", "thread-self", "mounts", "net"];
        let in_proc = prefix.strip_prefix(b"/proc/").unwrap_or_default();
        let first = in_proc.split(|b| *b == b'/').next().unwrap_or_default();
        if let Some(link) = PROC_LINKS.into_iter().find(|link| link.as_bytes() == first) {
            return Err(PatternError::ProcLink(link));
        }
        Ok(Self { prefix, rest, glued })
    }

    /// An abstract socket's name.
    pub fn is_abstract(&self) -> bool {
        self.prefix.first() == Some(&b'@')
    }

    /// Begins with `**/`: such a pattern has no place in the file system to which labels could be
    /// bound.
    pub fn is_floating(&self) -> bool {
        self.prefix.is_empty()
            && self.rest.first() == Some(&Component::Recursive)
            && self.rest.len() > 1
    }

    /// Resolves the literal prefix in place and returns the links on the way.
    pub fn resolve(&mut self, known: &Links<'_>) -> Vec<Vec<u8>> {
        if self.is_abstract() || self.prefix.is_empty() {
            return Vec::new();
        }
        let Resolved { path, links } = resolve(&self.prefix, known);
        self.prefix = path;
        links
    }

    /// Whether a path matches, by a walk of its own: the slow twin of the automaton, for
    /// explanations.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.prefix.is_empty() && self.rest.is_empty() {
            return path == b"/";
        }
        let Some(left) = path.strip_prefix(self.prefix.as_slice()) else { return false };
        if left.is_empty() {
            return self.rest.iter().all(|component| *component == Component::Recursive);
        }
        let Some(left) = (if self.glued { Some(left) } else { left.strip_prefix(b"/") }) else {
            return false;
        };
        let names: Vec<&[u8]> = left.split(|b| *b == b'/').collect();
        // reach[i]: the components so far can eat exactly the first i names.
        let mut reach = vec![false; names.len() + 1];
        reach[0] = true;
        for component in &self.rest {
            let mut next = vec![false; names.len() + 1];
            for i in (0..=names.len()).filter(|i| reach[*i]) {
                match component {
                    Component::Recursive => next[i..].fill(true),
                    Component::Name(pieces) => {
                        if names.get(i).is_some_and(|name| name_matches(pieces, name)) {
                            next[i + 1] = true;
                        }
                    }
                }
            }
            reach = next;
        }
        reach[names.len()]
    }

    /// Whether all that `other` matches is matched, as far as this can be told without asking what
    /// wildcards could stand for.
    pub fn surely_covers(&self, other: &Self) -> bool {
        let ends_open = self.rest.last() == Some(&Component::Recursive);
        let beneath = ends_open && !other.glued && !other.prefix.is_empty();
        self == other || (beneath || other.rest.is_empty()) && self.matches(&other.prefix)
    }

    /// The pattern as text, with bytes that are not printable ASCII as `\xNN`.
    pub fn display(&self) -> String {
        let mut text = self.prefix.escape_ascii().to_string();
        if self.prefix.is_empty() && self.rest.is_empty() {
            text.push('/');
        }
        for (i, component) in self.rest.iter().enumerate() {
            if !(i == 0 && (self.glued || self.is_floating())) {
                text.push('/');
            }
            match component {
                Component::Recursive => text.push_str("**"),
                Component::Name(pieces) => {
                    pieces.iter().for_each(|piece| push_glob(&mut text, piece));
                }
            }
        }
        text
    }
}

fn check_component(component: &[Piece], last: bool) -> Result<(), PatternError> {
    match component {
        [] if last => Err(PatternError::Slash),
        [] => Err(PatternError::DoubleSlash),
        [Piece::Byte(b'.')] => Err(PatternError::Dots(".")),
        [Piece::Byte(b'.'), Piece::Byte(b'.')] => Err(PatternError::Dots("..")),
        [Piece::DoubleStar] => Ok(()),
        _ if component.contains(&Piece::DoubleStar) => Err(PatternError::PartialRecursion),
        _ => Ok(()),
    }
}

fn is_recursive(component: &[Piece]) -> bool {
    *component == [Piece::DoubleStar]
}

fn literal(component: &[Piece]) -> Option<Vec<u8>> {
    let byte = |piece: &Piece| match piece {
        Piece::Byte(byte) => Some(*byte),
        _ => None,
    };
    component.iter().map(byte).collect()
}

fn piece_matches(piece: &Piece, byte: u8) -> bool {
    match piece {
        Piece::Byte(own) => *own == byte,
        Piece::Class { negated, ranges } => {
            byte != b'/'
                && ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
        }
        _ => byte != b'/',
    }
}

/// Wildcard matching that goes back to the last star only, so it takes no exponential time.
pub fn name_matches(pieces: &[Piece], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pieces.get(p) {
            Some(Piece::Star) => {
                star = Some((p, n));
                p += 1;
            }
            Some(piece) if piece_matches(piece, name[n]) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star_p, star_n)) = star else { return false };
                star = Some((star_p, star_n + 1));
                p = star_p + 1;
                n = star_n + 1;
            }
        }
    }
    pieces[p..].iter().all(|piece| *piece == Piece::Star)
}

/// Whether an argument matches, where `**` is any text: the slow twin of the automaton.
pub fn argument_matches(pieces: &[Piece], argument: &[u8]) -> bool {
    // reach[i]: the pieces so far can eat exactly the first i bytes.
    let mut reach = vec![false; argument.len() + 1];
    reach[0] = true;
    for piece in pieces {
        let mut next = vec![false; argument.len() + 1];
        let stays = matches!(piece, Piece::Star | Piece::DoubleStar);
        for i in 0..=argument.len() {
            let before = i.checked_sub(1).map(|before| (before, argument[before]));
            next[i] = match before {
                _ if stays && reach[i] => true,
                Some((before, byte)) if stays => {
                    next[before] && (byte != b'/' || *piece == Piece::DoubleStar)
                }
                Some((before, byte)) => reach[before] && piece_matches(piece, byte),
                None => false,
            };
        }
        reach = next;
    }
    reach[argument.len()]
}

fn push_glob(text: &mut String, piece: &Piece) {
    match piece {
        Piece::Byte(byte) => {
            let _ = write!(text, "{}", byte.escape_ascii());
        }
        Piece::Star => text.push('*'),
        Piece::Class { negated, ranges } => {
            text.push_str(if *negated { "[!" } else { "[" });
            for (low, high) in ranges {
                text.push(char::from(*low));
                if low != high {
                    text.push('-');
                    text.push(char::from(*high));
                }
            }
            text.push(']');
        }
        _ => text.push('?'),
    }
}
