//! From the bytes of a ring-buffer record to a checked [`Decoded`]: the fixed part copied out, the
//! strings borrowed. Pure; whatever the bytes are, the answer is a record or an error.

use std::{mem, slice};

use monitor_common::{
    policy::{self, reason, set, verdict},
    record::{self, Record, STRINGS, change, kind, process},
};
use thiserror::Error;

/// Bytes of the fixed part.
pub const FIXED: usize = size_of::<Record>();

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The fixed part.
    pub record: Record,
    /// The strings, see [`record::PATH`] and its neighbours.
    pub strings: [&'a [u8]; STRINGS],
}

impl<'a> Decoded<'a> {
    /// The path of the object.
    pub fn path(&self) -> &'a [u8] {
        self.strings[record::PATH]
    }

    /// Second path: new name, link text, mount source, interpreter.
    pub fn second(&self) -> &'a [u8] {
        self.strings[record::SECOND]
    }

    /// Working directory (exec).
    pub fn cwd(&self) -> &'a [u8] {
        self.strings[record::CWD]
    }

    /// Arguments (exec), each ended by NUL.
    pub fn arguments(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let vector = self.strings[record::ARGV];
        let ended = vector.strip_suffix(b"\0").unwrap_or(vector);
        let count = if vector.is_empty() { 0 } else { usize::MAX };
        ended.split(|&byte| byte == 0).take(count)
    }
}

/// Why bytes are not a record. The caller counts and skips them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Fewer bytes than the fixed part, or than the record says it has.
    #[error("record of {have} bytes, {need} needed")]
    Short {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The strings do not add up to the record's size.
    #[error("record of {size} bytes whose parts take {parts}")]
    Parts {
        /// What the record says.
        size: usize,
        /// Fixed part and strings.
        parts: usize,
    },
    /// A kind that this version does not know.
    #[error("record of unknown kind {0}")]
    UnknownKind(u8),
    /// A field holds a number that has no meaning.
    #[error("record of kind {kind} with {field} {value}")]
    Field {
        /// The record's kind.
        kind: u8,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u8,
    },
}

/// Checks `bytes` and takes them apart. Bytes after the record's own size are ignored.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let record = fixed(bytes)?;
    if record.kind == 0 || record.kind >= kind::END {
        return Err(DecodeError::UnknownKind(record.kind));
    }
    check_fields(&record)?;
    let size = record.size as usize;
    let parts = FIXED + record.lengths.iter().map(|&length| usize::from(length)).sum::<usize>();
    if parts != size {
        return Err(DecodeError::Parts { size, parts });
    }
    let mut rest =
        bytes.get(FIXED..size).ok_or(DecodeError::Short { have: bytes.len(), need: size })?;
    let mut strings: [&[u8]; STRINGS] = [&[]; STRINGS];
    for (string, length) in strings.iter_mut().zip(record.lengths) {
        let (head, tail) =
            rest.split_at_checked(usize::from(length)).ok_or(DecodeError::Parts { size, parts })?;
        *string = head;
        rest = tail;
    }
    Ok(Decoded { record, strings })
}

/// The inverse: what the kernel puts into the ring. For benchmarks, fuzz seeds and tests.
pub fn encode(mut record: Record, strings: [&[u8]; STRINGS]) -> Vec<u8> {
    for (length, string) in record.lengths.iter_mut().zip(strings) {
        *length = u16::try_from(string.len()).unwrap_or(u16::MAX);
    }
    let parts = strings.map(|string| &string[..string.len().min(usize::from(u16::MAX))]);
    record.size = (FIXED + parts.iter().map(|part| part.len()).sum::<usize>()) as u32;
    // SAFETY: a `Record` is FIXED initialised bytes without padding, and outlives the slice.
    let fixed = unsafe { slice::from_raw_parts((&raw const record).cast::<u8>(), FIXED) };
    [fixed, parts.concat().as_slice()].concat()
}

/// A record of `kind` with every other field 0.
pub fn blank(kind: u8) -> Record {
    // SAFETY: every bit pattern is a value of `Record`.
    let mut record: Record = unsafe { mem::zeroed() };
    record.kind = kind;
    record.op = u8::from(matches!(kind, kind::CHANGE | kind::PROCESS));
    record
}

/// Time of a record that has not been decoded yet, to order records of several rings.
pub fn time_ns(bytes: &[u8]) -> Option<u64> {
    let start = mem::offset_of!(Record, time_ns);
    let field = bytes.get(start..start + 8)?;
    Some(u64::from_ne_bytes(field.try_into().ok()?))
}

