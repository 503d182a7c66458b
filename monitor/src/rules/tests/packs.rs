//! The rule files that are shipped: each loads without a finding, fits the tables, and keeps its
//! server from what no server needs.

use monitor_common::{
    network::protocol,
    policy::{access, decide, verdict},
};

use super::{address::Prefix, load::AddressRule, *};

/// Servers whose purpose is to run programs of the person's choice.
const SHELLS: [&str; 5] = ["cli", "commands", "desktop-commander", "shell", "wcgw"];

fn bindings(arguments: &[&str]) -> Bindings {
    Bindings {
        cwd: PathBuf::from("/nowork"),
        tmpdir: PathBuf::from("/notmp"),
        arguments: arguments.iter().map(Into::into).collect(),
        // Nothing of this machine counts: neither its links nor the files that are there.
        elsewhere: Some(Elsewhere::default()),
        ..Fixture::new().bindings
    }
}

fn pack(name: &str, arguments: &[&str]) -> Loaded {
    load(&SearchPath::built_in(), Some(name), &bindings(arguments)).unwrap()
}

fn packs() -> Vec<String> {
    let names = SearchPath::built_in().names(SourceKind::Server).unwrap();
    names.into_iter().filter(|name| name != DEFAULT).collect()
}

/// By the patterns themselves: building tables takes a test a second for each pack.
fn verdict_on(loaded: &Loaded, path: &str, asked: u8) -> u8 {
    let matching = loaded.paths.iter().filter(|rule| rule.pattern.matches(path.as_bytes()));
    decide(&compile::policy(loaded), matching.fold(0, |all, rule| all | rule.class), asked).verdict
}

fn verdict_to(loaded: &Loaded, address: [u8; 16], port: u16) -> u8 {
    let to = Prefix { bits: 128, address: u128::from_be_bytes(address) };
    let hit = |rule: &&AddressRule| {
        let own = &rule.destination;
        own.protocols & protocol::TCP != 0
            && (own.ports.0..=own.ports.1).contains(&port)
            && own.place.covers(&to)
    };
    let classes = loaded.addresses.iter().filter(hit).fold(0, |all, rule| all | rule.class);
    decide(&compile::policy(loaded), classes, access::CONNECT).verdict
}

#[test]
fn every_pack_loads_without_findings() {
    for name in packs() {
        for loaded in [pack(&name, &[]), pack(&name, &["server"])] {
            assert_eq!(loaded.warnings, [], "{name}");
            assert!(!loaded.is_default, "{name}");
        }
    }
    assert!(packs().len() >= 15);
}

#[test]
fn every_pack_fits_one_table_of_its_own() {
    // The sets are the same for all and in a table apart.
    let fixture = Fixture::new();
    let search = SearchPath::new(Some(fixture.folder.path()));
    for name in packs() {
        let loaded = load(&search, Some(&name), &bindings(&["server"])).unwrap();
        let states = compile(&loaded).unwrap().tables[1].states;
        assert!(states < 4096, "{name} takes {states} states");
    }
}

#[test]
fn every_pack_refuses_what_nobody_needs() {
    for name in packs() {
        let loaded = pack(&name, &["server"]);
        let on = |path: &str, asked| verdict_on(&loaded, path, asked);
        assert_eq!(on("/nohome/u/.ssh/id_rsa", access::READ), verdict::KILL_TREE, "{name}");
        assert_eq!(on("/nohome/u/.config/chromium/Default/Cookies", access::READ), 4, "{name}");
        assert_eq!(on("/nohome/u/notes.txt", access::READ), verdict::DENY, "{name}");
        assert_eq!(on("/nohome/u/.profile", access::WRITE), verdict::DENY, "{name}");
        assert_eq!(on("/nowork/.git/hooks/pre-commit", access::WRITE), verdict::DENY, "{name}");
        assert_eq!(on("/usr/bin/curl", access::EXEC), verdict::DENY, "{name}");
        assert_eq!(on("/run/docker.sock", access::UNIX), verdict::DENY, "{name}");
        let to = |address, port| verdict_to(&loaded, address, port);
        assert_eq!(to(v4(169, 254, 169, 254), 80), verdict::DENY, "{name}");
        assert_eq!(to(v4(10, 0, 0, 7), 5432), verdict::DENY, "{name}");
        assert_eq!(to(v4(127, 0, 0, 1), 2375), verdict::DENY, "{name}");
        let own = on("/nowork/programs/x", access::EXEC);
        assert_eq!(own, verdict::DENY, "{name} runs what it can write");
        let listed = on("/usr/lib/locale/C.utf8/LC_CTYPE", access::READ);
        assert_eq!(listed, verdict::ALLOW, "{name}");
    }
}

