//! Tables: their bounds, what they hold, what is built in.

use monitor_common::{
    network::protocol,
    policy::{access, class},
};

use super::*;

#[test]
fn a_table_beyond_its_bounds_names_the_worst_patterns() {
    let patterns: Vec<String> =
        (0..12).map(|i| format!("\"**/a{i}*b*c*d*e{i}/**/f*g{i}\"")).collect();
    let text = format!("[files]\nread = [\"**/plain\", {}]", patterns.join(", "));
    let error = compile(&Fixture::new().server(&text).load().unwrap()).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("the patterns need more than 65535 states"), "{text}");
    assert!(text.contains("a0*b*c*d*e0") && !text.contains("plain\" is among"), "{text}");
}

#[test]
fn equal_rules_give_equal_tables() {
    let fixture = || {
        Fixture::new().server(
            "[files]\nread = [\"/a/**\", \"/b/*.rs\", \"**/x?\"]\nwrite = [\"/a/b\"]\n\
             [network]\nconnect = [\"public:443\"]",
        )
    };
    let (one, two) = (fixture().compile(), fixture().compile());
    for (a, b) in one.tables.iter().zip(&two.tables) {
        assert_eq!(a.digest, b.digest);
    }
    assert_eq!(one.addresses, two.addresses);
    assert_eq!(one.tables[0].states, two.tables[0].states);
}

/// A word of its own for each number.
fn word(number: u64) -> String {
    let digest = blake3::hash(&number.to_le_bytes());
    let letters = digest.as_bytes()[..9].iter().map(|byte| char::from(b'a' + byte % 26));
    letters.collect()
}

/// A mix as in real rule files: 10 patterns that many servers share, and 400 of their own.
fn mixed() -> Vec<String> {
    let mut globs: Vec<String> = [
        "/usr/lib/**",
        "/home/u/projects/**",
        "/home/*/.ssh/**",
        "**/.env",
        "**/.env.*",
        "**/id_rsa*",
        "**/*.pem",
        "**/.git/hooks/**",
        "/etc/shadow",
        "/proc/*/environ",
    ]
    .map(str::to_owned)
    .into();
    globs.extend((0..400).map(|i| {
        let (one, two) = (word(i), word(1000 + i));
        match i % 4 {
            0 => format!("/srv/{one}/**"),
            1 => format!("/opt/{one}/*/{two}/*.toml"),
            2 => format!("/home/u/work/{one}/src/**/*.rs"),
            _ => format!("/var/lib/{one}/[a-f]*/{two}?.db"),
        }
    }));
    globs
}

#[test]
fn four_hundred_mixed_patterns_fit() {
    let list: Vec<String> = mixed().iter().map(|glob| format!("{glob:?}")).collect();
    let loaded = Fixture::new()
        .server(&format!("[files]\nread = [{}]\ndeny = [\"**/x\"]", list.join(", ")))
        .load()
        .unwrap();
    let start = std::time::Instant::now();
    let compiled = compile(&loaded).unwrap();
    let sizes: Vec<usize> = compiled.tables.iter().map(|t| t.states).collect();
    println!("400 mixed patterns: {sizes:?} in {:?}", start.elapsed());
    assert!(sizes.iter().sum::<usize>() < 20_000, "{sizes:?}");
    let source = format!("/home/u/work/{}/src/a/b.rs", word(2));
    assert_eq!(compiled.classify_path(source.as_bytes()), class::READ);
    assert_eq!(compiled.classify_path(b"/a/x"), class::DENY);
}

