//! Recordings of a simulated host, replayed.

use std::{fs, path::Path};

use monitor_common::{
    policy::mode,
    record::{Record, did, flags, kind},
};
use proptest::prelude::*;

use super::*;
use crate::{
    decode::{blank, decode, encode},
    event::{Privacy, Veil},
    rules::{self, Bindings, Compiled, Mode, SearchPath},
    segment::{Header, recordings},
    sink::recording::{Destination, Limits, RecordingOptions, SegmentWriter},
};

const RULES: &str = "[files]\nread = [\"/srv/**\"]\nwrite = [\"/srv/out/**\"]\n\
                     deny = [\"/srv/private/**\"]\n[exec]\nallow = [\"/usr/bin/*\"]\n\
                     [network]\nconnect = [\"10.0.0.0/8:443\"]\n\
                     [response]\nmode = \"enforce\"\n\
                     unlisted = { read = \"alert\", write = \"deny\", exec = \"deny\", connect = \"deny\" }\n";

/// A host with a server under watch, whose kernel decides as ours does.
struct Host {
    folder: tempfile::TempDir,
    compiled: Arc<Compiled>,
    enricher: Enricher,
    writer: SegmentWriter,
    out: Vec<Event>,
    now_ns: u64,
}

fn rules_folder(rules: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("servers")).unwrap();
    let text = format!("schema = 1\nserver = \"s\"\n{rules}");
    fs::write(folder.path().join("servers/s.toml"), text).unwrap();
    folder
}

fn compile(rules: &Path, mode: Mode) -> (Arc<Compiled>, crate::event::PolicyText) {
    let bindings = Bindings {
        home: "/nohome/u".into(),
        own_homes: vec!["/nohome/u".into()],
        cwd: "/".into(),
        tmpdir: "/tmp".into(),
        user: "u".into(),
        ..Bindings::default()
    };
    let mut loaded = rules::load(&SearchPath::new(Some(rules)), Some("s"), &bindings).unwrap();
    loaded.mode = mode;
    (Arc::new(rules::compile(&loaded).unwrap()), loaded.text(1, 7))
}

impl Host {
    fn new(mode: Mode, segment_bytes: u64) -> Self {
        Self::under(RULES, mode, segment_bytes)
    }

    fn under(rules: &str, mode: Mode, segment_bytes: u64) -> Self {
        let folder = rules_folder(rules);
        let (compiled, text) = compile(folder.path(), mode);
        let mut header = Header::of_host("lsm", &[]).unwrap();
        header.policies = vec![text];
        let destination = Destination::Directory {
            directory: folder.path().join("recording"),
            stream: "run".to_owned(),
        };
        let limits = Limits { segment_bytes, ..Limits::default() };
        let options = RecordingOptions { limits, ..RecordingOptions::default() };
        let writer = SegmentWriter::open(destination, header, options, None).unwrap();
        let mut enricher = Enricher::new(writer.next_seq(), Clock::between(0, 1 << 60));
        enricher.name(7, "s");
        enricher.explain(1, compiled.clone());
        Self { folder, compiled, enricher, writer, out: Vec::new(), now_ns: 1_000_000_000 }
    }

    /// A record of process 10, or of another one that it has started.
    fn record(&self, kind: u8, tgid: u32) -> Record {
        let mut record = blank(kind);
        (record.tgid, record.tid, record.ppid) = (tgid, tgid, 10);
        (record.start_ns, record.time_ns) = (u64::from(tgid), self.now_ns);
        (record.instance, record.policy, record.mode) = (7, 1, self.compiled.policy.mode);
        record.did = did::READ;
        record
    }

    /// Lets something happen, and the kernel decide.
    fn happens(&mut self, mut record: Record, path: &str, second: &str) {
        let strings = [path.as_bytes(), second.as_bytes(), b"/srv", b"arg\0"];
        let bytes = encode(record, strings);
        let mut seen = Vec::new();
        fresh().record(&decode(&bytes).unwrap(), &mut seen);
        if !matches!(record.kind, kind::EXEC) {
            record.decision = judge::judge(&seen[0], &self.compiled);
        }
        let refuses = record.mode == mode::ENFORCE && record.decision.verdict >= verdict::DENY;
        record.enforced = if refuses { enforced::DENIED } else { enforced::NONE };
        self.enricher.record(&decode(&encode(record, strings)).unwrap(), &mut self.out);
        self.write();
    }

    fn opens(&mut self, path: &str) {
        self.happens(self.record(kind::OPEN, 10), path, "");
    }

