//! What is decided, by which entry.

use std::collections::BTreeMap;

use monitor_common::policy::{Label, access, class, decide, reason, verdict};

use super::*;

#[test]
fn unknown_servers_get_the_default_policy() {
    let search = SearchPath::built_in();
    let bindings = Fixture::new().bindings;
    assert!(load(&search, Some("no-such-server"), &bindings).unwrap().is_default);
    assert!(!load(&search, None, &bindings).unwrap().is_default);
    assert!(matches!(load(&search, Some("../x"), &bindings), Err(RuleError::Name(_))));
}

#[test]
fn prefixes_are_resolved_and_links_kept_from_being_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    fs::create_dir(root.join("real")).unwrap();
    std::os::unix::fs::symlink("real", root.join("link")).unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    let compiled = Fixture::new()
        .server(&format!(
            "[files]\ndeny = [\"{}/x\"]\nread = [\"{}/y\"]\nwrite = [\"{}\"]",
            at("link"),
            at("link"),
            at("link")
        ))
        .compile();
    let class = |name: &str| compiled.classify_path(at(name).as_bytes());
    assert_eq!(class("real/x"), class::DENY);
    assert_eq!(class("real/y"), class::READ);
    assert_eq!(class("real"), class::WRITE);
    assert_eq!(class("link"), class::WRITE | class::DENY);
    assert_eq!(class("link/x"), 0, "no resolved path goes through a link");
}

#[test]
fn sets_outrank_broad_allows_and_deny_outranks_all() {
    let secrets = "schema = 1\nset = \"secrets\"\naccess = [\"read\", \"write\"]\n\
                   paths = [\"${HOME}/.ssh/**\", \"**/id_rsa\"]";
    let compiled = Fixture::new()
        .file("sets/secrets.toml", secrets)
        .server(
            "[files]\nread = [\"/**\"]\nallow_secret = [\"${HOME}/.ssh/known_hosts\"]\n\
             deny = [\"**/x\"]\n[response]\nunlisted = { write = \"deny\" }",
        )
        .compile();
    let judge = |path: &str, asked: u8| {
        let classes = compiled.classify_path(path.as_bytes());
        let decision = decide(&compiled.policy, classes, asked);
        let blame = compiled.blame(Subject::Path(path.as_bytes()), classes, decision);
        let blame = blame.map(|rule| (rule.list, rule.line));
        (decision.verdict, decision.reason, blame)
    };
    let listed = |list: &str, line| Some((list.to_owned(), line));
    assert_eq!(
        judge("/nohome/u/.ssh/id_rsa", access::READ),
        (verdict::DENY, reason::SET, listed("sets.secrets", 4))
    );
    assert_eq!(
        judge("/nohome/u/.ssh", access::READ),
        (verdict::DENY, reason::SET, listed("sets.secrets", 4))
    );
    assert_eq!(
        judge("/nohome/u/.ssh/known_hosts", access::READ),
        (verdict::ALLOW, reason::ALLOW_SECRET, listed("files.allow_secret", 5))
    );
    assert_eq!(
        judge("/a", access::READ),
        (verdict::ALLOW, reason::LISTED, listed("files.read", 4))
    );
    assert_eq!(judge("/a/x", access::READ), (verdict::DENY, reason::DENY, listed("files.deny", 6)));
    assert_eq!(
        judge("/a", access::WRITE),
        (verdict::DENY, reason::UNLISTED, listed("response.unlisted.write", 8))
    );
    assert_eq!(
        judge("/a", access::EXEC),
        (verdict::ALERT, reason::UNLISTED, listed("response.unlisted.exec", 0))
    );
}

