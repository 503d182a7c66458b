//! Which credentials to make invalid, by the names of what was reached.
//!
//! The sets say that a file holds secrets; what kind of secret, and who issues a new one, is said
//! by its name. What no name tells is asked for by its set.

use std::collections::BTreeMap;

use super::model::{Effect, Reach, Rotation, Secret};
use crate::event::Bytes;

/// Files that are named for each credential.
const BECAUSE_MAX: usize = 12;

/// Parts of a path, what is behind them, what to do. The first that fits counts.
const KINDS: &[(&[&str], &str, &str)] = &[
    (
        &["/environ", "/mem"],
        "environment or memory of another process",
        "rotate every token that the process was started with or held; its name stands in the events",
    ),
    (
        &["/.ssh/known_hosts", "/.ssh/config", "/.ssh/authorized_keys", ".pub"],
        "SSH settings",
        "nothing to rotate; the names of hosts and keys are known now",
    ),
    (
        &["/.ssh/", "/id_rsa", "/id_dsa", "/id_ecdsa", "/id_ed25519", "ssh_host_"],
        "SSH keys",
        "make new keys, and remove the old public keys from every authorized_keys, forge and host that knows them",
    ),
    (
        &["/.aws/"],
        "AWS access keys",
        "deactivate the access keys in IAM, issue new ones, and search CloudTrail for their use",
    ),
    (
        &[
            "/gcloud/",
            "application_default_credentials",
            "service-account",
            "service_account",
            "serviceAccountKey",
            "gcp-key",
            "/.boto",
        ],
        "Google Cloud credentials",
        "revoke the login (gcloud auth revoke) and delete the keys of service accounts",
    ),
    (
        &["/.azure/", "/.config/azure/"],
        "Azure credentials",
        "revoke the sessions and reset the secrets of service principals",
    ),
    (
        &["/.kube/", "kubeconfig", "/etc/kubernetes/", "/etc/rancher/"],
        "Kubernetes credentials",
        "reissue client certificates or tokens of the contexts in it, and read the audit log",
    ),
    (
        &["/.docker/", "containers/auth.json"],
        "container registry logins",
        "log out, and revoke the access tokens at the registries",
    ),
    (
        &["/.npmrc", "/.yarnrc"],
        "npm registry tokens",
        "revoke the tokens and look for versions that were published since",
    ),
    (
        &["/.pypirc", "/pypoetry/", "/pip.conf", "/uv/"],
        "Python registry tokens",
        "revoke the tokens and look for files that were uploaded since",
    ),
    (
        &["/.cargo/credentials", "/.gem/credentials", "/.m2/", "/.gradle/", "/NuGet", "/composer/"],
        "package registry credentials",
        "revoke the tokens and look for versions that were published since",
    ),
    (
        &[
            "/.config/gh/",
            "/.git-credentials",
            "/git/credentials",
            "/glab-cli/",
            "/.config/hub",
            "/tea/",
        ],
        "tokens of git forges",
        "revoke the tokens, and look for new keys, hooks and commits",
    ),
    (&["/.netrc", "/_netrc", "/.authinfo"], "logins in netrc", "change every password in it"),
    (
        &["/.gnupg/"],
        "OpenPGP keys",
        "revoke the keys if they were not protected by a passphrase, and change the passphrase",
    ),
    (
        &[
            "/.password-store/",
            "/keyrings/",
            "/kwalletd/",
            "keepassxc",
            ".kdbx",
            "/1Password",
            "/Bitwarden",
            "/.1password",
            "/op/",
        ],
        "a password store",
        "change its master password, then what is in it, most valuable first",
    ),
    (
        &[
            "/.mozilla/",
            "google-chrome",
            "chromium",
            "microsoft-edge",
            "BraveSoftware",
            "vivaldi",
            "/opera",
            "firefox",
            "librewolf",
        ],
        "a browser profile",
        "log out of every session, and change the saved passwords",
    ),
    (
        &["/Signal/", "/Slack/", "/discord", "TelegramDesktop", "/Element/", "teams-for-linux"],
        "messenger sessions",
        "end the linked sessions in the account's settings",
    ),
    (
        &[
            "/.bitcoin/",
            "/.ethereum/",
            "/.electrum/",
            "/.solana/",
            "/solana/",
            "/Exodus/",
            "/.monero",
        ],
        "a wallet",
        "move the funds to a new wallet",
    ),
    (
        &["/etc/shadow", "/etc/gshadow", "shadow.bak", "/etc/opasswd"],
        "password hashes of this machine",
        "change the passwords of all accounts",
    ),
    (
        &["/etc/krb5.keytab", "krb5cc"],
        "Kerberos credentials",
        "destroy the tickets, and make a new keytab",
    ),
    (
        &[".pgpass", ".my.cnf", ".mylogin.cnf", "database.yml", "/psql", "dbeaver", "DBeaver"],
        "database passwords",
        "change them, and read the database's log of logins",
    ),
    (
        &[".terraform", "terraform.tfstate", ".tfvars", ".vault-token", "/.pulumi/"],
        "infrastructure state and tokens",
        "revoke the tokens, and rotate the secrets that stand in the state",
    ),
    (
        &[
            "/.claude/",
            "/.codex/",
            "/.gemini/",
            "/anthropic/",
            "/openai/",
            "/huggingface/",
            "github-copilot",
            "/.mcp-auth/",
        ],
        "tokens of assistants and models",
        "revoke the API keys, and log in anew",
    ),
    (
        &[
            "mcp.json",
            "mcp_config",
            "mcp_settings",
            "claude_desktop_config",
            "/.cursor/",
            "/.continue/",
        ],
        "configuration of MCP clients",
        "rotate the tokens of the servers that are configured there",
    ),
    (
        &[
            ".env",
            ".envrc",
            "wp-config.php",
            "appsettings",
            "local_settings.py",
            "secrets.",
            "credentials.json",
            "master.key",
        ],
        "a project's own secrets",
        "rotate what the file holds: API keys, database passwords, signing secrets",
    ),
    (
        &["_history", "histfile", "zhistory", "viminfo"],
        "what was typed",
        "look in it for passwords and tokens, and rotate those",
    ),
    (
        &[".pem", ".key", ".p12", ".pfx", ".jks", "/ssl/private/", "/letsencrypt/"],
        "private keys of certificates",
        "revoke the certificates and issue new ones",
    ),
];