/// Flags of a record that has not been decoded yet.
pub fn flags(bytes: &[u8]) -> Option<u32> {
    let start = mem::offset_of!(Record, flags);
    let field = bytes.get(start..start + 4)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

/// Puts another judgement into the bytes of a decoded record, and another string at `position`.
pub fn amend(decoded: &Decoded<'_>, judged: &Record, position: usize, string: &[u8]) -> Vec<u8> {
    let mut strings = decoded.strings;
    strings[position] = string;
    encode(*judged, strings)
}

fn fixed(bytes: &[u8]) -> Result<Record, DecodeError> {
    if bytes.len() < FIXED {
        return Err(DecodeError::Short { have: bytes.len(), need: FIXED });
    }
    // SAFETY: FIXED bytes are there, checked above; `Record` is a struct of integers and byte
    // arrays for which every bit pattern is a value; the read does not ask for alignment.
    Ok(unsafe { bytes.as_ptr().cast::<Record>().read_unaligned() })
}

fn check_fields(record: &Record) -> Result<(), DecodeError> {
    let ops = match record.kind {
        kind::CHANGE => change::NAMES.len(),
        kind::PROCESS => process::NAMES.len(),
        _ => usize::from(u8::MAX) + 1,
    };
    let named = matches!(record.kind, kind::CHANGE | kind::PROCESS);
    let decision = &record.decision;
    let bounds = [
        ("op", record.op, usize::from(record.op) < ops && (record.op != 0 || !named)),
        ("verdict", decision.verdict, usize::from(decision.verdict) < verdict::NAMES.len()),
        ("reason", decision.reason, decision.reason <= reason::DETECTOR),
        ("set", decision.set, usize::from(decision.set) < set::COUNT),
        ("access", decision.access, decision.access >> policy::access::COUNT == 0),
    ];
    match bounds.into_iter().find(|(_, _, known)| !known) {
        Some((field, value, _)) => Err(DecodeError::Field { kind: record.kind, field, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strings_come_out_as_they_went_in() {
        let bytes = encode(blank(kind::EXEC), [b"/bin/sh", b"", b"/home", b"sh\0-c\0\0"]);
        let decoded = decode(&bytes).unwrap();
        assert_eq!(decoded.path(), b"/bin/sh");
        assert_eq!(decoded.second(), b"");
        assert_eq!(decoded.cwd(), b"/home");
        let arguments: Vec<_> = decoded.arguments().collect();
        assert_eq!(arguments, [b"sh".as_slice(), b"-c", b""]);
    }

    #[test]
    fn an_empty_vector_has_no_arguments_and_a_lone_nul_has_one() {
        let none = encode(blank(kind::EXEC), [b"/x", b"", b"", b""]);
        assert_eq!(decode(&none).unwrap().arguments().count(), 0);
        let one = encode(blank(kind::EXEC), [b"/x", b"", b"", b"\0"]);
        assert_eq!(decode(&one).unwrap().arguments().collect::<Vec<_>>(), [b"".as_slice()]);
    }

    #[test]
    fn an_amended_record_has_the_new_judgement_and_string() {
        let bytes = encode(blank(kind::CHANGE), [b"/a/../b", b"/c", b"", b""]);
        let decoded = decode(&bytes).unwrap();
        let judged = Record { enforced: record::enforced::AGENT, ..decoded.record };
        let amended = amend(&decoded, &judged, record::PATH, b"/b");
        let amended = decode(&amended).unwrap();
        assert_eq!((amended.path(), amended.second()), (b"/b".as_slice(), b"/c".as_slice()));
        assert_eq!(amended.record.enforced, record::enforced::AGENT);
    }

    #[test]
    fn padding_after_the_record_is_ignored() {
        let mut bytes = encode(blank(kind::OPEN), [b"/etc/hosts", b"", b"", b""]);
        bytes.extend_from_slice(&[0xff; 5]);
        assert_eq!(decode(&bytes).unwrap().path(), b"/etc/hosts");
    }

    #[test]
    fn a_cut_record_is_short() {
        let bytes = encode(blank(kind::OPEN), [b"/etc/hosts", b"", b"", b""]);
        assert!(matches!(decode(&bytes[..FIXED - 1]), Err(DecodeError::Short { .. })));
        assert!(matches!(decode(&bytes[..bytes.len() - 1]), Err(DecodeError::Short { .. })));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let mut bytes = encode(blank(kind::OPEN), [b"abcde", b"", b"", b""]);
        bytes[0] -= 1;
        assert!(matches!(decode(&bytes), Err(DecodeError::Parts { .. })));
    }

    #[test]
    fn unknown_kinds_and_meaningless_fields_are_named() {
        let bytes = encode(blank(kind::END), [b"", b"", b"", b""]);
        assert_eq!(decode(&bytes), Err(DecodeError::UnknownKind(kind::END)));
        let mut record = blank(kind::CHANGE);
        record.op = change::NAMES.len() as u8;
        let error = decode(&encode(record, [b"", b"", b"", b""])).unwrap_err().to_string();
        assert_eq!(error, "record of kind 5 with op 14");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(&bytes);
            let _ = time_ns(&bytes);
        }

        #[test]
        fn a_mangled_record_gives_strings_within_its_bytes(
            at in 0..FIXED, value in any::<u8>(), path in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = encode(blank(kind::OPEN), [&path, b"second", b"", b""]);
            bytes[at] = value;
            if let Ok(decoded) = decode(&bytes) {
                let total: usize = decoded.strings.iter().map(|string| string.len()).sum();
                prop_assert!(total + FIXED <= bytes.len());
            }
        }
    }
}