    /// Reads files that hold data.
    fn walks(&mut self, folder: &str, files: u32) {
        for number in 0..files {
            let mut open = self.record(kind::OPEN, 10);
            (open.inode_mode, open.nlink) = (0o100_644, 1);
            open.inode.ino = u64::from(number) + 1;
            self.happens(open, &format!("{folder}/{number}"), "");
            self.waits(1_000_000);
        }
    }

    fn waits(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    fn tick(&mut self) {
        self.enricher.tick(self.now_ns, &mut self.out);
        self.write();
    }

    fn write(&mut self) {
        for event in self.out.drain(..) {
            self.writer.write(&event);
        }
    }

    /// The recording's directory, when the run has ended.
    fn ends(mut self) -> tempfile::TempDir {
        self.enricher.end(&mut self.out);
        self.cut_off()
    }

    /// The same without the end.
    fn cut_off(mut self) -> tempfile::TempDir {
        self.write();
        assert_eq!(self.writer.finish().lost, 0);
        self.folder
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    all.sort();
    all
}

fn replay(paths: &[PathBuf], options: Options) -> Result<(Replay, Vec<String>), ReplayError> {
    let (mut replay, mut alerts) = (Replay::new(options), Vec::new());
    for recording in recordings(paths)? {
        replay.recording(&recording, &mut |alert| alerts.push(alert.to_json()), &mut |_| {})?;
    }
    Ok((replay, alerts))
}

fn replay_all(folder: &tempfile::TempDir) -> (Counts, Vec<String>) {
    let (replay, alerts) = replay(&[folder.path().join("recording")], Options::default()).unwrap();
    (replay.counts, alerts)
}

/// Alert lines of a recording's last segment, without chains.
fn recorded(folder: &tempfile::TempDir) -> Vec<String> {
    let last = files(&folder.path().join("recording")).pop().unwrap();
    let text = fs::read_to_string(last).unwrap();
    let alerts = text.lines().filter(|line| line.contains("\"type\":\"alert\""));
    alerts.map(|line| format!("{}}}", line.rsplit_once(",\"chain\":").unwrap().0)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    Wait(u64),
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6_u8).prop_map(Step::Open),
        2 => (0..7_000_000_000_u64).prop_map(Step::Wait),
        1 => Just(Step::Tick),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn alerts_come_out_again_to_the_byte(steps in steps(), observe in any::<bool>()) {
        let mut host = Host::new(if observe { Mode::Observe } else { Mode::Enforce }, 1 << 30);
        let exec = host.record(kind::EXEC, 10);
        host.happens(exec, "/usr/bin/node", "");
        for step in steps {
            match step {
                Step::Open(number) => {
                    let folder = ["private", "in", "out"][usize::from(number % 3)];
                    host.opens(&format!("/srv/{folder}/{number}"));
                    host.opens(&format!("/elsewhere/{number}"));
                }
                Step::Wait(ns) => host.waits(ns),
                Step::Tick => host.tick(),
            }
        }
        let folder = host.ends();
        let (counts, alerts) = replay_all(&folder);
        prop_assert_eq!(&alerts, &recorded(&folder));
        prop_assert_eq!(counts.same_alerts, alerts.len() as u64);
        prop_assert_eq!((counts.other_alerts, counts.other_verdicts), (0, 0));
        prop_assert_eq!((counts.unjudged, counts.open_ends), (0, 0));
    }
}

#[test]
fn a_run_without_end_tells_of_what_was_only_counted() {
    let mut host = Host::new(Mode::Enforce, 1 << 30);
    (0..3).for_each(|_| host.opens("/srv/private/key"));
    let folder = host.cut_off();
    let (counts, alerts) = replay_all(&folder);
    assert_eq!((counts.open_ends, counts.same_alerts, alerts.len()), (1, 1, 2));
    assert!(alerts[1].contains("(2 times)"), "{}", alerts[1]);
}

#[test]
fn a_later_segment_knows_the_processes_of_those_before() {
    let mut host = Host::new(Mode::Enforce, 60_000);
    let exec = host.record(kind::EXEC, 10);
    host.happens(exec, "/usr/bin/node", "");
    let mut fork = host.record(kind::FORK, 10);
    (fork.target.tgid, fork.target.start_ns) = (11, 11);
    host.happens(fork, "", "");
    let child = host.record(kind::EXEC, 11);
    host.happens(child, "/usr/bin/git", "");
    (0..400).for_each(|number| host.opens(&format!("/srv/{number}")));
    host.waits(60_000_000_000);
    let by_child = host.record(kind::OPEN, 11);
    host.happens(by_child, "/srv/private/key", "");
    let folder = host.ends();
    let segments = files(&folder.path().join("recording"));
    assert!(segments.len() > 2);
    let last = &segments[segments.len() - 1..];
    let (replay, alerts) = replay(last, Options::default()).unwrap();
    assert_eq!(alerts, recorded(&folder));
    assert!(alerts[0].contains("/usr/bin/node") && alerts[0].contains("/usr/bin/git"));
    assert_eq!((replay.counts.same_alerts, replay.counts.other_alerts), (1, 0));
}

#[test]
fn a_verdict_that_the_rules_do_not_give_is_told_with_its_place() {
    let mut host = Host::new(Mode::Enforce, 1 << 30);
    host.opens("/srv/private/key");
    let folder = host.ends();
    let file = files(&folder.path().join("recording")).remove(0);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"path\":\"/srv/private/key\"", "\"path\":\"/srv/in/key\""))
        .unwrap();
    let (counts, alerts) = replay_all(&folder);
    assert_eq!((counts.other_verdicts, counts.other_alerts, alerts.len()), (1, 1, 0));
    let first = counts.first_other.unwrap();
    assert!(first.ends_with("recorded deny, by the recorded rules allow"), "{first}");
    assert!(first.contains("line 2 (byte "), "{first}");
}

