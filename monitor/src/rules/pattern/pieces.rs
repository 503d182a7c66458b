//! The text of a pattern, taken apart: wildcards, classes, variables, alternatives.

use monitor_common::limits::PATH_MAX;

/// Most patterns that the braces of one entry may stand for.
const ALTERNATIVES_MAX: usize = 256;
/// Most pairs of braces in one entry.
const BRACES_MAX: usize = 32;

/// One element of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A byte that stands for itself.
    Byte(u8),
    /// `?`: one byte that is not `/`.
    Any,
    /// `*`: bytes that are not `/`.
    Star,
    /// `**`: any number of components, when it is one by itself.
    DoubleStar,
    /// `[...]`: one byte of the ranges (or none of them), never `/`.
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
    /// `${...}`, until values are put in.
    Variable(String),
    /// `{`, `,` and `}` of alternatives, until they are multiplied out.
    Open,
    Comma,
    Close,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("the pattern is empty")]
    Empty,
    #[error("the pattern is longer than any path")]
    TooLong,
    #[error("the name of an abstract socket is empty")]
    EmptyName,
    #[error("the pattern starts with neither `/` nor `**/`")]
    Relative,
    #[error("`{0}` within the path")]
    Dots(&'static str),
    #[error("`/proc/{0}` is a link to the process that looks, and in no resolved path")]
    ProcLink(&'static str),
    #[error("the pattern ends in `/`")]
    Slash,
    #[error("two slashes follow each other")]
    DoubleSlash,
    #[error("`**` is only a part of a component")]
    PartialRecursion,
    #[error("`[` has no `]`")]
    UnclosedClass,
    #[error("`[...]` can hold ASCII characters only, and no `/`")]
    ClassCharacter,
    #[error("the range `{0}-{1}` runs backwards")]
    BackwardRange(char, char),
    #[error("`{{` has no `}}`")]
    UnclosedBrace,
    #[error("`}}` has no `{{`")]
    UnopenedBrace,
    #[error("`${{` has no `}}`")]
    UnclosedVariable,
    #[error("the pattern ends in `\\`")]
    DanglingEscape,
    #[error("a NUL byte can be in no path")]
    Nul,
    #[error("the braces stand for more than {ALTERNATIVES_MAX} patterns")]
    TooManyAlternatives,
}

impl PatternError {
    /// What to write instead.
    pub fn help(&self, text: &str) -> Option<String> {
        Some(match self {
            Self::Relative if text.starts_with("~/") => format!("write ${{HOME}}{}", &text[1..]),
            Self::Relative if text.starts_with('$') => {
                "variables are written with braces: ${HOME}".to_owned()
            }
            Self::Relative => format!("write ${{CWD}}/{text} or **/{text}"),
            Self::Slash => {
                let stem = text.trim_end_matches('/');
                format!("write {stem} for the directory itself, {stem}/** with all beneath it")
            }
            Self::Dots(_) => "write the path that is meant: `.` and `..` are in no \
                              resolved path"
                .to_owned(),
            Self::ProcLink("mounts" | "net") => {
                let end = text.trim_start_matches("/proc/");
                format!("write /proc/*/{end}")
            }
            Self::ProcLink(link) => format!("write {}", text.replacen(link, "*", 1)),
            Self::PartialRecursion => {
                "`**` stands alone between slashes; within a component write `*`".to_owned()
            }
            Self::UnclosedClass | Self::UnclosedBrace | Self::UnopenedBrace => {
                "write a backslash before a bracket that stands for itself".to_owned()
            }
            Self::TooManyAlternatives => "use several entries, or `*`".to_owned(),
            _ => return None,
        })
    }
}

/// Takes a text apart.
pub fn pieces(text: &str) -> Result<Vec<Piece>, PatternError> {
    if text.len() > PATH_MAX {
        return Err(PatternError::TooLong);
    }
    let mut pieces = Vec::new();
    let mut braces = 0;
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\0' => return Err(PatternError::Nul),
            '?' => pieces.push(Piece::Any),
            '*' => match rest.strip_prefix('*') {
                Some(after) => {
                    pieces.push(Piece::DoubleStar);
                    rest = after;
                }
                None => pieces.push(Piece::Star),
            },
            '[' => {
                let (class, after) = class(rest)?;
                pieces.push(class);
                rest = after;
            }
            '$' if rest.starts_with('{') => {
                let end = rest.find('}').ok_or(PatternError::UnclosedVariable)?;
                pieces.push(Piece::Variable(rest[1..end].to_owned()));
                rest = &rest[end + 1..];
            }
            '{' => {
                depth += 1;
                braces += 1;
                if braces > BRACES_MAX {
                    return Err(PatternError::TooManyAlternatives);
                }
                pieces.push(Piece::Open);
            }
            '}' => {
                depth = depth.checked_sub(1).ok_or(PatternError::UnopenedBrace)?;
                pieces.push(Piece::Close);
            }
            ',' if depth > 0 => pieces.push(Piece::Comma),
            '\\' => {
                let escaped = rest.chars().next().ok_or(PatternError::DanglingEscape)?;
                rest = &rest[escaped.len_utf8()..];
                push_bytes(&mut pieces, escaped);
            }
            c => push_bytes(&mut pieces, c),
        }
    }
    if depth > 0 { Err(PatternError::UnclosedBrace) } else { Ok(pieces) }
}

