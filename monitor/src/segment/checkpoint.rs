//! Checkpoints: lines that sign, with the host's Ed25519 key, everything in front of them.
//!
//! ```text
//! {"v":1,"type":"checkpoint","time":"…","boot_ns":…,"next_seq":…,"key":"…"   S: the object before the signature
//! signature = Ed25519(key, "mcp-monitor checkpoint 1" || NUL || P || S)      P: 32 bytes, the chain of the line before
//! ,"signature":"…","chain":"…"}                                              as every line
//! ```
//!
//! `P` covers every line of the segment and, by the header's `previous`, every segment before it.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::Deserialize;

use super::ChainHash;
use crate::event::{JsonLine, parse_time};

const CONTEXT: &[u8] = b"mcp-monitor checkpoint 1\0";
const OPEN: &[u8] = b",\"signature\":\"";
/// Bytes from the signature's key to the end of its value.
const SUFFIX: usize = OPEN.len() + 2 * Signature::BYTE_SIZE + 1;

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// When it was made, ns since 1970.
    pub time_ns: u64,
    /// CLOCK_BOOTTIME, ns.
    pub boot_ns: u64,
    /// `seq` of the next event.
    pub next_seq: u64,
    /// The recording was ended in good order with it.
    pub end: bool,
    /// The public key that it was made with.
    pub key: [u8; 32],
    signature: [u8; Signature::BYTE_SIZE],
}

impl Checkpoint {
    /// Makes a checkpoint of everything up to the line whose chain is `before`, and appends its
    /// object. `signature` and `key` of `self` are filled in.
    pub fn sign(&mut self, key: &SigningKey, before: ChainHash, out: &mut Vec<u8>) {
        let start = out.len();
        self.key = key.verifying_key().to_bytes();
        let mut line = JsonLine::begin(out, "checkpoint");
        line.time("time", self.time_ns);
        line.number("boot_ns", self.boot_ns);
        line.number("next_seq", self.next_seq);
        if self.end {
            line.value("end", &true);
        }
        line.text("key", &hex(&self.key));
        line.end();
        out.pop();
        let signature = key.sign(&message(before, &out[start..]));
        self.signature = signature.to_bytes();
        out.extend_from_slice(OPEN);
        out.extend_from_slice(hex(&self.signature).as_bytes());
        out.extend_from_slice(b"\"}");
    }

    /// A checkpoint that is still to be signed.
    pub fn new(time_ns: u64, boot_ns: u64, next_seq: u64, end: bool) -> Self {
        let (key, signature) = ([0; 32], [0; Signature::BYTE_SIZE]);
        Self { time_ns, boot_ns, next_seq, end, key, signature }
    }

    /// The checkpoint of a line; `object` is what [`super::split`] gives.
    ///
    /// # Errors
    /// When a field is missing or has no meaning.
    pub fn parse(object: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Fields {
            time: String,
            boot_ns: u64,
            next_seq: u64,
            #[serde(default)]
            end: bool,
            key: String,
            signature: String,
        }
        let whole = [object, b"}"].concat();
        let fields: Fields = serde_json::from_slice(&whole).map_err(|error| error.to_string())?;
        Ok(Self {
            time_ns: parse_time(&fields.time).ok_or("its time is none")?,
            boot_ns: fields.boot_ns,
            next_seq: fields.next_seq,
            end: fields.end,
            key: unhex(&fields.key).ok_or("its key is none")?,
            signature: unhex(&fields.signature).ok_or("its signature is none")?,
        })
    }

    /// Whether the checkpoint of a line was made with the key that it names, for what ends with
    /// the chain `before`.
    pub(super) fn holds(&self, before: ChainHash, object: &[u8]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.key) else { return false };
        let Some((signed, suffix)) =
            object.len().checked_sub(SUFFIX).map(|length| object.split_at(length))
        else {
            return false;
        };
        let signature = Signature::from_bytes(&self.signature);
        // The signature that was parsed is the one at the end, not another of that name.
        suffix.starts_with(OPEN)
            && suffix[OPEN.len()..].strip_suffix(b"\"") == Some(hex(&self.signature).as_bytes())
            && key.verify_strict(&message(before, signed), &signature).is_ok()
    }
}

fn message(before: ChainHash, signed: &[u8]) -> Vec<u8> {
    [CONTEXT, &before.0, signed].concat()
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; N];
    if text.len() != 2 * N || text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