#[test]
fn allows_that_a_set_outranks_are_warned_of() {
    let secrets =
        "schema = 1\nset = \"secrets\"\naccess = [\"read\"]\npaths = [\"${HOME}/.ssh/**\"]";
    let warnings = |rules: &str| -> Vec<String> {
        let fixture = Fixture::new().file("sets/secrets.toml", secrets).server(rules);
        fixture.load().unwrap().warnings.iter().map(short).collect()
    };
    assert_eq!(
        warnings("[files]\nread = [\"${HOME}/.ssh/known_hosts\"]"),
        ["4:9: this belongs to the secrets set, which outranks files.read [name it in \
          files.allow_secret if the server may touch it]"]
    );
    let quiet = [
        "[files]\nallow_secret = [\"${HOME}/.ssh/known_hosts\"]",
        "[files]\nwrite = [\"${HOME}/.ssh/known_hosts\"]",
        "[files]\nread = [\"${HOME}/projects/**\", \"${HOME}/**\"]",
        "[files]\nread = [\"${HOME}/.ssh/x\"]\n[response]\nsets = { secrets = \"allow\" }",
    ];
    for rules in quiet {
        assert!(warnings(rules).is_empty(), "{rules}");
    }
}

#[test]
fn a_set_reached_by_label_alone_is_blamed_as_a_whole() {
    let compiled = Fixture::new().server("").compile();
    let classes = class::of_set(set::SECRETS);
    let decision = monitor_common::policy::Decision {
        verdict: verdict::DENY,
        reason: reason::SET,
        set: 0,
        access: access::READ,
    };
    let rule = compiled.blame(Subject::Path(b"/tmp/hard-link"), classes, decision).unwrap();
    assert_eq!((rule.list.as_str(), rule.line, rule.text.as_str()), ("sets.secrets", 2, "secrets"));
}

#[test]
fn labels_stand_on_members_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let home = fs::canonicalize(folder.path()).unwrap();
    for name in [".ssh", ".config/a", ".config/b"] {
        fs::create_dir_all(home.join(name)).unwrap();
    }
    fs::write(home.join(".netrc"), "").unwrap();
    fs::write(home.join(".ssh/alone"), "").unwrap();
    fs::write(home.join(".ssh/twice"), "").unwrap();
    fs::hard_link(home.join(".ssh/twice"), home.join("elsewhere")).unwrap();
    fs::write(home.join(".config/a/Login Data"), "").unwrap();
    let secrets = "schema = 1\nset = \"secrets\"\naccess = [\"read\"]\npaths = [\"${HOME}/.ssh/**\", \
                   \"${HOME}/.netrc\", \"${HOME}/.config/*/Login Data\", \"${HOME}/.missing\", \
                   \"**/id_rsa\"]";
    let mut fixture = Fixture::new().file("sets/secrets.toml", secrets).server("");
    fixture.bindings.own_homes = vec![home.clone()];
    let bit = class::of_set(set::SECRETS);
    let labels: BTreeMap<PathBuf, (u32, u32)> =
        fixture.compile().labels.into_iter().map(|(p, l)| (p, (l.own, l.beneath))).collect();
    let expected = [(".ssh", bit), (".ssh/twice", 0), (".netrc", 0), (".config/a/Login Data", 0)];
    assert_eq!(labels, expected.map(|(name, beneath)| (home.join(name), (bit, beneath))).into());
}

#[test]
fn keys_of_others_are_labelled_for_everybody_and_their_homes_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = fs::canonicalize(folder.path()).unwrap();
    let homes = ["own", "other"].map(|name| folder.join(name));
    homes.iter().for_each(|home| fs::create_dir_all(home.join(".ssh")).unwrap());
    let secrets = "schema = 1\nset = \"secrets\"\naccess = [\"read\"]\n\
                   paths = [\"${OTHER_HOMES}/**\", \"${HOME}/.ssh/**\"]";
    let mut fixture = Fixture::new().file("sets/secrets.toml", secrets).server("");
    let [own, other] = homes.clone();
    (fixture.bindings.own_homes, fixture.bindings.other_homes) = (vec![own], vec![other.clone()]);
    let compiled = fixture.compile();
    let labelled = |labels: &[(PathBuf, Label)]| -> Vec<PathBuf> {
        labels.iter().map(|(path, _)| path.clone()).collect()
    };
    let [own, theirs] = homes.map(|home| home.join(".ssh"));
    assert_eq!(labelled(&compiled.labels), [theirs, own]);
    assert_eq!(labelled(&compiled.labels_of_homes), [other]);
}
