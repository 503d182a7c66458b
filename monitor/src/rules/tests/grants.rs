//! Rights for a while: lines on top of a policy as it was recorded.

use std::{os::unix::fs::symlink, sync::Arc};

use monitor_common::policy::class;

use super::*;

const SERVER: &str = "[files]\nread = [\"/own\"]\ndeny = [\"/**/never\"]\n\
                      [response]\nmode = \"enforce\"\nunlisted = { read = \"deny\" }";

fn grant(rules: &str) -> Arc<Source> {
    parse_grant(7, rules).unwrap()
}

/// The policy of a fixture with a grant.
fn with(rules: &Fixture, granted: &[Arc<Source>]) -> (Loaded, Compiled) {
    let text = rules.load().unwrap().text(1, 2);
    let loaded = load_granted(&text, granted, &SearchPath::built_in(), None).unwrap().unwrap();
    let compiled = compile(&loaded).unwrap();
    (loaded, compiled)
}

#[test]
fn a_policy_has_what_is_granted_until_it_is_taken_away_and_nothing_else_changes() {
    let rules = Fixture::new().server(SERVER);
    let before = rules.load().unwrap().text(1, 2);
    let (loaded, compiled) = with(&rules, &[grant("files.read = [\"/more\"]\n")]);
    assert_eq!(compiled.classify_path(b"/own"), class::READ);
    assert_eq!(compiled.classify_path(b"/more"), class::READ);
    assert_eq!(compiled.classify_path(b"/other"), 0);
    assert_eq!(loaded.mode, Mode::Enforce);
    let with_grant = loaded.text(1, 2);
    assert_eq!(granted(&with_grant).count(), 1);
    // The files are gone by now, and are not asked.
    drop(rules);
    let replayed = load_recorded(&with_grant, None).unwrap().unwrap();
    assert_eq!(compile(&replayed).unwrap().classify_path(b"/more"), class::READ);
    let after = load_granted(&with_grant, &[], &SearchPath::built_in(), None).unwrap().unwrap();
    assert_eq!(after.text(1, 2), before);
}

#[test]
fn links_on_the_way_of_a_grant_are_followed_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    symlink("real", root.join("link")).unwrap();
    let rules = Fixture::new().server(SERVER);
    let (loaded, compiled) =
        with(&rules, &[grant(&format!("files.read = [\"{}/link/x\"]\n", root.display()))]);
    let path = root.join("real/x").into_os_string().into_encoded_bytes();
    assert_eq!(compiled.classify_path(&path), class::READ);
    drop(folder);
    let replayed = load_recorded(&loaded.text(1, 2), None).unwrap().unwrap();
    assert_eq!(compile(&replayed).unwrap().classify_path(&path), class::READ);
}

#[test]
fn what_a_grant_cannot_allow_is_told_with_what_outranks_it() {
    let set = "schema = 1\nset = \"secrets\"\naccess = [\"read\", \"write\"]\npaths = [\"/key\"]\n";
    let rules = Fixture::new().server(SERVER).file("sets/secrets.toml", set);
    let pointless = |text: &str| {
        let (loaded, compiled) = with(&rules, &[grant(text)]);
        without_effect(&loaded, &compiled)
    };
    for (text, by) in [
        ("files.read = [\"/srv/never\"]", "files.deny"),
        ("files.read = [\"/key\"]", "sets.secrets"),
        ("files.allow_secret = [\"/srv/never\"]", "files.deny"),
    ] {
        let told = pointless(text);
        assert!(told.len() == 1 && told[0].contains(by), "{text}: {told:?}");
    }
    for text in ["files.read = [\"/srv/x\", \"/srv/**\"]", "files.allow_secret = [\"/key\"]"] {
        assert!(pointless(text).is_empty(), "{text}");
    }
}

#[test]
fn a_granted_host_brings_what_names_need() {
    let rules = Fixture::new().server(SERVER);
    assert!(!compile(&rules.load().unwrap()).unwrap().answers_dns());
    let (_, compiled) = with(&rules, &[grant("network.connect = [\"api.example.com:443\"]\n")]);
    assert!(compiled.answers_dns());
    let (_, compiled) = with(&rules, &[grant("network.connect = [\"9.9.9.9:443\"]\n")]);
    assert!(!compiled.answers_dns());
}
