//! `replay` and `explain --events` as people call them, on recordings of real runs that are never
//! made anew: what was once written replays for ever.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
};

const RECORDINGS: [&str; 2] = ["v1-lsm", "v1-tracepoint"];
/// What replay may hold of any file, in KiB.
const MEMORY_MAX: i64 = 200 << 10;

fn recording(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/recordings");
    fixtures.join(format!("{name}.jsonl"))
}

fn mcp_monitor(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-monitor"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str], recording: &Path) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = mcp_monitor(arguments).arg(recording).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// The alerts as they stand in a recording, without chains.
fn alerts(recording: &Path) -> Vec<String> {
    let text = fs::read_to_string(recording).unwrap();
    let alerts = text.lines().filter(|line| line.starts_with("{\"v\":1,\"type\":\"alert\","));
    alerts.map(|line| format!("{}}}", line.rsplit_once(",\"chain\":").unwrap().0)).collect()
}

#[test]
fn recordings_of_v1_replay_for_ever() {
    for name in RECORDINGS {
        let recording = recording(name);
        let (code, out, said) = run(&["replay", "--json"], &recording);
        assert_eq!(code, Some(1), "{said}");
        let replayed: Vec<&str> = out.lines().collect();
        assert_eq!(replayed, alerts(&recording), "{name}");
        assert!(replayed.len() >= 9, "{name}");
        let same = format!("{} alerts came out as recorded, and no other", replayed.len());
        assert!(said.contains(&same), "{said}");
        assert!(!said.contains("another verdict") && !said.contains("taken as recorded"), "{said}");
    }
}

#[test]
fn people_see_the_alerts_as_they_were_shown_live() {
    let (code, out, _) = run(&["replay"], &recording("v1-lsm"));
    assert_eq!(code, Some(1));
    assert!(out.contains(
        "mcp-monitor: secret: notes: busybox (153) opens to read /srv/home/.ssh/id_ed25519: it is \
         in the set secrets (built-in/sets/secrets.toml:12 ${HOME}/.ssh/**); denied\n"
    ));
    assert!(out.contains("    /usr/bin/dash /srv/server.sh (151) > "), "{out}");
}

#[test]
fn other_rules_make_a_table_and_json() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("servers")).unwrap();
    let rules = folder.path().to_str().unwrap();
    let text = "schema = 1\nserver = \"notes\"\n[files]\n\
                read = [\"${CWD}/**\", \"/bin/**\", \"/lib/**\", \"/etc/**\", \"/srv/server.sh\"]\n\
                [exec]\nallow = [\"/bin/**\"]\n[response]\n\
                unlisted = { write = \"deny\", connect = \"deny\" }\n";
    fs::write(folder.path().join("servers/notes.toml"), text).unwrap();
    let arguments = ["replay", "--rules", rules];
    let (code, out, said) = run(&arguments, &recording("v1-lsm"));
    assert_eq!(code, Some(1), "{said}");
    let row = |what: &str| {
        let row = out.lines().find(|line| line.contains(what) && line.contains("notes"));
        row.unwrap_or_else(|| panic!("no {what:?} in\n{out}")).to_owned()
    };
    assert!(row("would break (deny)").contains("servers/notes.toml:8 deny"), "{out}");
    assert!(row("would be let through").contains("notes.toml:7 ${CWD}/private/**"), "{out}");
    let (_, json, _) = run(&[&arguments[..], &["--json"]].concat(), &recording("v1-lsm"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let all = json["differences"].as_array().unwrap();
    assert!(all.iter().any(|it| it["change"] == "let_through"
        && it["first_subject"] == "/srv/project/private/plan"
        && it["was"] == "deny"
        && it["becomes"] == "allow"));
    assert!(all.iter().all(|it| it["server"] == "notes" && it["count"].as_u64() > Some(0)));
    assert_eq!(json["complete"], true);
}

#[test]
fn the_same_rules_make_no_difference() {
    let folder = tempfile::tempdir().unwrap();
    for name in RECORDINGS {
        let arguments = ["replay", "--rules", folder.path().to_str().unwrap()];
        let (code, out, said) = run(&arguments, &recording(name));
        assert_eq!(code, Some(0), "{out}{said}");
        assert!(out.contains("the same verdict on every one"), "{out}");
    }
}

#[test]
fn explain_asks_the_rules_of_a_recording() {
    let path = recording("v1-lsm");
    let explain = |access: &str, target: &str| {
        let arguments = ["explain", access, target, "--events"];
        let (code, out, said) = run(&arguments, &path);
        assert_eq!(code, Some(0), "{said}");
        out
    };
    let denied = explain("read", "private/plan");
    assert!(denied.starts_with("deny: read /srv/project/private/plan\n"), "{denied}");
    assert!(denied.contains("(/srv/rules/servers/notes.toml:7)"), "{denied}");
    let allowed = explain("exec", "/bin/busybox");
    assert!(allowed.starts_with("allow: exec /usr/bin/busybox\n"), "{allowed}");
    let (code, _, said) = run(&["explain", "read", "/x", "--server", "other", "--events"], &path);
    assert_eq!(code, Some(4));
    assert!(said.contains("no policy of server other: it has those of notes"), "{said}");
}

#[test]
fn wrong_use_and_wrong_files_have_their_codes() {
    assert_eq!(run(&["replay", "--from", "yesterday"], Path::new("x")).0, Some(2));
    let (code, _, said) = run(&["replay"], Path::new("/no/such/recording"));
    assert_eq!(code, Some(4));
    assert!(said.contains("/no/such/recording: "), "{said}");
    let (code, _, said) = run(&["replay"], Path::new(file!()).file_name().unwrap().as_ref());
    assert_eq!(code, Some(4), "{said}");
}

/// Replays what `fill` writes behind the real header, and gives the end, what was said, and the
/// most memory held, in KiB.
fn replay_of(fill: impl FnOnce(&mut BufWriter<File>, &str)) -> (ExitStatus, String, i64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.jsonl");
    let text = fs::read_to_string(recording("v1-lsm")).unwrap();
    let mut file = BufWriter::new(File::create(&path).unwrap());
    fill(&mut file, &text);
    file.flush().unwrap();
    let said = folder.path().join("said");
    let mut command = mcp_monitor(&["replay"]);
    command.arg(&path).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
    #[expect(clippy::zombie_processes, reason = "wait4 takes its end, and what it used")]
    let child = command.spawn().unwrap();
    // SAFETY: both are plain integers and arrays of them, for which zero is a value.
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: the child is ours and not waited for elsewhere; both places can be written to.
    let pid = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) };
    assert_eq!(pid, child.id() as i32);
    (ExitStatus::from_raw(status), fs::read_to_string(said).unwrap(), usage.ru_maxrss)
}

