//! Rules as a whole: texts in, verdicts and messages out.

use std::{collections::BTreeMap, fs, path::PathBuf};

use globset::GlobBuilder;
use monitor_common::{
    network::{mapped_v4, protocol},
    policy::{access, class, decide, reason, set, verdict},
};
use proptest::prelude::*;

use super::*;

/// A rules directory in which the sets are empty, so that tests say all that counts.
struct Fixture {
    folder: tempfile::TempDir,
    bindings: Bindings,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in set::NAMES {
            let text = format!("schema = 1\nset = \"{name}\"\naccess = []\n");
            write(&folder, &format!("sets/{name}.toml"), &text);
        }
        let home = PathBuf::from("/nohome/u");
        let bindings = Bindings {
            own_homes: vec![home.clone()],
            home,
            user: "u".to_owned(),
            cwd: PathBuf::from("/nowork"),
            tmpdir: PathBuf::from("/notmp"),
            arguments: vec!["server".into()],
            ..Bindings::default()
        };
        Self { folder, bindings }
    }

    fn file(self, name: &str, text: &str) -> Self {
        write(&self.folder, name, text);
        self
    }

    fn server(self, text: &str) -> Self {
        self.file("servers/s.toml", &format!("schema = 1\nserver = \"s\"\n{text}"))
    }

    fn load(&self) -> Result<Loaded, RuleError> {
        let search = SearchPath::new(Some(self.folder.path()));
        load(&search, Some("s"), &self.bindings)
    }

    fn compile(&self) -> Compiled {
        compile(&self.load().unwrap()).unwrap()
    }

    /// Messages with line, column and help, without the renderer's frame.
    fn findings(&self) -> Vec<String> {
        match self.load() {
            Err(RuleError::Findings(findings)) => findings.iter().map(short).collect(),
            other => panic!("no findings: {other:?}"),
        }
    }
}