/// What no name tells, by set.
const BY_SET: [(&str, &str, &str); 5] = [
    (
        "metadata",
        "the machine's cloud role",
        "revoke the role's sessions, and search the cloud's audit log for their use from elsewhere",
    ),
    (
        "processes",
        "environment or memory of another process",
        "rotate every token that the process was started with or held",
    ),
    (
        "mcp_config",
        "configuration of MCP clients",
        "rotate the tokens of the servers that are configured there",
    ),
    ("secrets", "other secrets", "look at what the files hold, and rotate it"),
    (
        "sensitive",
        "files that may hold secrets",
        "look at what the files hold, and rotate what is secret",
    ),
];

/// What to rotate because of these secrets. What was refused needs nothing.
pub(super) fn of(secrets: &[Secret]) -> Vec<Rotation> {
    let mut kinds: BTreeMap<&str, Rotation> = BTreeMap::new();
    for secret in secrets.iter().filter(|secret| secret.effect != Effect::Refused) {
        let (what, how) = kind(secret);
        let known = kinds.entry(what).or_insert_with(|| Rotation {
            what: what.to_owned(),
            how: how.to_owned(),
            because: Vec::new(),
            more: 0,
            reach: Reach::Nothing,
        });
        known.reach = known.reach.max(secret.reach);
        if known.because.contains(&secret.subject) {
            continue;
        }
        match known.because.len() < BECAUSE_MAX {
            true => known.because.push(secret.subject.clone()),
            false => known.more += 1,
        }
    }
    let mut rotations: Vec<_> = kinds.into_values().collect();
    rotations.sort_by_key(|rotation| std::cmp::Reverse(rotation.reach));
    rotations
}

fn kind(secret: &Secret) -> (&'static str, &'static str) {
    let by_set = |(set, ..): &&(&str, &str, &str)| secret.sets.contains(set);
    let is_address = secret.sets.contains(&"metadata");
    let named =
        KINDS.iter().find(|(parts, ..)| parts.iter().any(|part| holds(&secret.subject, part)));
    match (named, BY_SET.iter().find(by_set)) {
        (Some((_, what, how)), _) if !is_address => (*what, *how),
        (_, Some((_, what, how))) => (*what, *how),
        _ => (BY_SET[3].1, BY_SET[3].2),
    }
}

fn holds(path: &Bytes, part: &str) -> bool {
    memchr::memmem::find(path.as_bytes(), part.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Moment;

    fn secret(path: &str, set: &'static str, effect: Effect) -> Secret {
        Secret {
            subject: path.into(),
            sets: vec![set],
            instance: 1,
            effect,
            reach: Reach::Process,
            then: None,
            time: Moment(0),
        }
    }

    #[test]
    fn names_say_what_to_rotate_and_the_set_where_they_do_not() {
        for (path, set, what) in [
            ("/home/u/.ssh/id_ed25519", "secrets", "SSH keys"),
            ("/home/u/.ssh/known_hosts", "secrets", "SSH settings"),
            ("/home/u/.aws/credentials", "secrets", "AWS access keys"),
            ("/home/u/project/.env", "sensitive", "a project's own secrets"),
            ("/proc/77/environ", "processes", "environment or memory of another process"),
            ("169.254.169.254:80/tcp", "metadata", "the machine's cloud role"),
            ("/home/other/notes.txt", "secrets", "other secrets"),
            ("/home/u/.claude.json", "mcp_config", "configuration of MCP clients"),
        ] {
            let rotations = of(&[secret(path, set, Effect::Happened)]);
            assert_eq!(rotations[0].what, what, "{path}");
        }
    }

    #[test]
    fn what_was_refused_needs_nothing() {
        assert!(of(&[secret("/home/u/.ssh/id_rsa", "secrets", Effect::Refused)]).is_empty());
    }

    #[test]
    fn files_of_one_kind_stand_together_and_the_rest_is_counted() {
        let many: Vec<_> = (0..20)
            .map(|n| secret(&format!("/home/u/.ssh/id_{n}"), "secrets", Effect::Perhaps))
            .collect();
        let rotations = of(&many);
        assert_eq!((rotations.len(), rotations[0].because.len(), rotations[0].more), (1, 12, 8));
    }
}
