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
    // Not a name that package runners write to: it is a home here, too.
    let folder = tempfile::Builder::new().prefix("rules-").tempdir().unwrap();
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
fn check_finds_rules_that_decide_too_much_and_is_quiet_about_narrow_ones() {
    let wide = server("[files]\nread = [\"/**\"]");
    let output = mcp_monitor(&["check", "--server", "s"], wide.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(
        said.contains("files.read allows the whole disk") && said.contains("s.toml:4"),
        "{said}"
    );
    let narrow = server("[files]\nread = [\"/srv/notes/**\"]");
    let output = mcp_monitor(&["check", "--server", "s"], narrow.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn check_says_who_uses_matches() {
    let folder = server("[[match]]\nexe = [\"/usr/bin/node\"]");
    let said = text(&mcp_monitor(&["check", "--server", "s"], folder.path()));
    assert!(said.contains("1 matches: by them `mcp-monitor agent` knows the server"), "{said}");
    let folder = server("");
    assert!(!text(&mcp_monitor(&["check", "--server", "s"], folder.path())).contains("matches"));
}

#[test]
fn check_prints_the_schema_and_nothing_else() {
    let folder = server("");
    let output = mcp_monitor(&["check", "--schema"], folder.path());
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value["then"]["properties"]["files"].is_object());
}

#[test]
fn explain_answers_for_every_class_on_each_backend() {
    let folder = server(
        "[files]\nread = [\"/srv/**\"]\nwrite = [\"/srv/out/**\"]\n[exec.arguments]\n\
         \"/nobin/git\" = [[\"status\", \"...\"]]\n[network]\nconnect = [\"10.0.0.0/8:443\"]\n\
         listen = [\"127.0.0.1:3000\", \"/run/s.sock\"]\nunix = [\"/run/peer\", \"@peer-*\"]\n\
         [response]\nunlisted = { read = \"deny\", write = \"deny\", exec = \"deny\", \
         connect = \"deny\", listen = \"deny\", unix = \"deny\" }",
    );
    let ask = |question: &[&str]| {
        let arguments = [&["explain", "--json", "--server", "s"], question].concat();
        let output = mcp_monitor(&arguments, folder.path());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    for (question, verdict, line) in [
        (&["read", "/srv/a"] as &[&str], "allow", 4),
        (&["read", "/other"], "deny", 13),
        (&["write", "/srv/out/a"], "allow", 5),
        (&["write", "/srv/a"], "deny", 13),
        (&["exec", "/nobin/git", "status", "-s"], "allow", 7),
        (&["exec", "/nobin/git", "push"], "deny", 7),
        (&["exec", "/nobin/git"], "deny", 7),
        (&["exec", "/nobin/other"], "deny", 13),
        (&["connect", "10.1.2.3:443"], "allow", 9),
        (&["connect", "10.1.2.3:80"], "deny", 13),
        (&["listen", "127.0.0.1:3000"], "allow", 10),
        (&["listen", "/run/s.sock"], "allow", 10),
        (&["listen", "0.0.0.0:3000"], "deny", 13),
        (&["unix", "@peer-1"], "allow", 11),
        (&["unix", "/run/other"], "deny", 13),
    ] {
        let said = ask(question);
        assert_eq!(said["verdict"], verdict, "{question:?}: {said:#}");
        assert_eq!(said["rule"]["line"], line, "{question:?}: {said:#}");
        for backend in ["lsm", "tracepoint"] {
            let effect = said["backends"][backend].as_str().unwrap();
            assert_eq!(effect == "allowed", verdict == "allow", "{question:?}: {said:#}");
        }
    }
    let wrong = mcp_monitor(&["explain", "--server", "s", "read", "/srv/a", "more"], folder.path());
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
}

#[test]
fn explain_tells_scripts_from_programs() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let rules = format!(
        "[exec.arguments]\n{:?} = [[\"...\"]]\n[response]\nunlisted = {{ exec = \"deny\" }}",
        script.display().to_string()
    );
    let folder = server(&rules);
    let said = text(&mcp_monitor(
        &["explain", "--server", "s", "exec", script.to_str().unwrap(), "x"],
        folder.path(),
    ));
    assert!(said.starts_with("deny: ") && said.contains("it is a script"), "{said}");
    assert!(said.contains("lsm: refused") && said.contains("tracepoint: allowed: this"), "{said}");
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
