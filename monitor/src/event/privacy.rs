//! What of a watched process's arguments, and of content captured from it, is kept. Applied where
//! events are made, so that recording, alerts and everything behind them say the same.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Bytes, PolicyText};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// All of it.
    #[default]
    Full,
    /// A keyed hash in place of each argument: equal ones can be told, and nothing else.
    Hashed,
    /// None of it.
    Off,
}

impl fmt::Display for Privacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Hashed => "hashed",
            Self::Off => "off",
        })
    }
}

/// What hashes begin with.
const HASHED: &str = "hashed:";
/// Hexadecimal digits of them.
const HASH_LEN: usize = 32;

/// Carries out the setting.
#[derive(Clone, Default)]
pub struct Veil {
    privacy: Privacy,
    key: [u8; 32],
}

impl Veil {
    /// `secret` keeps short arguments from being guessed by their hashes: the host's key, so that
    /// hashes are the same in all recordings of the host. Without one they differ each time.
    ///
    /// # Errors
    /// When a secret is wanted and the kernel gives no random bytes.
    pub fn new(privacy: Privacy, secret: Option<&[u8; 32]>) -> io::Result<Self> {
        let mut random = [0; 32];
        if secret.is_none() {
            File::open("/dev/urandom")?.read_exact(&mut random)?;
        }
        let secret = secret.unwrap_or(&random);
        let key = blake3::derive_key("mcp-monitor 2026-11 hashed arguments", secret);
        Ok(Self { privacy, key })
    }

    /// Arguments as they are kept.
    pub fn arguments<'a>(&self, arguments: impl Iterator<Item = &'a [u8]>) -> Vec<Bytes> {
        match self.privacy {
            Privacy::Full => arguments.map(Bytes::from).collect(),
            Privacy::Hashed => arguments.map(|argument| self.hashed(argument)).collect(),
            Privacy::Off => Vec::new(),
        }
    }

    /// A policy as it is kept: of the command's arguments only those that its rules use.
    pub fn policy(&self, mut policy: PolicyText) -> PolicyText {
        if let Some(world) = policy.world.as_mut().filter(|_| self.privacy != Privacy::Full) {
            world.arguments.clear();
        }
        policy
    }

    fn hashed(&self, content: &[u8]) -> Bytes {
        let hash = blake3::keyed_hash(&self.key, content).to_hex();
        Bytes::from(format!("{HASHED}{}", &hash[..HASH_LEN]).as_str())
    }

    /// Whether an argument may be a hash.
    pub fn is_hashed(argument: &Bytes) -> bool {
        let hash = argument.as_bytes().strip_prefix(HASHED.as_bytes());
        hash.is_some_and(|hash| hash.len() == HASH_LEN && hash.iter().all(u8::is_ascii_hexdigit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(privacy: Privacy, secret: Option<&[u8; 32]>, arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(|argument| argument.as_bytes());
        let kept = Veil::new(privacy, secret).unwrap().arguments(arguments);
        kept.iter().map(Bytes::to_text).collect()
    }

    #[test]
    fn full_keeps_arguments_and_off_none() {
        assert_eq!(
            kept(Privacy::Full, None, &["curl", "-u", "me:pass"]),
            ["curl", "-u", "me:pass"]
        );
        assert!(kept(Privacy::Off, None, &["curl", "-u", "me:pass"]).is_empty());
    }

    #[test]
    fn hashes_tell_equal_arguments_and_need_the_hosts_secret() {
        let hashed = kept(Privacy::Hashed, Some(&[1; 32]), &["a", "b", "a"]);
        assert_eq!(hashed[0], hashed[2]);
        assert_ne!(hashed[0], hashed[1]);
        assert!(hashed.iter().all(|text| Veil::is_hashed(&Bytes::from(text.as_str()))));
        assert!(!Veil::is_hashed(&Bytes::from("hashed:a")));
        assert_ne!(hashed[0], kept(Privacy::Hashed, Some(&[2; 32]), &["a"])[0]);
        assert_ne!(hashed[0], kept(Privacy::Hashed, None, &["a"])[0]);
    }
}