#[test]
fn time_and_server_choose_events() {
    let mut host = Host::new(Mode::Enforce, 1 << 30);
    host.opens("/srv/private/1");
    host.waits(60_000_000_000);
    host.opens("/srv/private/2");
    let end = host.now_ns + (1 << 60);
    let folder = host.ends();
    let alerts = |options| replay(&[folder.path().join("recording")], options).unwrap().1;
    let from = Options { from_ns: Some(end), ..Options::default() };
    assert!(matches!(&alerts(from)[..], [one] if one.contains("/srv/private/2")));
    let to = Options { to_ns: Some(end), ..Options::default() };
    assert!(matches!(&alerts(to)[..], [one] if one.contains("/srv/private/1")));
    let server = |name: &str| Options { server: Some(name.to_owned()), ..Options::default() };
    assert_eq!((alerts(server("s")).len(), alerts(server("t")).len()), (2, 0));
}

/// What other rules change, as server, change, category, count and text of the rule.
fn differences(host: Host, rules: &str) -> Vec<(Change, &'static str, u64, String)> {
    let folder = host.ends();
    let other = rules_folder(rules);
    let options = Options { rules: Some(other.path().to_owned()), ..Options::default() };
    let (replay, _) = replay(&[folder.path().join("recording")], options).unwrap();
    let sorted = replay.differences.sorted();
    let rule = |it: &Difference| it.rule.as_ref().map_or(String::new(), |rule| rule.text.clone());
    sorted.iter().map(|it| (it.change, it.category, it.count, rule(it))).collect()
}

fn busy() -> Host {
    let mut host = Host::new(Mode::Enforce, 1 << 30);
    let exec = host.record(kind::EXEC, 10);
    host.happens(exec, "/usr/bin/node", "");
    for path in ["/srv/in/a", "/srv/in/b", "/srv/private/key", "/elsewhere/x", "/elsewhere/y"] {
        host.opens(path);
    }
    let exec = host.record(kind::EXEC, 10);
    host.happens(exec, "/usr/bin/git", "");
    host
}

#[test]
fn the_same_rules_make_no_difference() {
    assert_eq!(differences(busy(), RULES), []);
}

#[test]
fn other_rules_show_what_breaks_what_is_denied_and_what_is_let_through() {
    let other = RULES
        .replace("read = [\"/srv/**\"]", "read = [\"/srv/in/a\", \"/srv/private/**\"]")
        .replace("deny = [\"/srv/private/**\"]\n", "")
        .replace("read = \"alert\"", "read = \"deny\"")
        .replace("/usr/bin/*", "/usr/bin/n*");
    assert_eq!(
        differences(busy(), &other),
        [
            (Change::Breaks, "file_read", 1, "deny".to_owned()),
            (Change::Breaks, "exec", 1, "deny".to_owned()),
            (Change::Denied, "file_read", 2, "deny".to_owned()),
            (Change::LetThrough, "file_read", 1, "/srv/private/**".to_owned()),
        ]
    );
}

