//! The environment that a server is given: what looks like a secret and is not meant for it is told,
//! and left out where rules are enforced. What variables hold is looked at and never kept.

use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

/// Parts of names.
const PARTS: [&str; 7] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY"];
/// Words of names, between underscores and the like.
const WORDS: [&str; 11] =
    ["KEY", "KEYS", "PASS", "PWD", "AUTH", "JWT", "PAT", "DSN", "COOKIE", "COOKIES", "CREDS"];
/// Names that have such a word and are none.
const HARMLESS: [&str; 2] = ["PWD", "OLDPWD"];
/// What names begin with.
const BEGINNING: &str = "AWS_";
/// Names that a message holds.
const TOLD_MAX: usize = 40;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `NAME=value`, as programs are given them.
    pub given: Vec<CString>,
    /// Names of what looks like a secret and is in no `[env] pass`.
    secret: Vec<String>,
    removes: bool,
}

impl Environment {
    /// Of the monitor's own variables those that the server is given. With `removes` those that
    /// look like secrets are not among them, unless rules `pass` them.
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        pass: &BTreeSet<String>,
        removes: bool,
    ) -> Self {
        let mut environment = Self { removes, ..Self::default() };
        for (name, value) in variables {
            let passed = name.to_str().is_some_and(|name| pass.contains(name));
            let is_secret = !passed && (is_secret_name(&name) || holds_password(&value));
            if is_secret {
                environment.secret.push(name.as_bytes().escape_ascii().to_string());
            }
            if !(is_secret && removes) {
                let whole = [name.as_bytes(), b"=", value.as_bytes()].concat();
                // Neither can hold a NUL: they were ended by one.
                environment.given.extend(CString::new(whole));
            }
        }
        environment.secret.sort_unstable();
        environment
    }

    /// What people are told, when there is something to tell.
    pub fn message(&self) -> Option<String> {
        let names: Vec<&str> = self.secret.iter().take(TOLD_MAX).map(String::as_str).collect();
        let more = match self.secret.len() - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names = format!("{}{more}", names.join(", "));
        match (self.secret.is_empty(), self.removes) {
            (true, _) => None,
            (_, true) => Some(format!(
                "not given to the server, because they look like secrets: {names}; what it needs \
                 belongs into env.pass"
            )),
            (_, false) => Some(format!(
                "given to the server although they look like secrets: {names}; enforce mode would \
                 remove what is not in env.pass"
            )),
        }
    }
}

fn is_secret_name(name: &OsStr) -> bool {
    let name = name.as_bytes().escape_ascii().to_string().to_uppercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    !HARMLESS.contains(&name.as_str())
        && (name.starts_with(BEGINNING)
            || PARTS.iter().any(|part| name.contains(part))
            || words.any(|word| WORDS.contains(&word)))
}

/// Whether a value is a URL with a password: `scheme://user:password@host`.
fn holds_password(value: &OsStr) -> bool {
    let value = value.as_bytes();
    let Some(scheme) = value.windows(3).position(|window| window == b"://") else { return false };
    let authority = value[scheme + 3..].split(|byte| b"/?#".contains(byte)).next();
    let user = authority
        .and_then(|text| text.iter().rposition(|byte| *byte == b'@').map(|at| &text[..at]));
    user.is_some_and(|user| {
        user.iter().position(|byte| *byte == b':').is_some_and(|colon| colon + 1 < user.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        variables: &[(&str, &str)],
        pass: &[&str],
        removes: bool,
    ) -> (Vec<String>, Option<String>) {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let pass = pass.iter().map(|name| (*name).to_owned()).collect();
        let environment = Environment::new(variables, &pass, removes);
        let given = environment.given.iter().map(|text| text.to_str().unwrap().to_owned());
        (given.collect(), environment.message())
    }

    #[test]
    fn secrets_are_told_by_their_names() {
        for name in [
            "GITHUB_TOKEN",
            "npm_config__authToken",
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
            "DB_PASS",
            "MYSQL_PWD",
            "PGPASSWORD",
            "OPENAI_API_KEY",
            "OPENAIAPIKEY",
            "SSH_AUTH_SOCK",
            "GH_PAT",
            "SENTRY_DSN",
            "CLIENT_SECRET",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ] {
            assert!(is_secret_name(OsStr::new(name)), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "PWD",
            "OLDPWD",
            "KEYBOARD",
            "MONKEY",
            "LANG",
            "XAUTHORITY",
            "PATTERN",
            "NODE_OPTIONS",
            "COMPASS",
            "TMPDIR",
            "DISPLAY",
        ] {
            assert!(!is_secret_name(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn secrets_are_told_by_passwords_in_urls() {
        for value in ["postgres://u:p@h/db", "https://:p@h", "redis://u:p%40@h:1?x=@"] {
            assert!(holds_password(OsStr::new(value)), "{value}");
        }
        for value in ["https://h/a:b@c", "https://u@h", "https://u:@h", "http://h:80", "u:p@h", ""]
        {
            assert!(!holds_password(OsStr::new(value)), "{value}");
        }
    }

    #[test]
    fn enforce_removes_what_is_not_passed_and_observe_only_tells() {
        let all = [("PATH", "/bin"), ("A_TOKEN", "t"), ("B_KEY", "k")];
        let (given, message) = of(&all, &["A_TOKEN"], true);
        assert_eq!(given, ["PATH=/bin", "A_TOKEN=t"]);
        let message = message.unwrap();
        assert!(message.contains("B_KEY") && !message.contains("A_TOKEN"), "{message}");
        assert!(message.starts_with("not given"), "{message}");
        let (given, message) = of(&all, &["A_TOKEN"], false);
        assert_eq!(given, ["PATH=/bin", "A_TOKEN=t", "B_KEY=k"]);
        assert!(message.unwrap().starts_with("given"));
        assert_eq!(of(&all, &["A_TOKEN", "B_KEY"], true).1, None);
    }

    #[test]
    fn a_long_list_is_cut_and_values_are_never_told() {
        let names: Vec<String> = (0..60).map(|i| format!("TOKEN_{i:02}")).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "hidden")).collect();
        let message = of(&all, &[], true).1.unwrap();
        assert!(
            message.contains("TOKEN_39 and 20 more") && !message.contains("hidden"),
            "{message}"
        );
    }
}
