//! What is said about texts that are wrong, and what is found of includes.

use monitor_common::policy::class;

use super::*;

#[test]
fn findings_name_the_place_and_what_to_write() {
    let cases = [
        ("filse = 1", "3:1: unknown key `filse` [did you mean `files`?]"),
        ("[files]\nraed = []", "4:1: unknown key `raed` in [files] [did you mean `read`?]"),
        (
            "[exec]\nzzzzzzzz = []",
            "4:1: unknown key `zzzzzzzz` in [exec] [the keys here are `allow`, \
             `arguments`]",
        ),
        (
            "[env]\npass = [\"A=B\"]",
            "4:9: \"A=B\" cannot be the name of a variable [write names of environment variables, \
             such as \"GITHUB_TOKEN\"]",
        ),
        (
            "[resources]\nmemory = \"lots\"",
            "4:10: `resources.memory` cannot be this [write 1 MiB or more, such as \"512M\" or \
             \"1G\"]",
        ),
        (
            "[resources]\ncpu = 2",
            "4:7: `resources.cpu` cannot be this [write shares of one processor, such as \"50%\" or \
             \"200%\"]",
        ),
        (
            "[resources]\nprocesses = 2",
            "4:1: unknown key `processes` in [resources] [the keys here are `memory`, `pids`, `cpu`]",
        ),
        (
            "[response]\ndetectors = { mas_read = \"kill\" }",
            "4:15: unknown key `mas_read` in [response.detectors] [did you mean `mass_read`?]",
        ),
        (
            "[limits]\nmass_raed = {}",
            "4:1: unknown key `mass_raed` in [limits] [did you mean `mass_read`?]",
        ),
        (
            "[limits]\nmass_read = { file = 3 }",
            "4:15: unknown key `file` in [limits.mass_read] [did you mean `files`?]",
        ),
        (
            "[limits]\nexec_burst = { max = 1 }",
            "4:22: `limits.exec_burst.max` must be from 2 to 65536 [a detector is switched off by \
             `response.detectors = { exec_burst = \"allow\" }`]",
        ),
        (
            "[limits]\nmass_read = { window = 10 }",
            "4:24: `limits.mass_read.window` must be a time such as \"10s\" or \"1h\", from 100ms \
             to 7d [the units are ms, s, m, h and d]",
        ),
        (
            "[limits]\nexfiltration = {}",
            "4:16: `limits.exfiltration` states nothing [state `window` or leave it out]",
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
            &format!("[files]\nread = [\"/{}\"]", "a".repeat(4096)),
            "4:9: the pattern is longer than any path",
        ),
        (
            &format!("[files]\nread = [\"/{}{}\"]", "{".repeat(2000), "}".repeat(2000)),
            "4:9: the braces stand for more than 256 patterns [use several entries, or `*`]",
        ),
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
            "[network]\nconnect = [\"api.*:443\"]",
            "4:12: a wildcard covers whoever registers a name: a plain label stands last [write \
             *.example.com]",
        ),
        (
            "[network]\ndeny = [\"api.github.com\"]",
            "4:9: a host cannot be refused by its name: whoever knows its address need not ask \
             [write its addresses, or leave it out of network.connect]",
        ),
        (
            "[network]\nlisten = [\"api.github.com:443\"]",
            "4:11: a host name says where to connect to, not where to listen [write an address of \
             this machine]",
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
fn the_example_in_the_docs_is_accepted() {
    let docs = include_str!("../../../../docs/rules.md");
    let example = docs.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    if let Err(findings) = parse_server(example, "notes") {
        panic!("{}", findings[0]);
    }
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
fn an_allow_without_value_is_left_out_and_named() {
    let fixture = Fixture::new().server("[files]\nread = [\"${OPT:--db}/**\", \"/a\"]");
    let loaded = fixture.load().unwrap();
    assert_eq!(loaded.warnings, []);
    assert!(loaded.open.contains("OPT:--db"));
    let compiled = compile(&loaded).unwrap();
    assert_eq!(compiled.classify_path(b"/a"), class::READ);
    assert_eq!(compiled.classify_path(b"/b"), 0);
}