#[test]
fn only_servers_that_run_commands_get_everyday_programs() {
    for name in packs() {
        let loaded = pack(&name, &["server"]);
        let runs = verdict_on(&loaded, "/usr/bin/find", access::EXEC) == verdict::ALLOW;
        assert_eq!(runs, SHELLS.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn no_pack_names_a_place_of_one_machine() {
    for kind in [SourceKind::Server, SourceKind::Include] {
        for name in SearchPath::built_in().names(kind).unwrap() {
            let source = SearchPath::built_in().find(kind, &name).unwrap().unwrap();
            for (place, line) in source.text.lines().enumerate() {
                let code = line.split('#').next().unwrap_or_default();
                let odd = ["\"/home/", "\"/root", "\"/tmp/", "\"/work"];
                assert!(!odd.iter().any(|odd| code.contains(odd)), "{name}:{}: {line}", place + 1);
            }
        }
    }
}

#[test]
fn what_the_command_line_names_is_allowed_and_its_neighbour_is_not() {
    let on = |name: &str, arguments: &[&str], path: &str| {
        verdict_on(&pack(name, arguments), path, access::WRITE)
    };
    let git = ["uvx", "mcp-server-git", "--repository", "/srv/project"];
    assert_eq!(on("git", &git, "/srv/project/a.txt"), verdict::ALLOW);
    assert_eq!(on("git", &git, "/srv/projects/a.txt"), verdict::DENY);
    let sqlite = ["mcp-server-sqlite", "--db-path=/srv/a.db"];
    assert_eq!(on("sqlite", &sqlite, "/srv/a.db-journal"), verdict::ALLOW);
    assert_eq!(on("sqlite", &sqlite, "/srv/b.db"), verdict::DENY);
    let dbhub = ["npx", "-y", "@bytebase/dbhub", "--dsn", "sqlite:///srv/a.db"];
    assert_eq!(on("dbhub", &dbhub, "/srv/a.db"), verdict::ALLOW);
    assert_eq!(on("dbhub", &dbhub, "/srv/b.db"), verdict::DENY);
}

#[test]
fn a_start_over_a_set_leaves_out_an_allow_and_nothing_else() {
    let mut bindings = bindings(&["mcp-server-filesystem", "/srv/shared"]);
    for place in ["/", "/nohome/u", "/nohome"] {
        bindings.cwd = PathBuf::from(place);
        bindings.tmpdir = PathBuf::from(place);
        let loaded = load(&SearchPath::built_in(), Some("filesystem"), &bindings).unwrap();
        let on = |path, asked| verdict_on(&loaded, path, asked);
        assert_eq!(on("/srv/shared/a", access::WRITE), verdict::ALLOW, "{place}");
        assert_eq!(on("/nohome/u/.ssh/id_rsa", access::READ), verdict::KILL_TREE, "{place}");
        assert_eq!(on("/nohome/u/notes.txt", access::WRITE), verdict::DENY, "{place}");
    }
    bindings.cwd = PathBuf::from("/nohome/u");
    let git = load(&SearchPath::built_in(), Some("git"), &bindings).unwrap();
    assert_eq!(git.warnings.len(), 1, "{:?}", git.warnings);
    assert!(git.warnings[0].message.contains("${CWD}"), "{:?}", git.warnings);
    assert_eq!(git.warnings[0].severity, Severity::Warning);
}

#[test]
fn urls_of_the_command_line_are_addresses() {
    let postgres = pack("postgres", &["npx", "-y", "server", "postgresql://me@10.0.0.7/db"]);
    assert_eq!(verdict_to(&postgres, v4(10, 0, 0, 7), 5432), verdict::ALLOW);
    assert_eq!(verdict_to(&postgres, v4(10, 0, 0, 7), 5433), verdict::DENY);
    assert_eq!(verdict_to(&postgres, v4(10, 0, 0, 8), 5432), verdict::DENY);
    let mut bindings = bindings(&["server"]);
    bindings.env.insert("GITLAB_API_URL".into(), "http://127.0.0.1:8080/api/v4".into());
    let gitlab = load(&SearchPath::built_in(), Some("gitlab"), &bindings).unwrap();
    assert_eq!(verdict_to(&gitlab, v4(127, 0, 0, 1), 8080), verdict::ALLOW);
    assert_eq!(verdict_to(&gitlab, v4(127, 0, 0, 1), 8081), verdict::DENY);
}
