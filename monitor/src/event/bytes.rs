//! Byte strings of watched processes as text. Linux paths, arguments and names are bytes; JSON
//! holds Unicode. The text form is lossless: valid UTF-8 stands as it is, except that a backslash
//! becomes `\\`, and every other byte (and NUL, which many readers cut strings at) becomes `\xNN`.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A byte string from a watched process.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(Box<[u8]>);

impl Bytes {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text form, as in the lines (before JSON's own escapes).
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for piece in pieces(&self.0) {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Backslash => text.push_str("\\\\"),
                Piece::Byte(byte) => text.push_str(&format!("\\x{byte:02x}")),
            }
        }
        text
    }

    /// The inverse of [`Bytes::to_text`].
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        if !text.contains('\\') {
            return Ok(Self::from(text.as_bytes()));
        }
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
            bytes.extend_from_slice(&rest[..at]);
            let (byte, used) = escape(&rest[at + 1..]).ok_or(TextError)?;
            bytes.push(byte);
            rest = &rest[at + 1 + used..];
        }
        bytes.extend_from_slice(rest);
        Ok(Self(bytes.into()))
    }

    /// The form for people's eyes: also what would move a cursor, hide or reorder text is escaped.
    pub fn shown(&self) -> Shown<'_> {
        Shown(&self.0)
    }
}

fn escape(after: &[u8]) -> Option<(u8, usize)> {
    match after {
        [b'\\', ..] => Some((b'\\', 1)),
        [b'x', high, low, ..] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            Some(((digit(*high)? * 16 + digit(*low)?) as u8, 3))
        }
        _ => None,
    }
}

/// Text with a backslash that starts no escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("byte text with a backslash that is neither \\\\ nor \\xNN")]
pub struct TextError;

/// A part of the text form.
pub(super) enum Piece<'a> {
    /// Stands as it is.
    Text(&'a str),
    /// Stands as `\\`.
    Backslash,
    /// Stands as `\xNN`.
    Byte(u8),
}

/// Takes bytes apart into what stands and what is escaped.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid().split_inclusive(['\\', '\0']).flat_map(|part| {
            let (text, end) = match part.as_bytes().last() {
                Some(b'\\') => (&part[..part.len() - 1], Some(Piece::Backslash)),
                Some(0) => (&part[..part.len() - 1], Some(Piece::Byte(0))),
                _ => (part, None),
            };
            [Some(Piece::Text(text)), end].into_iter().flatten()
        });
        valid.chain(chunk.invalid().iter().map(|&byte| Piece::Byte(byte)))
    })
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.shown())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("byte text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                Bytes::from_text(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Bytes for people's eyes, see [`Bytes::shown`].
#[derive(Clone, Copy)]
pub struct Shown<'a>(pub &'a [u8]);

impl<'a> From<&'a str> for Shown<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in pieces(self.0) {
            match piece {
                Piece::Text(text) => text.chars().try_for_each(|c| write_shown(f, c))?,
                Piece::Backslash => f.write_str("\\\\")?,
                Piece::Byte(byte) => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

fn write_shown(f: &mut impl fmt::Write, c: char) -> fmt::Result {
    match c {
        ' '..='~' => f.write_char(c),
        '\0'..='\x7f' => write!(f, "\\x{:02x}", u32::from(c)),
        _ if misleads(c) => write!(f, "\\u{{{:x}}}", u32::from(c)),
        _ => f.write_char(c),
    }
}

/// C1 controls, and characters without a shape of their own: bidi marks, joiners, separators,
/// tags, fillers.
fn misleads(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Text of our own in which names of others may stand, for people's eyes: what [`Shown`] escapes
/// beside backslashes is escaped.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() || misleads(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // Writing to a String does not fail.
        let _ = write_shown(&mut out, c);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_keeps_utf8_and_escapes_the_rest() {
        let bytes = Bytes::from(b"/tmp/\xc3\xa4\\\xff\0".as_slice());
        assert_eq!(bytes.to_text(), "/tmp/ä\\\\\\xff\\x00");
        assert_eq!(Bytes::from_text(&bytes.to_text()).unwrap(), bytes);
    }

    #[test]
    fn a_lone_backslash_is_no_text() {
        for text in ["\\", "a\\n", "\\x1", "\\xg0"] {
            assert_eq!(Bytes::from_text(text), Err(TextError), "{text}");
        }
    }

    #[test]
    fn people_see_no_control_bytes_and_no_bidi_marks() {
        let hostile = Bytes::from("a\x1b[2Jb\u{202e}c\u{200b}\n\u{9b}ä");
        assert_eq!(hostile.shown().to_string(), "a\\x1b[2Jb\\u{202e}c\\u{200b}\\x0a\\u{9b}ä");
    }

    proptest! {
        #[test]
        fn every_byte_string_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes.as_slice());
            let text = bytes.to_text();
            prop_assert!(!text.contains('\0'));
            prop_assert_eq!(Bytes::from_text(&text).unwrap(), bytes);
        }

        #[test]
        fn shown_text_holds_printable_characters_only(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let shown = Shown(&bytes).to_string();
            prop_assert!(shown.chars().all(|c| !c.is_control() && !misleads(c)), "{shown:?}");
        }
    }
}