fn chained(object: &str) -> String {
    let object = object.strip_suffix('}').unwrap();
    format!("{object},\"chain\":\"{}\"}}\n", "0".repeat(64))
}

#[test]
fn hostile_lines_are_refused_with_their_place_and_do_not_eat_memory() {
    let empties = |count: usize| vec!["\"\""; count].join(",");
    let many = |field: &str, count: usize| format!("\"{field}\":[{}]", empties(count));
    let cases: [(&str, String); 4] = [
        ("header", format!("{{\"v\":1,\"type\":\"header\",{}}}", many("hooks", 2_600_000))),
        ("header", format!("{{\"v\":1,\"type\":\"header\",{}}}", many("hooks", 5_000_000))),
        ("event", format!("{{\"v\":1,\"type\":\"exec\",\"seq\":0,{}}}", many("argv", 650_000))),
        ("event", format!("{{\"v\":1,\"type\":\"exec\",\"seq\":0,{}}}", many("argv", 4_000_000))),
    ];
    for (what, line) in cases {
        let (status, said, memory) = replay_of(|file, text| {
            file.write_all(text.split_inclusive('\n').next().unwrap().as_bytes()).unwrap();
            let line = chained(&line);
            (0..6).for_each(|_| file.write_all(line.as_bytes()).unwrap());
        });
        assert_eq!(status.code(), Some(4), "{what}: {said}");
        assert!(said.contains("hostile.jsonl: line 2 (byte "), "{what}: {said}");
        assert!(memory < MEMORY_MAX, "{what} of {} bytes: {memory} KiB", line.len());
    }
}

#[test]
fn a_long_recording_takes_no_more_memory_than_a_short_one() {
    let (status, said, memory) = replay_of(|file, text| {
        let (header, rest) = text.split_once('\n').unwrap();
        writeln!(file, "{header}").unwrap();
        (0..1000).for_each(|_| file.write_all(rest.as_bytes()).unwrap());
    });
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(memory < MEMORY_MAX / 2, "{memory} KiB");
}
