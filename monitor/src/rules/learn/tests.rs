//! From accesses to entries.

use super::*;
use crate::event::{Bytes, World};

fn world(arguments: &[&str]) -> World {
    let bytes = |text: &str| Bytes::from(text.as_bytes());
    World {
        home: bytes("/nohome/u"),
        user: "u".into(),
        cwd: bytes("/nowork/project"),
        tmpdir: bytes("/notmp"),
        arguments: arguments.iter().map(|argument| bytes(argument)).collect(),
        own_homes: vec![bytes("/nohome/u")],
        ..World::default()
    }
}

fn learned(arguments: &[&str], accesses: &[(List, &str)]) -> Vec<(List, String)> {
    let mut learner = Learner::default();
    let places = Places::of(&world(arguments));
    for (list, path) in accesses {
        learner.path(*list, path.as_bytes(), &places, &|| (*path).to_owned());
    }
    let entries = learner.learned().entries;
    entries.into_iter().map(|entry| (entry.list, entry.text)).collect()
}

fn reads(paths: &[&str]) -> Vec<String> {
    let accesses: Vec<_> = paths.iter().map(|path| (List::Read, *path)).collect();
    learned(&["server"], &accesses).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn places_are_named_by_the_variable_that_gave_them() {
    let command = ["npx", "-y", "server", "--db", "/srv/a.db", "--log=/srv/log", "/srv/shared"];
    let accesses = [
        (List::Read, "/srv/a.db"),
        (List::Write, "/srv/log/x"),
        (List::Read, "/srv/shared/a"),
        (List::Read, "/nowork/project/a"),
        (List::Read, "/nohome/u/.toolrc"),
        (List::Write, "/notmp/x.sock"),
        (List::Read, "/srv/other"),
    ];
    let texts: Vec<String> = learned(&command, &accesses).into_iter().map(|(_, t)| t).collect();
    assert_eq!(
        texts,
        [
            "${ARGS_AFTER_MATCH}/a",
            "${CWD}/a",
            "${HOME}/.toolrc",
            "${OPT:--db}",
            "/srv/other",
            "${OPT:--log}/x",
            "${TMPDIR}/x.sock",
        ]
    );
}

#[test]
fn a_start_in_the_home_directory_gives_nothing_of_it() {
    let mut world = world(&["server", "/nohome/u", "/"]);
    world.cwd = Bytes::from(b"/nohome".as_slice());
    let places = Places::of(&world);
    assert_eq!(places.place(b"/nohome/u/a").root.text, "${HOME}");
    assert_eq!(places.place(b"/nohome/x").root.text, "");
    assert_eq!(places.place(b"/etc/x").root.text, "");
}

#[test]
fn what_was_given_is_opened_by_a_few_files_and_the_rest_is_not() {
    assert_eq!(reads(&["/nowork/project/a"]), ["${CWD}/a"]);
    assert_eq!(reads(&["/nowork/project/a", "/nowork/project/src/b"]), ["${CWD}/**"]);
    let config = ["/nohome/u/.config/tool/a", "/nohome/u/.config/tool/b"];
    assert_eq!(reads(&config), ["${HOME}/.config/tool/**"]);
    let homes = ["/nohome/u/.toolrc", "/nohome/u/.otherrc", "/nohome/u/.config/a"];
    assert_eq!(reads(&homes).len(), 3, "never the whole home: {:?}", reads(&homes));
    let programs = ["/etc/a", "/etc/b", "/etc/c", "/etc/d", "/usr/a", "/usr/b", "/usr/c", "/usr/d"];
    assert_eq!(reads(&programs).len(), 8, "never a directory of everybody's");
    let fonts: Vec<String> = ["a", "b", "c", "d"].map(|name| format!("/etc/fonts/{name}")).into();
    let fonts: Vec<&str> = fonts.iter().map(String::as_str).collect();
    assert_eq!(reads(&fonts), ["/etc/fonts/**"]);
}

#[test]
fn writing_includes_reading_and_takes_more_to_open_a_directory() {
    let one = [(List::Write, "/nowork/project/a"), (List::Read, "/nowork/project/a")];
    assert_eq!(learned(&["server"], &one), [(List::Write, "${CWD}/a".to_owned())]);
    let accesses = ["a", "b", "c"].map(|name| format!("/nowork/project/{name}"));
    let writes = |count: usize| {
        let accesses: Vec<_> =
            accesses[..count].iter().map(|path| (List::Write, path.as_str())).collect();
        learned(&["server"], &accesses)
    };
    assert_eq!(writes(2).len(), 2);
    assert_eq!(writes(3), [(List::Write, "${CWD}/**".to_owned())]);
}

#[test]
fn programs_are_never_put_together() {
    let programs = ["/usr/bin/a", "/usr/bin/b", "/usr/bin/c", "/usr/bin/d", "/usr/bin/e"];
    let accesses = programs.map(|path| (List::Exec, path));
    assert_eq!(learned(&["server"], &accesses).len(), 5);
}

#[test]
fn a_flood_of_names_folds_into_its_directory_and_is_bounded() {
    let mut learner = Learner::default();
    let places = Places::of(&world(&["server"]));
    for number in 0..40_000 {
        let letters: String = format!("{number:05}").bytes().map(|b| char::from(b + 49)).collect();
        let path = format!("/nohome/u/data/{letters}/x");
        learner.path(List::Read, path.as_bytes(), &places, &|| path.clone());
        let path = format!("/{letters}");
        learner.path(List::Read, path.as_bytes(), &places, &|| path.clone());
    }
    let learned = learner.learned();
    let texts: Vec<&str> = learned.entries.iter().map(|entry| entry.text.as_str()).collect();
    assert!(texts.contains(&"${HOME}/data/**"), "{:?}", &texts[..3]);
    assert!(texts.len() < 1000, "{}", texts.len());
    assert!(learner.dropped > 30_000, "what has no room is said: {}", learner.dropped);
}

#[test]
fn addresses_come_from_the_command_line_or_are_narrow() {
    let places = Places::of(&world(&["server", "--url", "http://127.0.0.1:40001/x"]));
    let entry = |list, address: &str, host| {
        let peer = Peer { address: address.parse().unwrap(), protocol: 1, host };
        peer.entry(list, &places)
    };
    assert_eq!(entry(List::Connect, "127.0.0.1:40001", None), "${OPT:--url}");
    assert_eq!(entry(List::Connect, "127.0.0.1:40002", None), "127.0.0.1:32768-60999/tcp");
    assert_eq!(entry(List::Connect, "10.0.0.7:5432", None), "10.0.0.7:5432/tcp");
    assert_eq!(entry(List::Connect, "93.184.216.34:443", None), "public:443/tcp");
    let named = entry(List::Connect, "93.184.216.34:443", Some("api.example.com"));
    assert_eq!(named, "api.example.com:443/tcp");
    assert_eq!(entry(List::Listen, "127.0.0.1:3000", None), "127.0.0.1:3000/tcp");
}

#[test]
fn what_only_one_stretch_did_counts_as_new_when_it_is_left_out() {
    let mut learner = Learner::default();
    let places = Places::of(&world(&["server"]));
    for stretch in 0..6 {
        let path = if stretch == 5 { "/nohome/u/.odd" } else { "/nohome/u/.usual" };
        learner.path(List::Read, path.as_bytes(), &places, &|| path.to_owned());
        if stretch < 5 {
            learner.next_stretch();
        }
    }
    let wanted = Estimate::LeftOut { stretches: 6, quiet: 5, median: 0, worst: 1 };
    assert_eq!(learner.learned().estimate, wanted);
    let mut short = Learner::default();
    short.path(List::Read, b"/nohome/u/.a", &places, &|| String::new());
    assert_eq!(short.learned().estimate, Estimate::SeenOnce { once: 1, of: 1 });
}

#[test]
fn a_file_that_is_extended_keeps_its_comments() {
    let mut learner = Learner::default();
    let places = Places::of(&world(&["server"]));
    learner.path(List::Read, b"/nohome/u/.new", &places, &|| "x\n\x1b by y".to_owned());
    learner.hold("secrets", "read", b"/nohome/u/.ssh/id", &places, &|| "z".to_owned());
    let text = "# mine\nschema = 1\nserver = \"s\"\n\n[files] # here\nread = [\"/a\"] # why\n\n\
                [response]\nmode = \"enforce\" # strict\n";
    let out = write(text, &learner.learned(), &[]).unwrap();
    for kept in ["# mine\n", "[files] # here\n", "\"/a\"", "# why\n", "mode = \"enforce\" # strict"]
    {
        assert!(out.contains(kept), "{kept} in {out}");
    }
    assert!(
        out.contains("\n    # once, first x\\x0a\\x1b by y\n    \"${HOME}/.new\",\n]"),
        "{out}"
    );
    assert!(out.contains("\n# secrets: read \"${HOME}/.ssh/id\", once, first z\n"), "{out}");
    crate::rules::parse_server(&out, "s").unwrap();
    let new = write(&new_file("s", &["node"]), &learner.learned(), &["head".to_owned()]).unwrap();
    assert!(new.starts_with("# head\nschema = 1\nserver = \"s\"\ninclude = [\"node\"]\n"), "{new}");
    assert!(new.find("[files]") < new.find("[response]"), "{new}");
    crate::rules::parse_server(&new, "s").unwrap();
}
