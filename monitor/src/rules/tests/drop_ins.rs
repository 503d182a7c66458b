//! `servers/NAME.d/*.toml`.

use monitor_common::policy::class;

use super::*;

fn drop_in(text: &str) -> String {
    format!("schema = 1\n{text}")
}

fn two_layers(first: &Fixture, second: &Fixture) -> SearchPath {
    SearchPath::of_directories(&[first.folder.path(), second.folder.path()])
}

#[test]
fn lists_grow_and_what_is_said_once_is_what_is_said_last() {
    let rules = Fixture::new()
        .server("[files]\nread = [\"/own\"]\n[response]\nmode = \"observe\"\nunlisted = { read = \"deny\" }\n[resources]\npids = 5\nmemory = \"1G\"\n[env]\npass = [\"A\"]")
        .file("servers/s.d/20-last.toml", &drop_in("[response]\nmode = \"enforce\"\n[resources]\npids = 9"))
        .file("servers/s.d/10-more.toml", &drop_in("include = [\"i\"]\n[files]\nread = [\"/more\"]\n[response]\nmode = \"observe\"\n[env]\npass = [\"B\"]"))
        .file("servers/s.d/ignored.txt", "no rules")
        .file("includes/i.toml", "schema = 1\n[files]\nread = [\"/included\"]\n");
    let loaded = rules.load().unwrap();
    assert_eq!(loaded.mode, Mode::Enforce);
    assert_eq!((loaded.resources.pids, loaded.resources.memory), (Some(9), Some(1 << 30)));
    assert_eq!(loaded.pass.iter().map(String::as_str).collect::<Vec<_>>(), ["A", "B"]);
    let compiled = compile(&loaded).unwrap();
    for path in [b"/own".as_slice(), b"/more", b"/included"] {
        assert_eq!(compiled.classify_path(path), class::READ, "{}", path.escape_ascii());
    }
    assert_eq!(compiled.classify_path(b"/other"), 0);
}

#[test]
fn drop_ins_of_all_directories_add_up_and_the_strongest_of_a_name_counts() {
    let first = Fixture::new()
        .file("servers/s.d/50-both.toml", &drop_in("[files]\nread = [\"/first\"]"))
        .file("servers/s.d/10-early.toml", &drop_in("[response]\nmode = \"observe\""));
    let second = Fixture::new()
        .server("[files]\nread = [\"/own\"]")
        .file("servers/s.d/50-both.toml", &drop_in("[files]\nread = [\"/second\"]"))
        .file("servers/s.d/20-later.toml", &drop_in("[response]\nmode = \"enforce\""));
    let loaded = load(&two_layers(&first, &second), Some("s"), &first.bindings).unwrap();
    assert_eq!(loaded.mode, Mode::Enforce);
    let compiled = compile(&loaded).unwrap();
    assert_eq!(compiled.classify_path(b"/own"), class::READ);
    assert_eq!(compiled.classify_path(b"/first"), class::READ);
    assert_eq!(compiled.classify_path(b"/second"), 0);
}

#[test]
fn mistakes_in_drop_ins_are_told_where_they_are() {
    let rules =
        Fixture::new().server("").file("servers/s.d/1.toml", &drop_in("[files]\nraed = []"));
    let Err(RuleError::Findings(findings)) = rules.load() else { panic!("no findings") };
    assert_eq!(short(&findings[0]), "3:1: unknown key `raed` in [files] [did you mean `read`?]");
    assert!(findings[0].source.path.ends_with("servers/s.d/1.toml"));
}

#[test]
fn drop_ins_of_no_server_are_found() {
    let rules = Fixture::new().server("").file("servers/t.d/1.toml", &drop_in(""));
    let search = SearchPath::new(Some(rules.folder.path()));
    let found: Vec<String> = audit(&search).unwrap().iter().map(short).collect();
    assert_eq!(
        found,
        ["1:1: there is no servers/t.toml that this could add to [write it, or name the folder \
          after a server]"]
    );
    let rules = Fixture::new().server("").file("servers/s.d/1.toml", &drop_in(""));
    assert!(audit(&SearchPath::new(Some(rules.folder.path()))).unwrap().is_empty());
}

#[test]
fn a_recording_holds_drop_ins_too() {
    let rules = Fixture::new()
        .server("[files]\nread = [\"/own\"]")
        .file("servers/s.d/a.toml", &drop_in("[files]\nread = [\"/more\"]"));
    let text = rules.load().unwrap().text(1, 1);
    drop(rules);
    let again = compile(&load_recorded(&text, None).unwrap().unwrap()).unwrap();
    assert_eq!(again.classify_path(b"/more"), class::READ);
}