fn push_bytes(pieces: &mut Vec<Piece>, c: char) {
    pieces.extend(c.encode_utf8(&mut [0; 4]).bytes().map(Piece::Byte));
}

/// A class behind its `[`, and what follows it.
fn class(text: &str) -> Result<(Piece, &str), PatternError> {
    let inner = text.strip_prefix(['!', '^']);
    let negated = inner.is_some();
    let text = inner.unwrap_or(text);
    // A `]` at the very beginning stands for itself.
    let end = text.char_indices().skip(1).find(|(_, c)| *c == ']');
    let (end, _) = end.ok_or(PatternError::UnclosedClass)?;
    let characters: Vec<char> = text[..end].chars().collect();
    let mut ranges = Vec::new();
    let mut left = characters.as_slice();
    while let [first, after @ ..] = left {
        // A `-` at either end stands for itself.
        let (first, last) = match after {
            ['-', last, after @ ..] => {
                left = after;
                (*first, *last)
            }
            _ => {
                left = after;
                (*first, *first)
            }
        };
        let (Ok(low), Ok(high)) = (u8::try_from(first), u8::try_from(last)) else {
            return Err(PatternError::ClassCharacter);
        };
        if !low.is_ascii() || !high.is_ascii() || (low..=high).contains(&b'/') {
            return Err(PatternError::ClassCharacter);
        }
        if high < low {
            return Err(PatternError::BackwardRange(first, last));
        }
        ranges.push((low, high));
    }
    Ok((Piece::Class { negated, ranges }, &text[end + 1..]))
}

/// Multiplies alternatives out.
pub fn alternatives(pieces: &[Piece]) -> Result<Vec<Vec<Piece>>, PatternError> {
    let Some(open) = pieces.iter().position(|piece| *piece == Piece::Open) else {
        return Ok(vec![pieces.to_vec()]);
    };
    let mut depth = 0;
    let mut start = open + 1;
    let mut branches = Vec::new();
    let mut close = open;
    for (i, piece) in pieces.iter().enumerate().skip(open) {
        match piece {
            Piece::Open => depth += 1,
            Piece::Close => depth -= 1,
            _ => {}
        }
        let ends = depth == 0;
        if ends || (depth == 1 && *piece == Piece::Comma) {
            branches.push(&pieces[start..i]);
            start = i + 1;
        }
        if ends {
            close = i;
            break;
        }
    }
    let mut all = Vec::new();
    for branch in branches {
        let joined = [&pieces[..open], branch, &pieces[close + 1..]].concat();
        all.extend(alternatives(&joined)?);
        if all.len() > ALTERNATIVES_MAX {
            return Err(PatternError::TooManyAlternatives);
        }
    }
    Ok(all)
}