fn short(finding: &Finding) -> String {
    let help = finding.help.as_ref().map(|help| format!(" [{help}]")).unwrap_or_default();
    format!("{}:{}: {}{help}", finding.line(), finding.column(), finding.message)
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn one_finding(text: &str) -> String {
    let findings = Fixture::new().server(text).findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.into_iter().next().unwrap()
}

#[test]
fn findings_name_the_place_and_what_to_write() {
    let cases = [
        ("filse = 1", "3:1: unknown key `filse` [did you mean `files`?]"),
        ("[files]\nraed = []", "4:1: unknown key `raed` in [files] [did you mean `read`?]"),
        (
            "[exec]\nzzzzzzzz = []",
            "4:1: unknown key `zzzzzzzz` in [exec] [the keys here are `allow`]",
        ),
        (
            "[env]\npass = []",
            "3:2: `env` is not supported yet [remove it: this version would not act on it]",
        ),
        (
            "[exec.arguments]\n\"/usr/bin/git\" = []",
            "3:7: `arguments` in [exec] is not supported yet [remove it: this version would not \
             act on it]",
        ),
        (
            "[response]\ndetectors = {}",
            "4:1: `detectors` in [response] is not supported yet [remove it: this version would \
             not act on it]",
        ),
        ("files = 3", "3:9: `files` must be a table, not an integer"),
        (
            "[files]\nread = \"/a\"",
            "4:8: `files.read` must be a list of strings, not a string [write [\"/a\"]]",
        ),
        ("[files]\nread = [1]", "4:9: `files.read[]` must be a string, not an integer"),
        (
            "[response]\nmode = \"enforced\"",
            "4:8: `response.mode` cannot be \"enforced\" [did you mean \"enforce\"?]",
        ),
        (
            "[response]\nunlisted = { read = \"block\" }",
            "4:21: `response.unlisted.read` cannot be \"block\" [write one of `allow`, `alert`, \
             `deny`, `kill`, `kill-tree`]",
        ),
        (
            "[response]\nunlisted = { raed = \"deny\" }",
            "4:14: unknown key `raed` in [response.unlisted] [did you mean `read`?]",
        ),
        (
            "[response]\nsets = { secret = \"deny\" }",
            "4:10: unknown key `secret` in [response.sets] [did you mean `secrets`?]",
        ),
        (
            "[record]\nevents = [\"opens\"]",
            "4:11: `record.events[]` cannot be \"opens\" [did you mean \"open\"?]",
        ),
        (
            "[record]\nevents = 1",
            "4:10: `record.events` must be \"all\", \"violations\" or a list of types",
        ),
        (
            "[files]\nread = [\"a/b\"]",
            "4:9: the pattern starts with neither `/` nor `**/` [write ${CWD}/a/b or **/a/b]",
        ),
        (
            "[files]\nread = [\"~/b\"]",
            "4:9: the pattern starts with neither `/` nor `**/` [write ${HOME}/b]",
        ),
        (
            "[files]\nread = [\"$HOME/b\"]",
            "4:9: the pattern starts with neither `/` nor `**/` [variables are written with \
             braces: ${HOME}]",
        ),
        ("[files]\nread = [\"\"]", "4:9: the pattern is empty"),
        (
            "[files]\nread = [\"/a/\"]",
            "4:9: the pattern ends in `/` [write /a for the directory itself, /a/** with all \
             beneath it]",
        ),
        (
            "[files]\nread = [\"/proc/self/maps\"]",
            "4:9: `/proc/self` is a link to the process that looks, and in no resolved path \
             [write /proc/*/maps]",
        ),
        (
            "[files]\nread = [\"/proc/net/tcp\"]",
            "4:9: `/proc/net` is a link to the process that looks, and in no resolved path \
             [write /proc/*/net/tcp]",
        ),
        ("[files]\nread = [\"/a//b\"]", "4:9: two slashes follow each other"),
        (
            "[files]\nread = [\"/a/../b\"]",
            "4:9: `..` within the path [write the path that is meant: `.` and `..` are in no \
             resolved path]",
        ),
        (
            "[files]\nread = [\"/a/b**\"]",
            "4:9: `**` is only a part of a component [`**` stands alone between slashes; within \
             a component write `*`]",
        ),
        (
            "[files]\nread = [\"/a/[b\"]",
            "4:9: `[` has no `]` [write a backslash before a bracket that stands for itself]",
        ),
        (
            "[files]\nread = [\"/a/{b\"]",
            "4:9: `{` has no `}` [write a backslash before a bracket that stands for itself]",
        ),
        ("[files]\nread = ['/a\\']", "4:9: the pattern ends in `\\`"),
        ("[files]\nread = [\"/a/[z-a]\"]", "4:9: the range `z-a` runs backwards"),
        ("[files]\nread = [\"/[ä]\"]", "4:9: `[...]` can hold ASCII characters only, and no `/`"),
        (
            "[files]\nread = [\"/{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}\"]",
            "4:9: the braces stand for more than 256 patterns [use several entries, or `*`]",
        ),
        (
            "[files]\nread = [\"${HOEM}/b\"]",
            "4:9: there is no variable `${HOEM}` [did you mean `${HOME}`?]",
        ),
        (
            "[files]\ndeny = [\"${ENV:NOT_SET}/b\"]",
            "4:9: `${ENV:NOT_SET}` has no value here [start the server with it, or remove the \
             entry]",
        ),
        (
            "[files]\nread = [\"@name\"]",
            "4:9: abstract socket names stand in network.unix or network.listen [a file whose \
             name begins with @ is written with its directory]",
        ),
        (
            "[network]\nconnect = [\"api.github.com:443\"]",
            "4:12: host names are not supported yet [write its addresses, or public:443]",
        ),
        (
            "[network]\nconnect = [\"localhost:80\"]",
            "4:12: \"localhost\" is not an address, a network or `public` [write 127.0.0.1 and \
             [::1]]",
        ),
        (
            "[network]\nconnect = [\"10.0.0.1/8\"]",
            "4:12: the network has address bits beyond its prefix [write 10.0.0.0/8]",
        ),
        (
            "[network]\nconnect = [\"10.0.0.0/33\"]",
            "4:12: \"33\" is not a prefix length of this address",
        ),
        (
            "[network]\nconnect = [\"10.0.0.1:http\"]",
            "4:12: \"http\" is not a port or a range of ports [write :443 or :8000-8999]",
        ),
        ("[network]\nconnect = [\"10.0.0.1:9-8\"]", "4:12: the range 9-8 runs backwards"),
        (
            "[network]\nconnect = [\"10.0.0.1:9/sctp\"]",
            "4:12: \"sctp\" is not a protocol [write /tcp or /udp]",
        ),
        (
            "[network]\nlisten = [\"public:80\"]",
            "4:11: `public` says where to connect to, not where to listen",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(one_finding(text), expected, "{text}");
    }
}

#[test]
fn heads_of_files_are_checked() {
    let finding = |name: &str, text: &str| Fixture::new().file(name, text).findings();
    assert_eq!(
        finding("servers/s.toml", "server = \"s\""),
        ["1:1: the file has no `schema` [begin the file with `schema = 1`]"]
    );
    assert_eq!(
        finding("servers/s.toml", "schema = 2\nserver = \"s\""),
        ["1:10: this version reads schema 1 only [write `schema = 1`]"]
    );
    assert_eq!(
        finding("servers/s.toml", "schema = 1\nserver = \"t\""),
        ["2:10: `server` is \"t\", but the file is s.toml [write `server = \"s\"`]"]
    );
    assert_eq!(
        finding("sets/secrets.toml", "schema = 1\nset = \"secrets\""),
        ["1:1: the set has no `access` [write `access = [\"read\", \"write\"]`]"]
    );
    let broken = finding("servers/s.toml", "schema = = 1\nfiles = [\n");
    assert!(broken.len() >= 2, "several syntax errors at once: {broken:?}");
}

#[test]
fn several_findings_come_at_once() {
    let text = "[files]\nraed = []\nread = [\"x\", 1]\n[network]\nconnect = [\"x\"]";
    let findings = Fixture::new().server(text).findings();
    // The structure of a file is judged before its patterns.
    assert_eq!(findings.len(), 2, "{findings:?}");
    let text = "[files]\nread = [\"x\"]\n[network]\nconnect = [\"x\"]";
    assert_eq!(Fixture::new().server(text).findings().len(), 2);
}

#[test]
fn findings_are_rendered_with_the_line_and_a_caret() {
    let Err(error) = Fixture::new().server("[files]\nraed = []").load() else { panic!() };
    let text = error.to_string();
    assert!(text.contains("servers/s.toml:4:1"), "{text}");
    assert!(text.contains("raed = []") && text.contains("^^^^"), "{text}");
    assert!(text.contains("help: did you mean `read`?"), "{text}");
}

#[test]
fn includes_are_found_once_and_circles_are_named() {
    let include = |body: &str| format!("schema = 1\n{body}");
    let good = Fixture::new()
        .server("include = [\"a\", \"b\"]")
        .file("includes/a.toml", &include("include = [\"b\"]\n[files]\nread = [\"/a\"]"))
        .file("includes/b.toml", &include("[files]\nread = [\"/b\"]"))
        .load()
        .unwrap();
    let names: Vec<&str> = good.sources.iter().map(|s| s.name.as_str()).take(3).collect();
    assert_eq!(names, ["s", "a", "b"]);
    let circle = Fixture::new()
        .server("include = [\"a\"]")
        .file("includes/a.toml", &include("include = [\"b\"]"))
        .file("includes/b.toml", &include("include = [\"a\"]"));
    assert_eq!(
        circle.findings(),
        ["2:12: includes go in a circle: a -> b -> a [remove one of these includes]"]
    );
    let unknown = Fixture::new()
        .server("include = [\"abcdf\", \"../x\"]")
        .file("includes/abcde.toml", &include(""))
        .findings();
    assert_eq!(unknown[0], "3:12: there is no include \"abcdf\" [did you mean \"abcde\"?]");
    assert!(unknown[1].starts_with("3:21: there is no include \"../x\""));
}

#[test]
fn an_allow_without_value_is_dropped_with_a_warning() {
    let fixture = Fixture::new().server("[files]\nread = [\"${OPT:--db}/**\", \"/a\"]");
    let loaded = fixture.load().unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    let compiled = compile(&loaded).unwrap();
    assert_eq!(compiled.classify_path(b"/a"), class::READ);
    assert_eq!(compiled.classify_path(b"/b"), 0);
}

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
    fs::write(home.join(".config/a/Login Data"), "").unwrap();
    let secrets = "schema = 1\nset = \"secrets\"\naccess = [\"read\"]\npaths = [\"${HOME}/.ssh/**\", \
                   \"${HOME}/.netrc\", \"${HOME}/.config/*/Login Data\", \"${HOME}/.missing\", \
                   \"**/id_rsa\"]";
    let mut fixture = Fixture::new().file("sets/secrets.toml", secrets).server("");
    fixture.bindings.own_homes = vec![home.clone()];
    let bit = class::of_set(set::SECRETS);
    let labels: BTreeMap<PathBuf, (u32, u32)> =
        fixture.compile().labels.into_iter().map(|(p, l)| (p, (l.own, l.beneath))).collect();
    let expected = [(".ssh", bit), (".netrc", 0), (".config/a/Login Data", 0)];
    assert_eq!(labels, expected.map(|(name, beneath)| (home.join(name), (bit, beneath))).into());
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
    mapped_v4(u32::from_be_bytes([a, b, c, d]))
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

#[test]
fn destinations_mean_what_they_say() {
    let compiled = Fixture::new()
        .server(
            "[network]\nconnect = [\"10.0.0.0/8:5432/tcp\", \"[2001:db8::1]:443\", \
             \"127.0.0.1:8000-8999\", \"public:443\", \"2001:db8:1::/48\"]\n\
             deny = [\"10.1.0.0/16\", \"1.1.1.1:443\"]\nlisten = [\"0.0.0.0:3000\", \"/run/x.sock\"]",
        )
        .compile();
    let class = |address, port, protocol| compiled.classify_address(address, port, protocol);
    let tcp = protocol::TCP;
    assert_eq!(class(v4(10, 2, 3, 4), 5432, tcp), class::CONNECT);
    assert_eq!(class(v4(10, 2, 3, 4), 5432, protocol::UDP), 0);
    assert_eq!(class(v4(10, 2, 3, 4), 5433, tcp), 0);
    assert_eq!(class(v4(10, 1, 3, 4), 5432, tcp), class::CONNECT | class::DENY);
    assert_eq!(class(v4(10, 1, 3, 4), 1, protocol::OTHER), class::DENY);
    assert_eq!(class(v6("2001:db8::1"), 443, tcp), class::CONNECT);
    assert_eq!(class(v6("2001:db8::2"), 443, tcp), 0);
    assert_eq!(class(v6("2001:db8:1::2"), 9, protocol::UDP), class::CONNECT);
    assert_eq!(class(v4(127, 0, 0, 1), 8500, tcp), class::CONNECT);
    assert_eq!(class(v4(0, 0, 0, 0), 8500, tcp), class::CONNECT, "0.0.0.0 is loopback");
    assert_eq!(class(v4(127, 0, 0, 2), 8500, tcp), 0);
    assert_eq!(class(v4(8, 8, 8, 8), 443, tcp), class::CONNECT);
    assert_eq!(class(v4(1, 1, 1, 1), 443, tcp), class::CONNECT | class::DENY);
    assert_eq!(class(v6("64:ff9b::808:808"), 443, tcp), class::CONNECT, "NAT64");
    assert_eq!(class(v6("64:ff9b::7f00:1"), 443, tcp), 0, "NAT64 to loopback");
    assert_eq!(class(v6("2606:4700::1111"), 443, tcp), class::CONNECT);
    for private in ["192.168.1.1", "169.254.169.254", "168.63.129.16", "100.64.0.1", "224.0.0.1"] {
        let [a, b, c, d] = private.parse::<std::net::Ipv4Addr>().unwrap().octets();
        assert_eq!(class(v4(a, b, c, d), 443, tcp), 0, "{private}");
    }
    for private in ["::1", "fe80::1", "fd00:ec2::254", "ff02::1", "2002:7f00:1::", "2001::1"] {
        assert_eq!(class(v6(private), 443, tcp), 0, "{private}");
    }
    assert_eq!(compiled.classify_local(v4(0, 0, 0, 0), 3000, tcp), class::LISTEN);
    assert_eq!(compiled.classify_local(v4(127, 0, 0, 1), 3000, tcp), 0);
    assert_eq!(compiled.classify_path(b"/run/x.sock"), class::LISTEN);
}

#[test]
fn too_many_port_ranges_are_refused_where_they_meet() {
    let ports = |count: u32| {
        let all: Vec<String> =
            (0..count).map(|i| format!("\"10.0.0.1:{}\"", 100 + 2 * i)).collect();
        Fixture::new().server(&format!("[network]\nconnect = [{}]", all.join(", ")))
    };
    ports(16).compile();
    let error = compile(&ports(17).load().unwrap()).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("17 port ranges meet in 10.0.0.1/32, more than 16"), "{text}");
}

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
    assert_eq!(one.tables[0].rows.len(), two.tables[0].rows.len());
}

