//! The chain field, written and read.

use std::fmt;

/// `,"chain":"`, 64 digits, `"}`.
const OPEN: &[u8] = b",\"chain\":\"";
const CLOSE: &[u8] = b"\"}";
const DIGITS: usize = 64;
/// Bytes from the end of the object to the end of the line, without the newline.
const SUFFIX: usize = OPEN.len() + DIGITS + CLOSE.len();
/// What every line of this format begins with.
const BEGIN: &[u8] = b"{\"v\":1,\"type\":\"";

/// Chain of one line: what the next line builds on.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What each digit stands for; 255 is none.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

impl ChainHash {
    /// The inverse of `to_string`; only lower-case digits, so that a line has one form.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let text: &[u8; DIGITS] = text.try_into().ok()?;
        let (mut hash, mut wrong) = ([0; 32], 0);
        for (byte, digits) in hash.iter_mut().zip(text.as_chunks::<2>().0) {
            let [high, low] = digits.map(|digit| VALUES[usize::from(digit)]);
            *byte = high << 4 | low & 15;
            wrong |= high | low;
        }
        (wrong < 16).then_some(Self(hash))
    }
}

/// What a line is to those who read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Begins a segment.
    Header,
    /// Signs what is before it.
    Checkpoint,
    /// Everything else: an event of any type.
    Event,
}

/// Chains lines: room for the hash before the line lets both be hashed in one go.
#[derive(Default)]
pub struct Chain {
    room: Vec<u8>,
}

impl Chain {
    /// Writes one line: what `fill` appends, chained to `before`. Gives its own chain.
    pub fn line(
        &mut self,
        before: ChainHash,
        out: &mut Vec<u8>,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> ChainHash {
        self.room.clear();
        self.room.extend_from_slice(&before.0);
        fill(&mut self.room);
        let hash = blake3::hash(&self.room);
        debug_assert_eq!(self.room.last(), Some(&b'}'));
        out.extend_from_slice(&self.room[before.0.len()..self.room.len() - 1]);
        out.extend_from_slice(OPEN);
        out.extend_from_slice(hash.to_hex().as_bytes());
        out.extend_from_slice(CLOSE);
        out.push(b'\n');
        ChainHash(*hash.as_bytes())
    }

    /// The chain that a line should have after `before`; `object` is what [`split`] gives.
    pub fn expected(&mut self, before: ChainHash, object: &[u8]) -> ChainHash {
        self.room.clear();
        self.room.extend_from_slice(&before.0);
        self.room.extend_from_slice(object);
        self.room.push(b'}');
        ChainHash(*blake3::hash(&self.room).as_bytes())
    }
}

/// Takes a line without its newline apart: the object without its last byte, and the chain.
pub fn split(line: &[u8]) -> Option<(&[u8], ChainHash)> {
    let (object, suffix) = line.split_at_checked(line.len().checked_sub(SUFFIX)?)?;
    let digits = suffix.strip_prefix(OPEN)?.strip_suffix(CLOSE)?;
    Some((object, ChainHash::from_hex(digits)?))
}

/// The type of a line and, of an event line, its `seq`: both stand at fixed places.
pub fn kind_and_seq(line: &[u8]) -> Option<(&[u8], Option<u64>)> {
    let rest = line.strip_prefix(BEGIN)?;
    let end = memchr::memchr(b'"', rest)?;
    let (kind, rest) = rest.split_at(end);
    let Some(rest) = rest.strip_prefix(b"\",\"seq\":") else { return Some((kind, None)) };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    Some((kind, Some(seq)))
}