#[test]
fn floating_rules_that_multiply_move_to_the_table_of_the_sets() {
    let floating: Vec<String> = (0..40).map(|i| format!("**/{}", word(i))).collect();
    let anchored: Vec<String> =
        (0..60).map(|i| format!("/opt/{}/*/{}", word(100 + i), word(200 + i))).collect();
    let text = format!("[files]\nread = {anchored:?}\nwrite = {floating:?}");
    let compiled = Fixture::new().server(&text).compile();
    assert!(!compiled.tables[2].cells.is_empty());
    let path = |end: &str| format!("/opt/{}/{}/{end}", word(100), word(3));
    assert_eq!(compiled.classify_path(path(&word(200)).as_bytes()), class::READ);
    assert_eq!(compiled.classify_path(path(&word(7)).as_bytes()), class::WRITE);
    let few = Fixture::new().server("[files]\nwrite = [\"**/a\"]\nread = [\"/b\"]").compile();
    assert!(few.tables[2].cells.is_empty());
}

#[test]
fn abstract_names_are_no_paths() {
    let text = "[network]\nunix = [\"@/tmp/x-*\", \"@name-*\", \"@*/y\", \"/tmp/**\", \"**/z\"]";
    let compiled = Fixture::new().server(text).compile();
    for (name, allowed) in [
        ("@/tmp/x-1", true),
        ("@/tmp/y", false),
        ("@name-1", true),
        ("@name", false),
        ("/name-1", false),
        ("@q/y", true),
        ("@q/z", false),
        ("/q/z", true),
    ] {
        let expected = if allowed { class::UNIX } else { 0 };
        assert_eq!(compiled.classify_path(name.as_bytes()), expected, "{name}");
        let matching = compiled.matching(Subject::Path(name.as_bytes()), access::UNIX);
        assert_eq!(!matching.is_empty(), allowed, "{name}");
    }
    assert_eq!(
        one_finding("[network]\nunix = [\"@\"]"),
        "4:9: the name of an abstract socket is empty"
    );
}

#[test]
fn stars_that_braces_bring_together_stay_within_a_component() {
    let compiled = Fixture::new().server("[files]\nread = [\"/*{a,}*\"]").compile();
    assert_eq!(compiled.classify_path(b"/bab"), class::READ);
    assert_eq!(compiled.classify_path(b"/b"), class::READ);
    assert_eq!(compiled.classify_path(b"/a/a"), 0);
}

#[test]
fn everything_and_nothing() {
    let all = Fixture::new().server("[files]\nread = [\"**\"]\nwrite = [\"/\"]").compile();
    assert_eq!(all.classify_path(b"/"), class::READ | class::WRITE);
    assert_eq!(all.classify_path(b"/a\n\xff"), class::READ);
    let none = Fixture::new().server("").compile();
    assert_eq!(none.classify_path(b"/a"), 0);
    assert_eq!(none.classify_address(v4(1, 1, 1, 1), 443, protocol::TCP), 0);
}

/// As on an ordinary machine: one home, a few directories given on the command line.
pub(super) fn ordinary() -> Bindings {
    let arguments = ["npx", "-y", "@scope/server", "/srv/a", "/srv/b"];
    Bindings {
        arguments: arguments.iter().map(std::ffi::OsString::from).collect(),
        other_homes: vec![PathBuf::from("/nohome/other"), PathBuf::from("/nohome/root")],
        tmpdir: PathBuf::from("/tmp"),
        ..Fixture::new().bindings
    }
}

#[test]
fn what_is_built_in_loads_and_compiles() {
    let search = SearchPath::built_in();
    for name in search.names(SourceKind::Server).unwrap() {
        let loaded = load(&search, Some(&name), &ordinary()).unwrap_or_else(|e| panic!("{e}"));
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
        let start = std::time::Instant::now();
        let compiled = compile(&loaded).unwrap();
        let sizes: Vec<usize> = compiled.tables.iter().map(|t| t.states).collect();
        println!("{name}: {sizes:?} in {:?}", start.elapsed());
        assert!(sizes.iter().all(|rows| *rows < 8_000), "{name}: {sizes:?}");
    }
    for name in search.names(SourceKind::Include).unwrap() {
        let fixture = Fixture::new().server(&format!("include = [\"{name}\"]"));
        let fixture = Fixture { bindings: ordinary(), ..fixture };
        fixture.load().unwrap_or_else(|e| panic!("{e}"));
    }
}