#[test]
fn more_or_less_is_reported() {
    let silent = RULES.replace("read = \"alert\"", "read = \"allow\"");
    let expected = (Change::Silent, "file_read", 2, "alert".to_owned());
    assert_eq!(differences(busy(), &silent), [expected]);
    let reported = RULES.replace("read = [\"/srv/**\"]", "read = [\"/srv/in/a\"]");
    let expected = (Change::Reported, "file_read", 1, "alert".to_owned());
    assert_eq!(differences(busy(), &reported), [expected]);
}

#[test]
fn what_the_other_rules_lack_is_the_recordings() {
    let folder = busy().ends();
    let other = tempfile::tempdir().unwrap();
    let options = Options { rules: Some(other.path().to_owned()), ..Options::default() };
    let (replay, _) = replay(&[folder.path().join("recording")], options).unwrap();
    assert!(replay.differences.is_empty());
    assert!(replay.differences.compared >= 5);
}

#[test]
fn other_rules_that_are_wrong_are_an_error() {
    let folder = busy().ends();
    let other = rules_folder("[files]\nreed = []\n");
    let options = Options { rules: Some(other.path().to_owned()), ..Options::default() };
    let error = replay(&[folder.path().join("recording")], options).err().unwrap().to_string();
    assert!(error.contains("reed") && error.contains("line 1"), "{error}");
}

/// What replay says about a recording whose bytes were changed.
fn spoilt(change: impl Fn(String) -> Vec<u8>) -> String {
    let folder = busy().ends();
    let file = files(&folder.path().join("recording")).remove(0);
    let bytes = change(fs::read_to_string(&file).unwrap());
    fs::write(&file, bytes).unwrap();
    let error = replay(std::slice::from_ref(&file), Options::default())
        .err()
        .expect("an error")
        .to_string();
    error.replace(&*file.to_string_lossy(), "FILE")
}

#[test]
fn bad_input_is_an_error_with_its_place() {
    let cut = spoilt(|text| text[..text.len() - 5].into());
    assert!(cut.starts_with("FILE: line ") && cut.ends_with("the line has no end"), "{cut}");
    let version = spoilt(|text| {
        text.replacen("{\"v\":1,\"type\":\"open\"", "{\"v\":2,\"type\":\"open\"", 1).into()
    });
    assert!(version.contains("format 2, this version reads 1"), "{version}");
    let field = spoilt(|text| text.replacen("\"boot_ns\":", "\"boot_ns\":-", 2).into());
    assert!(field.starts_with("FILE: line 2 (byte "), "{field}");
    let mode = spoilt(|text| text.replacen("\"mode\":\"enforce\"", "\"mode\":\"watch\"", 1).into());
    assert!(mode.contains("line 1 (byte 0): policy 1 with a mode"), "{mode}");
    let rules = spoilt(|text| text.replacen("schema = 1", "schema = 9", 1).into());
    assert!(rules.contains("line 1 (byte 0): the rules of server s cannot be used"), "{rules}");
    let long = spoilt(|text| {
        let line = text.lines().nth(2).unwrap().to_owned();
        let long = line.replacen(
            "\"source\"",
            &format!("\"x\":\"{}\",\"source\"", "x".repeat(3 << 20)),
            1,
        );
        text.replace(&line, &long).into()
    });
    assert!(long.contains("FILE: line 3 (byte ") && long.contains("longer"), "{long}");
}

#[test]
fn a_recording_without_its_world_is_taken_as_it_is() {
    let folder = busy().ends();
    let file = files(&folder.path().join("recording")).remove(0);
    let text = fs::read_to_string(&file).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut object: serde_json::Value = serde_json::from_str(header).unwrap();
    object["policies"][0].as_object_mut().unwrap().remove("world");
    fs::write(&file, format!("{object}\n{rest}")).unwrap();
    let (counts, alerts) = replay_all(&folder);
    assert_eq!(alerts, recorded(&folder));
    assert_eq!(counts.unjudged, counts.events);
}

const LIMITED: &str = "[limits]\nmass_read = { files = 20 }\n";