/// A mix as in real rule files, `count` of them besides some floating ones.
fn mixed(count: usize) -> Vec<String> {
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
    globs.extend((0..count).map(|i| match i % 5 {
        0 => format!("/srv/data{i}/**"),
        1 => format!("/opt/app{i}/*/conf/*.toml"),
        2 => format!("/home/u/work/repo{i}/src/**/*.rs"),
        3 => format!("/var/lib/svc{i}/[a-f]*/x?.db"),
        _ => format!("**/name{i}/*.key"),
    }));
    globs
}

#[test]
fn four_hundred_mixed_patterns_fit() {
    let list: Vec<String> = mixed(400).iter().map(|glob| format!("{glob:?}")).collect();
    let loaded = Fixture::new()
        .server(&format!("[files]\nread = [{}]\ndeny = [\"**/x\"]", list.join(", ")))
        .load()
        .unwrap();
    let start = std::time::Instant::now();
    let compiled = compile(&loaded).unwrap();
    let sizes: Vec<usize> = compiled.tables.iter().map(|t| t.rows.len()).collect();
    println!("400 mixed patterns: {sizes:?} in {:?}", start.elapsed());
    assert!(sizes.iter().sum::<usize>() < 20_000);
    assert_eq!(compiled.classify_path(b"/home/u/work/repo2/src/a/b.rs"), class::READ);
    assert_eq!(compiled.classify_path(b"/a/name4/b.key"), class::READ);
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
fn ordinary() -> Bindings {
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
        let sizes: Vec<usize> = compiled.tables.iter().map(|t| t.rows.len()).collect();
        println!("{name}: {sizes:?} in {:?}", start.elapsed());
        assert!(sizes.iter().all(|rows| *rows < 8_000), "{name}: {sizes:?}");
    }
    for name in search.names(SourceKind::Include).unwrap() {
        let fixture = Fixture::new().server(&format!("include = [\"{name}\"]"));
        let fixture = Fixture { bindings: ordinary(), ..fixture };
        fixture.load().unwrap_or_else(|e| panic!("{e}"));
    }
}

