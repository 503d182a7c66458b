//! `check` and `explain` as people call them: output and exit codes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn mcp_monitor(arguments: &[&str], rules: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mcp-monitor"))
        .arg(arguments[0])
        .args(["--home".as_ref(), rules.as_os_str(), "--rules".as_ref(), rules.as_os_str()])
        .args(&arguments[1..])
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap()
}

fn server(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("servers")).unwrap();
    let text = format!("schema = 1\nserver = \"s\"\n{text}");
    fs::write(folder.path().join("servers/s.toml"), text).unwrap();
    folder
}

#[test]
fn check_is_quiet_about_good_rules_and_shows_resolved_paths() {
    let folder = server("[exec]\nallow = [\"/bin/sh\"]");
    let output = mcp_monitor(&["check"], folder.path());
    let shell = fs::canonicalize("/bin/sh").unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains(&format!("/bin/sh -> {}", shell.display())));
}

#[test]
fn check_names_file_and_line_and_returns_one() {
    let folder = server("[files]\nraed = []");
    let output = mcp_monitor(&["check", "--server", "s"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("servers/s.toml:4:1") && said.contains("did you mean `read`?"), "{said}");
    let json = mcp_monitor(&["check", "--json"], folder.path());
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let servers = value["servers"].as_array().unwrap();
    let own = servers.iter().find(|server| server["server"] == "s").unwrap();
    assert_eq!(own["findings"][0]["line"], 4);
    assert_eq!(json.status.code(), Some(1));
}

#[test]
fn check_finds_mistakes_in_texts_that_no_server_uses() {
    let folder = server("");
    fs::create_dir(folder.path().join("includes")).unwrap();
    fs::write(folder.path().join("includes/lone.toml"), "schema = 1\nx = 1").unwrap();
    let output = mcp_monitor(&["check"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("includes/lone.toml:2:1"), "{}", text(&output));
}

#[test]
fn check_tells_what_each_backend_can_enforce() {
    let folder = server("[response]\nunlisted = { write = \"deny\" }");
    let both = text(&mcp_monitor(&["check", "--server", "s"], folder.path()));
    assert!(both.contains("lsm: write: refused"), "{both}");
    assert!(both.contains("tracepoint: write: not refused"), "{both}");
    let one = ["check", "--server", "s", "--backend", "lsm"];
    assert!(!text(&mcp_monitor(&one, folder.path())).contains("tracepoint"));
}

#[test]
fn missing_servers_and_wrong_arguments_have_codes_of_their_own() {
    let folder = server("");
    let missing = mcp_monitor(&["check", "--server", "nobody"], folder.path());
    assert_eq!(missing.status.code(), Some(4), "{}", text(&missing));
    let usage = mcp_monitor(&["check", "--sever", "s"], folder.path());
    assert_eq!(usage.status.code(), Some(2));
    let target = mcp_monitor(&["explain", "connect", "nowhere"], folder.path());
    assert_eq!(target.status.code(), Some(2), "{}", text(&target));
}

#[test]
fn explain_names_the_rule_that_decides() {
    let folder =
        server("[files]\nread = [\"/srv/**\"]\n[response]\nunlisted = { read = \"deny\" }");
    let said = |target: &str| {
        let arguments = ["explain", "--server", "s", "read", target];
        let output = mcp_monitor(&arguments, folder.path());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    let allowed = said("/srv/a");
    assert!(allowed.starts_with("allow: read /srv/a\n"), "{allowed}");
    assert!(allowed.contains("files.read \"/srv/**\"") && allowed.contains("s.toml:4"));
    let denied = said("/nowhere/a");
    assert!(denied.starts_with("deny: read /nowhere/a\n"), "{denied}");
    assert!(denied.contains("response.unlisted.read") && denied.contains("s.toml:6"), "{denied}");
}

#[test]
fn explain_knows_a_set_member_by_another_name() {
    let folder = server("");
    fs::create_dir(folder.path().join(".ssh")).unwrap();
    fs::write(folder.path().join(".ssh/key"), "").unwrap();
    fs::write(folder.path().join(".netrc"), "").unwrap();
    fs::hard_link(folder.path().join(".netrc"), folder.path().join("link")).unwrap();
    let judge = |name: &str| {
        let target = folder.path().join(name);
        let output =
            mcp_monitor(&["explain", "--json", "read", target.to_str().unwrap()], folder.path());
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (value["verdict"].as_str().unwrap().to_owned(), value["sets"].clone())
    };
    let alert = ("alert".to_owned(), serde_json::json!(["secrets"]));
    assert_eq!(judge(".ssh/key"), alert);
    assert_eq!(judge("link"), alert);
    assert_eq!(judge("other"), ("allow".to_owned(), serde_json::json!([])));
}

#[test]
fn explain_says_what_becomes_of_a_host() {
    let folder = server(
        "[network]\nconnect = [\"api.example.com:443\"]\n[response]\nmode = \"enforce\"\n\
         unlisted = { connect = \"deny\" }",
    );
    let explain = |target: &str| {
        let arguments = ["explain", "--server", "s", "connect", target];
        text(&mcp_monitor(&arguments, folder.path()))
    };
    let said = explain("api.example.com:443");
    assert!(said.starts_with("allow: connect api.example.com:443"), "{said}");
    assert!(said.contains("network.connect \"api.example.com:443\""), "{said}");
    assert!(said.contains("its addresses are let in"), "{said}");
    let said = explain("api.example.com:80");
    assert!(said.starts_with("deny: ") && said.contains("with other ports"), "{said}");
    let said = explain("other.example.com:443/udp");
    assert!(said.starts_with("deny: ") && said.contains("the question for its address"), "{said}");
    let said = text(&mcp_monitor(
        &["explain", "--server", "s", "listen", "api.example.com:443"],
        folder.path(),
    ));
    assert!(said.contains("write an address with its port"), "{said}");
}
