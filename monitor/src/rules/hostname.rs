//! Host names as people write them: `api.github.com`, `*.example.com`.

use std::fmt;

/// Longest name, in characters, and longest label (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// A host name, or a pattern of them: `*` stays within a label as it stays within a component of a
/// path, `**` at the front is one label or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// In lower case, without `**`.
    labels: Vec<String>,
    /// Labels may stand before them.
    any_depth: bool,
}

/// Why a text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    #[error("{0:?} is not a host name")]
    NotAName(String),
    #[error(
        "the host name is longer than {NAME_MAX} characters, or one of its labels than {LABEL_MAX}"
    )]
    TooLong,
    #[error("host names stand here in their ASCII form")]
    NotAscii,
    #[error("`**` stands only at the front of a host name")]
    DeepInside,
    #[error("a wildcard covers whoever registers a name: a plain label stands last")]
    OpenEnd,
}

impl HostNameError {
    /// What to write instead.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NotAscii => Some("write xn--..., as the resolver asks".to_owned()),
            Self::DeepInside => Some("write **.example.com".to_owned()),
            Self::OpenEnd => Some("write *.example.com".to_owned()),
            _ => None,
        }
    }
}

/// Whether a text is the name of a host, and not a pattern.
pub fn is_plain(text: &str) -> bool {
    looks_like(text) && !text.contains('*') && HostName::parse(text).is_ok()
}

/// Whether a text that is no address means a host: it has a dot, and a letter in its last label.
pub fn looks_like(text: &str) -> bool {
    let last = text.trim_end_matches('.').rsplit_once('.').map(|(_, last)| last);
    let plain = |c: char| c.is_alphanumeric() || "-_*.".contains(c);
    last.is_some_and(|last| last.contains(|c: char| c.is_alphabetic() || c == '*'))
        && text.chars().all(plain)
}

impl HostName {
    /// Parses a name or pattern.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        if !text.is_ascii() {
            return Err(HostNameError::NotAscii);
        }
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (any_depth, rest) = match text.strip_prefix("**.") {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        let labels: Vec<String> = rest.split('.').map(str::to_owned).collect();
        if text.len() > NAME_MAX || labels.iter().any(|label| label.len() > LABEL_MAX) {
            return Err(HostNameError::TooLong);
        }
        if rest.contains("**") {
            return Err(HostNameError::DeepInside);
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "-_*".contains(c);
        let good = |label: &String| !label.is_empty() && label.chars().all(known);
        if !labels.iter().all(good) {
            return Err(HostNameError::NotAName(text));
        }
        if labels.last().is_some_and(|last| last.contains('*')) {
            return Err(HostNameError::OpenEnd);
        }
        Ok(Self { labels, any_depth })
    }

    /// Whether it is meant by a name that was asked for; case and a dot at the end do not count.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        // A dot within a label stands behind a backslash: no name that rules can mean.
        if name.contains('\\') {
            return false;
        }
        let asked: Vec<&str> = name.split('.').collect();
        let Some(more) = asked.len().checked_sub(self.labels.len()) else { return false };
        let fits = if self.any_depth { more > 0 } else { more == 0 };
        let pairs = self.labels.iter().zip(&asked[more..]);
        fits && asked.iter().all(|label| !label.is_empty())
            && pairs.into_iter().all(|(own, label)| label_matches(own.as_bytes(), label.as_bytes()))
    }

    /// Whether a name is one that it means, with something behind that.
    pub fn is_extended_by(&self, name: &str) -> bool {
        name.match_indices('.').any(|(dot, _)| dot + 1 < name.len() && self.matches(&name[..dot]))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.any_depth { "**." } else { "" })?;
        f.write_str(&self.labels.join("."))
    }
}

/// `own` is in lower case.
fn label_matches(own: &[u8], label: &[u8]) -> bool {
    match own.split_first() {
        None => label.is_empty(),
        Some((b'*', rest)) => (0..=label.len()).any(|at| label_matches(rest, &label[at..])),
        Some((byte, rest)) => label.split_first().is_some_and(|(first, behind)| {
            first.eq_ignore_ascii_case(byte) && label_matches(rest, behind)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        HostName::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_name_means_itself_in_any_case_and_with_a_dot() {
        assert!(matches("api.github.com", "API.github.COM."));
        assert!(matches("API.github.com.", "api.github.com"));
        for other in
            ["github.com", "x.api.github.com", "api.github.com.evil.org", "apixgithub.com", ""]
        {
            assert!(!matches("api.github.com", other), "{other}");
        }
    }

    #[test]
    fn one_star_stays_within_a_label_and_two_do_not() {
        assert!(matches("*.example.com", "a.example.com"));
        assert!(matches("s3-*.example.com", "s3-eu.example.com"));
        assert!(matches("*.s3.*.example.com", "b.s3.eu.example.com"));
        assert!(matches("**.example.com", "a.b.c.example.com"));
        assert!(matches("**.*-x.example.com", "a.b-x.example.com"));
        for other in ["example.com", "a.b.example.com", "aexample.com", ".example.com"] {
            assert!(!matches("*.example.com", other), "{other}");
        }
        for other in ["example.com", ".example.com", "a..example.com"] {
            assert!(!matches("**.example.com", other), "{other}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let error = |text: &str| HostName::parse(text).unwrap_err();
        assert_eq!(error("a..b"), HostNameError::NotAName("a..b".to_owned()));
        assert_eq!(error("a.ex ample.com"), HostNameError::NotAName("a.ex ample.com".to_owned()));
        assert_eq!(error("bücher.example"), HostNameError::NotAscii);
        assert_eq!(error("a.**.com"), HostNameError::DeepInside);
        assert_eq!(error("example.*"), HostNameError::OpenEnd);
        assert_eq!(error(&"a".repeat(64)), HostNameError::TooLong);
        assert_eq!(error(&format!("{}a", "a.".repeat(127))), HostNameError::TooLong);
    }

    #[test]
    fn names_are_told_from_other_words() {
        for name in ["api.github.com", "*.example.com", "a.example.com.", "bücher.example", "a.*"]
        {
            assert!(looks_like(name), "{name}");
        }
        for other in ["localhost", "1.2.3", "1.2.3.4.5", "*", "public", "a b.com", "[::1].x"] {
            assert!(!looks_like(other), "{other}");
        }
    }
}