const LETTERS: &[&str] =
    &["a", "b", "ab", "é", ".", "*", "?", "[ab]", "[!a]", "{a,b}", "{a,}", "\\*"];

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("**".to_owned()),
        4 => prop::collection::vec(prop::sample::select(LETTERS), 1..4)
            .prop_map(|parts| parts.concat().replace("**", "*"))
            .prop_filter("dots", |text| text != "." && text != ".." && !text.contains("**")),
    ]
}

fn glob() -> impl Strategy<Value = String> {
    (prop::bool::ANY, prop::collection::vec(component(), 1..5)).prop_map(|(floating, parts)| {
        let start = if floating { "**/" } else { "/" };
        format!("{start}{}", parts.join("/"))
    })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(
        prop::sample::select(&[b'a', b'b', b'.', b'*', b'\n', 0xc3, 0xa9, 0xff][..]),
        1..4,
    );
    prop::collection::vec(name, 1..6)
        .prop_map(|names| names.iter().flat_map(|name| [b"/".as_slice(), name].concat()).collect())
}

/// What globset says, with our two differences: `/a/**` is also `/a`, and classes stop at `/`.
fn by_globset(glob: &str, path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    // Without its slash for floating patterns, or `*` could match the nothing before it.
    let path = if glob.starts_with("**") { &path[1..] } else { path };
    let path = std::ffi::OsStr::from_bytes(path);
    let mut texts = vec![glob.replace("[!", "[!/")];
    while let Some(stem) = texts[texts.len() - 1].strip_suffix("/**") {
        texts.push(stem.to_owned());
    }
    texts.iter().any(|text| {
        let mut builder = GlobBuilder::new(text);
        builder.literal_separator(true).empty_alternates(true);
        builder.build().unwrap().compile_matcher().is_match(path)
    })
}