#[test]
fn findings_come_out_as_recorded_with_their_evidence() {
    let rules = format!("{LIMITED}{RULES}detectors = {{ mass_read = \"kill-tree\" }}\n");
    for mode in [Mode::Observe, Mode::Enforce] {
        let mut host = Host::under(&rules, mode, 1 << 30);
        host.walks("/srv/in", 50);
        let folder = host.ends();
        let (counts, alerts) = replay_all(&folder);
        assert_eq!(alerts, recorded(&folder));
        assert_eq!((counts.other_alerts, counts.other_verdicts), (0, 0));
        // In enforce the kernel programs count, and none is at work here.
        let expected = usize::from(mode == Mode::Observe);
        assert_eq!((counts.same_alerts, alerts.len()), (expected as u64, expected), "{mode}");
        for alert in alerts {
            for part in [
                r#""category":"mass_read","judged":["read"],"reason":"detector","rule":{"file":"#,
                r#""evidence":[0,19],"finding":{"limit":20,"window_ms":10000,"#,
                r#""verdict":"alert","would_be":"kill-tree""#,
                "has read 20 different files within 0.019 s",
                r#"/servers/s.toml:4)"#,
            ] {
                assert!(alert.contains(part), "{part}: {alert}");
            }
        }
    }
}

#[test]
fn what_the_kernel_counted_stays_as_recorded() {
    let rules = format!("{LIMITED}{RULES}detectors = {{ mass_read = \"deny\" }}\n");
    let mut host = Host::under(&rules, Mode::Enforce, 1 << 30);
    host.walks("/srv/in", 19);
    let mut refused = host.record(kind::OPEN, 10);
    let set = detector::MASS_READ as u8;
    refused.decision =
        Decision { verdict: verdict::DENY, reason: reason::DETECTOR, set, access: 1 };
    refused.enforced = enforced::DENIED;
    let strings = [b"/srv/in/20".as_slice(), b"", b"", b""];
    for _ in 0..3 {
        let bytes = encode(refused, strings);
        host.enricher.record(&decode(&bytes).unwrap(), &mut host.out);
    }
    host.write();
    let folder = host.ends();
    let (counts, alerts) = replay_all(&folder);
    assert_eq!((counts.violations, counts.other_verdicts, counts.other_alerts), (3, 0, 0));
    assert_eq!((counts.same_alerts, alerts.len()), (1, 1));
    assert!(alerts[0].contains(r#""enforced":"kernel","answered":"denied""#), "{}", alerts[0]);
    assert!(alerts[0].contains(r#""evidence":[0,19]"#), "{}", alerts[0]);
}

#[test]
fn other_limits_show_what_they_would_find_and_what_they_would_not() {
    let walked = |rules: &str| {
        let mut host = Host::under(rules, Mode::Observe, 1 << 30);
        host.walks("/srv/in", 50);
        host
    };
    let limited = format!("{LIMITED}{RULES}");
    let found = |change| [(change, "mass_read", 1, "{ files = 20, window = \"10s\" }".to_owned())];
    assert_eq!(differences(walked(RULES), &limited), found(Change::Reported));
    assert_eq!(differences(walked(&limited), RULES), found(Change::Silent));
    let denying = format!("{limited}detectors = {{ mass_read = \"deny\" }}\n");
    assert_eq!(differences(walked(&limited), &denying), found(Change::Denied));
    assert_eq!(differences(walked(&limited), &limited), []);
}

#[test]
fn arguments_are_judged_again_in_whatever_form_they_are_kept() {
    let rules = "[exec]\nallow = [\"/bin/sh\"]\n[exec.arguments]\n\"/nobin/git\" = [[\"status\"]]\n\
                 [response]\nunlisted = { exec = \"deny\" }\n";
    let folder = rules_folder(rules);
    let (compiled, _) = compile(folder.path(), Mode::Enforce);
    let asked =
        [("status", flags::NAMED_ARGUMENTS), ("push", 0), ("status", flags::ARGV_TRUNCATED)];
    for privacy in [Privacy::Full, Privacy::Hashed, Privacy::Off] {
        for (argument, seen) in asked {
            let mut enricher = fresh();
            enricher.veil(Veil::new(privacy, None).unwrap());
            let mut out = Vec::new();
            for (path, vector) in
                [("/bin/sh", "sh\0"), ("/nobin/git", &format!("git\0{argument}\0"))]
            {
                let record = Record { flags: seen, tgid: 10, start_ns: 1, ..blank(kind::EXEC) };
                let strings = [path.as_bytes(), b"", b"/", vector.as_bytes()];
                enricher.record(&decode(&encode(record, strings)).unwrap(), &mut out);
            }
            let decision = judge::judge(&out[1], &compiled);
            let named = seen == flags::NAMED_ARGUMENTS;
            let wanted = if named { verdict::ALLOW } else { verdict::DENY };
            assert_eq!(decision.verdict, wanted, "{privacy} {argument} {seen:#x}");
        }
    }
}
