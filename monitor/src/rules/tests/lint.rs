//! What `check` finds in rules that can be loaded, each with a twin that is quiet.

use super::*;

const DENYING: &str = "[response]\nunlisted = { read = \"deny\", write = \"deny\", exec = \"deny\", \
                       connect = \"deny\", listen = \"deny\", unix = \"deny\" }\n";

fn linted(fixture: &Fixture) -> Vec<String> {
    lint(&fixture.load().unwrap(), Blind::No).iter().map(short).collect()
}

/// Findings of rules that deny what they do not list.
fn of(text: &str) -> Vec<String> {
    linted(&Fixture::new().server(&format!("{text}\n{DENYING}")))
}

fn one(text: &str) -> String {
    let mut all = of(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn quiet(text: &str) {
    assert_eq!(of(text), [""; 0], "{text}");
}

#[test]
fn a_list_of_what_is_allowed_anyhow_decides_nothing() {
    let server = |unlisted: &str| {
        let text = format!(
            "[files]\nread = [\"/a\", \"/b\"]\nwrite = [\"/c\"]\n[network]\nconnect = \
             [\"public\"]\n[response]\nunlisted = {unlisted}"
        );
        linted(&Fixture::new().server(&text))
    };
    let found = server("{ read = \"allow\", connect = \"allow\" }");
    assert_eq!(
        found,
        ["files.read", "network.connect"].map(|list| {
            let place = if list == "files.read" { "4:9" } else { "7:12" };
            format!(
                "{place}: {list} decides nothing: what it does not name is allowed, too [say \
                 `deny` in response.unlisted, or remove the list]"
            )
        })
    );
    assert!(server("{ read = \"alert\", write = \"allow\" }").is_empty());
}

#[test]
fn the_same_entry_twice_is_found() {
    let twice = "[files]\nread = [\"/a\", \"/b\",\n\"/a\"]\nwrite = [\"/a\"]\n";
    assert!(one(twice).starts_with("5:1: line 4 of "), "{}", one(twice));
    // Another class, or another way to say it on another machine.
    quiet(
        "[files]\nread = [\"/a\"]\nwrite = [\"/a\"]\n[exec]\nallow = [\"/bin/sh\", \"/usr/bin/dash\"]",
    );
    assert_eq!(of("[network]\nconnect = [\"10.0.0.1:1\", \"10.0.0.1:1\"]").len(), 1);
    quiet("[network]\nconnect = [\"10.0.0.1:1\", \"10.0.0.1:2\"]\nlisten = [\"10.0.0.1:1\"]");
    // Braces stand for several patterns, and are one entry.
    quiet("[files]\nread = [\"/{a,b,a}\"]");
}

#[test]
fn an_allow_that_a_deny_takes_away_is_found() {
    for allow in ["/a/b", "/a/**", "/a", "/a/*/c"] {
        let found = one(&format!("[files]\nread = [\"{allow}\"]\ndeny = [\"/a/**\"]"));
        assert!(found.starts_with("4:9: \"/a/**\" ("), "{found}");
        assert!(found.contains(":5) denies all of this"), "{found}");
    }
    quiet("[files]\nread = [\"/a/**\"]\ndeny = [\"/a/b/**\", \"**/x\", \"/a/*\"]");
    let found = one("[network]\nconnect = [\"10.1.0.0/16:443\"]\ndeny = [\"10.0.0.0/8\"]");
    assert!(found.contains("\"10.0.0.0/8\""), "{found}");
    quiet("[network]\nconnect = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\", \"10.0.0.0/8:80\"]");
}

#[test]
fn a_server_may_narrow_what_its_includes_allow() {
    let include =
        "schema = 1\n[files]\nread = [\"/a/b\", \"/c\"]\n[network]\nconnect = [\"10.0.0.1\"]";
    let text = "include = [\"i\"]\n[files]\ndeny = [\"/a/**\"]\nread = [\"/c\"]\n[network]\ndeny = \
                [\"10.0.0.0/8\"]";
    let fixture = Fixture::new().file("includes/i.toml", include);
    let fixture = fixture.server(&format!("{text}\n{DENYING}"));
    assert!(linted(&fixture).is_empty());
}

#[test]
fn an_allow_secret_that_is_no_secret_is_found() {
    let set =
        "schema = 1\nset = \"secrets\"\naccess = [\"read\"]\npaths = [\"**/.env\", \"/key\"]\n";
    let server = |path: &str| {
        let text = format!("[files]\nallow_secret = [\"{path}\"]\n{DENYING}");
        linted(&Fixture::new().file("sets/secrets.toml", set).server(&text))
    };
    let help = "[allow it in files.read or files.write]";
    assert_eq!(server("/a/env"), [format!("4:17: no built-in set has this {help}")]);
    for named in ["/a/.env", "/key", "/a/**"] {
        assert!(server(named).is_empty(), "{named}");
    }
    // Under the names that a container has for them nobody knows secrets here.
    let in_container =
        format!("[[match]]\ncgroup = [\"/c/**\"]\n[files]\nallow_secret = [\"/x\"]\n{DENYING}");
    let fixture = Fixture::new().file("sets/secrets.toml", set).server(&in_container);
    assert!(linted(&fixture).is_empty());
}

#[test]
fn allows_as_wide_as_a_home_or_the_disk_are_found() {
    for (list, pattern, what) in [
        ("read", "/**", "the whole disk"),
        ("write", "**", "the whole disk"),
        ("read", "**/*", "the whole disk"),
        ("read", "/*/**", "the whole disk"),
        ("read", "${HOME}/**", "all of /nohome/u"),
        ("write", "/nohome/**", "all of /nohome/u"),
        ("read", "/nohome/*/**", "all of /nohome/u"),
    ] {
        let found = one(&format!("[files]\n{list} = [\"{pattern}\"]"));
        assert!(found.contains(&format!(": files.{list} allows {what} [name the")), "{found}");
    }
    let found = one("[exec]\nallow = [\"${HOME}/**\"]");
    assert!(found.contains("exec.allow allows all of /nohome/u"), "{found}");
    quiet(
        "[files]\nread = [\"${HOME}\", \"${HOME}/*/x/**\", \"${HOME}/projects/**\", \"/usr/**\", \
         \"**/*.rs\"]\ndeny = [\"/b/**\"]",
    );
    // To forbid all of it is no mistake.
    quiet("[files]\ndeny = [\"${HOME}/**\"]");
}

#[test]
fn a_script_with_arguments_of_its_own_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    fs::write(root.join("script"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("program"), "\x7fELF").unwrap();
    let rules = |name: &str| {
        format!("[exec.arguments]\n{:?} = [[\"...\"]]", root.join(name).display().to_string())
    };
    let found = one(&rules("script"));
    assert!(found.starts_with("4:1: this is a script: lsm refuses it"), "{found}");
    quiet(&rules("program"));
    quiet(&rules("missing"));
}

#[test]
fn what_a_backend_cannot_enforce_is_found_for_it_alone() {
    let loader = fs::canonicalize("/lib64/ld-linux-x86-64.so.2").unwrap();
    let text = format!(
        "[exec]\nallow = [{:?}, \"/usr/bin/git\"]\n{DENYING}",
        loader.display().to_string()
    );
    let loaded = Fixture::new().server(&text).load().unwrap();
    let found: Vec<String> = lint(&loaded, Blind::ToLoaders).iter().map(short).collect();
    assert_eq!(
        found,
        [
            "4:10: tracepoint does not judge what this dynamic loader runs [leave it out, or use the \
          lsm backend]"
        ]
    );
    assert!(lint(&loaded, Blind::No).is_empty());
}

#[test]
fn matches_that_others_can_imitate_are_found_in_enforce() {
    let server = |mode: &str, entry: &str| {
        linted(&Fixture::new().server(&format!("{entry}\n[response]\nmode = \"{mode}\"")))
    };
    let alone = "[[match]]\nargs = [\"**/server/**\"]";
    let found = server("enforce", alone);
    assert_eq!(
        found,
        [
            "3:1: in enforce, arguments alone do not tell a server [whoever starts a program chooses \
          them: ask for its exe, unit or cgroup, too]"
        ]
    );
    assert!(server("observe", alone).is_empty());
    for more in ["exe = [\"/usr/bin/node\"]", "unit = [\"mcp-*.service\"]", "cgroup = [\"/a/**\"]"]
    {
        assert!(server("enforce", &format!("{alone}\n{more}")).is_empty(), "{more}");
    }
    let twice = "[[match]]\nexe = [\"/a\", \"/b\"]\n[[match]]\nexe = [\"/b\", \"/a\"]";
    assert_eq!(server("observe", twice), ["5:1: an earlier match says the same [remove it]"]);
}

#[test]
fn matches_that_keep_podman_from_starting_containers_are_found() {
    let found = |entry: &str| linted(&Fixture::new().server(&format!("[[match]]\n{entry}")));
    for wide in ["cgroup = [\"/**/libpod-*.scope/**\"]", "cgroup = [\"/**/libpod-*/**\"]"] {
        let found = found(wide);
        assert!(found[0].starts_with("3:1: this fits what starts podman's containers, too"));
        assert_eq!(found.len(), 1);
    }
    for narrow in [
        "cgroup = [\"/**/libpod-[0-9a-f][0-9a-f]*.scope/**\"]",
        "cgroup = [\"/**/libpod-*.scope/container/**\"]",
        "cgroup = [\"/**/libpod-*.scope/**\"]\nexe = [\"/app/server\"]",
        "cgroup = [\"/**/docker-*.scope/**\"]",
    ] {
        assert!(found(narrow).is_empty(), "{narrow}");
    }
}

#[test]
fn servers_that_cannot_be_told_apart_are_found() {
    let text = |name: &str, exe: &str| {
        format!("schema = 1\nserver = \"{name}\"\n[[match]]\nexe = [\"{exe}\"]\nunit = [\"u\"]\n")
    };
    let fixture = Fixture::new()
        .file("servers/a.toml", &text("a", "/a"))
        .file("servers/b.toml", &text("b", "/a"))
        .file("servers/c.toml", &text("c", "/c"))
        .file("servers/C.toml", &text("C", "/d"));
    let search = SearchPath::new(Some(fixture.folder.path()));
    let of = |name: &str| load(&search, Some(name), &fixture.bindings).unwrap();
    let said = |names: [&str; 2]| {
        let servers = names.map(of);
        lint_servers(&servers.each_ref()).iter().map(short).collect::<Vec<_>>()
    };
    assert_eq!(
        said(["a", "b"]),
        [
            "3:1: server a has the same match [a process can be one server only: ask for more in one \
          of them]"
        ]
    );
    assert_eq!(
        said(["C", "c"]),
        [
            "1:1: this server and C differ only in the case of letters [give one of them another name]"
        ]
    );
    assert!(said(["a", "c"]).is_empty());
}

#[test]
fn mistakes_in_matches_are_told() {
    for (text, said) in [
        ("match = 3", "3:9: `match` must be a list of tables [write [[match]] above its keys]"),
        ("[[match]]\nexes = []", "4:1: unknown key `exes` in [[match]] [did you mean `exe`?]"),
        (
            "[[match]]\nexe = [\"node\"]",
            "4:8: the pattern starts with neither `/` nor `**/` [write ${CWD}/node or **/node]",
        ),
        (
            "[[match]]\nargs = [\"${OPT:--x}\"]",
            "4:9: `${OPT:--x}` has no value before the server is known [the variables here are \
             ${HOME}, ${USER}]",
        ),
    ] {
        let findings = Fixture::new().server(text).findings();
        assert!(findings.contains(&said.to_owned()), "{findings:?}");
    }
    let empty = one_finding("[[match]]\nexe = []");
    assert_eq!(empty, "3:1: this fits every process [name an executable, a unit or a cgroup]");
    let loaded = Fixture::new().server("[[match]]\nexe = [\"${HOME}/bin/x\"]").load().unwrap();
    assert_eq!(loaded.matches(), 1);
}

#[test]
fn shipped_rules_give_no_finding() {
    let search = SearchPath::built_in();
    let names = search.names(SourceKind::Server).unwrap();
    let bindings = tables::ordinary();
    let all: Vec<Loaded> =
        names.iter().map(|name| load(&search, Some(name), &bindings).unwrap()).collect();
    for loaded in &all {
        let found = lint(loaded, Blind::No);
        assert!(
            found.is_empty(),
            "{}: {:?}",
            loaded.server,
            found.iter().map(short).collect::<Vec<_>>()
        );
    }
    let found = lint_servers(&all.iter().collect::<Vec<_>>());
    assert!(found.is_empty(), "{:?}", found.iter().map(short).collect::<Vec<_>>());
    assert!(audit(&search).unwrap().is_empty());
}