fn patterns_of(glob: &str) -> Vec<pattern::Pattern> {
    let pieces = pattern::pieces(glob).unwrap();
    let all = pattern::alternatives(&pieces).unwrap();
    all.iter().filter_map(|pieces| pattern::Pattern::new(pieces).ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn automaton_matcher_and_globset_agree(
        globs in prop::collection::vec(glob(), 1..5),
        paths in prop::collection::vec(path(), 1..20),
    ) {
        let lists: Vec<Vec<pattern::Pattern>> = globs.iter().map(|g| patterns_of(g)).collect();
        // An alternative may turn out empty and then is no pattern of ours.
        prop_assume!(globs.iter().zip(&lists).all(|(g, l)| {
            l.len() == pattern::alternatives(&pattern::pieces(g).unwrap()).unwrap().len()
        }));
        let with_class = lists.iter().enumerate().flat_map(|(i, list)| {
            list.iter().map(move |pattern| (pattern, 1_u32 << i))
        });
        let table = compile::table_for_tests(&with_class.collect::<Vec<_>>());
        for path in &paths {
            let got = monitor_common::automaton::classify(
                table.rows.as_slice(), 0, &table.classes, path,
            );
            for (i, (glob, list)) in globs.iter().zip(&lists).enumerate() {
                let expected = by_globset(glob, path);
                let shown = path.escape_ascii().to_string();
                prop_assert_eq!(got & (1 << i) != 0, expected, "automaton, {} {}", glob, shown);
                let matched = list.iter().any(|pattern| pattern.matches(path));
                prop_assert_eq!(matched, expected, "matcher, {} {}", glob, shown);
            }
        }
    }

    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = parse_server(&text, "x");
        let _ = pattern::pieces(&text).and_then(|p| pattern::alternatives(&p));
        let _ = address::parse(&text, address::Purpose::Refuse);
    }

    #[test]
    fn the_address_table_agrees_with_each_rule_alone(
        rules in prop::collection::vec((0..7_usize, 0..4_usize, 0..3_usize), 1..7),
        targets in prop::collection::vec((0..12_usize, 0..6_usize, 0..3_usize), 1..30),
    ) {
        const PLACES: [&str; 7] = [
            "public", "0.0.0.0/0", "[::/0]", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "[2001:db8::/32]",
        ];
        const PORTS: [&str; 4] = ["", ":443", ":400-500", ":1-65535"];
        const PROTOCOLS: [&str; 3] = ["", "/tcp", "/udp"];
        let texts: Vec<String> = rules.iter().map(|(place, ports, protocol)| {
            format!("{}{}{}", PLACES[*place], PORTS[*ports], PROTOCOLS[*protocol])
        }).collect();
        let (allow, deny) = texts.split_at(texts.len() / 2);
        let compiled = Fixture::new()
            .server(&format!("[network]\nconnect = {allow:?}\ndeny = {deny:?}"))
            .compile();
        let addresses = [
            v4(10, 0, 0, 1), v4(10, 1, 0, 1), v4(10, 1, 2, 3), v4(8, 8, 8, 8), v4(127, 0, 0, 1),
            v4(192, 168, 0, 1), v6("::1"), v6("2001:db8::1"), v6("2600::1"), v6("fe80::1"),
            v6("64:ff9b::a01:203"), v4(0, 0, 0, 0),
        ];
        for (address, port, protocol) in targets {
            let (address, port) = (addresses[address], [0, 1, 443, 500, 501, 65535][port]);
            let protocol = 1 << protocol;
            let naive = |texts: &[String], purpose, class| {
                let hit = texts.iter().any(|text| {
                    let own = address::parse(text, purpose).unwrap();
                    naive_covers(text, monitor_common::network::canonical(address))
                        && own.ports.0 <= port && port <= own.ports.1
                        && own.protocols & protocol != 0
                });
                if hit { class } else { 0 }
            };
            let expected = naive(allow, address::Purpose::Connect, class::CONNECT)
                | naive(deny, address::Purpose::Refuse, class::DENY);
            prop_assert_eq!(
                compiled.classify_address(address, port, protocol), expected,
                "{:?} {:?} {:?} {} {}", allow, deny, address, port, protocol
            );
        }
    }
}

/// Membership by the standard library and not by our own prefixes.
fn naive_covers(text: &str, address: [u8; 16]) -> bool {
    let v6 = std::net::Ipv6Addr::from(address);
    let ip = v6.to_ipv4_mapped().map_or(std::net::IpAddr::V6(v6), std::net::IpAddr::V4);
    let host = text.trim_end_matches("/tcp").trim_end_matches("/udp");
    if host.starts_with("public") {
        return match ip {
            std::net::IpAddr::V4(v4) => {
                !v4.is_private() && !v4.is_loopback() && !v4.is_unspecified()
            }
            std::net::IpAddr::V6(v6) => {
                v6.segments()[0] & 0xe000 == 0x2000 && v6.segments()[..2] != [0x2001, 0xdb8]
            }
        };
    }
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap().to_owned(),
        None => host.split(':').next().unwrap().to_owned(),
    };
    match host.parse::<ipnet::IpNet>() {
        Ok(net) => net.contains(&ip),
        Err(_) => host.parse::<std::net::IpAddr>().unwrap() == ip,
    }
}
