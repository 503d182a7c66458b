//! Records in, events and alerts out.

use monitor_common::{
    network,
    policy::{Decision, access, class, reason, set, verdict},
    record::{Peer, Record, change, flags, kind},
};

use super::*;
use crate::{
    decode::{blank, decode, encode},
    event::{Alert, Rule},
    rules::Subject,
};

/// Names the subject that it was asked about.
struct Echo;

impl Explain for Echo {
    fn blame(&self, subject: Subject<'_>, decision: Decision) -> Option<Rule> {
        let text = match subject {
            Subject::Path(path) | Subject::Program { path, .. } => {
                String::from_utf8_lossy(path).into_owned()
            }
            Subject::Address { address, port, protocol } => {
                format!("{}:{port}/{protocol}", std::net::Ipv6Addr::from(address))
            }
            Subject::Host { name, .. } => name.to_owned(),
        };
        let named = decision.reason != reason::BOUND && !text.ends_with("unnamed");
        let (file, list) = ("rules.toml".to_owned(), "files.deny".to_owned());
        named.then_some(Rule { file, line: 7, list, text })
    }

    fn limits(&self) -> Option<Arc<crate::detect::Limits>> {
        None
    }

    fn is_runtime(&self, _path: &[u8]) -> bool {
        false
    }

    fn classify_host(&self, _: &str, _: [u8; 16], _: u16, _: u8) -> u32 {
        0
    }
}

fn enricher() -> Enricher {
    let mut enricher = Enricher::new(100, Clock::between(0, 1_000_000_000));
    enricher.name(1, "github");
    enricher.explain(3, Arc::new(Echo));
    enricher
}

fn record(kind: u8, time_ns: u64) -> Record {
    let mut record = blank(kind);
    (record.tgid, record.tid, record.start_ns) = (10, 10, 5);
    (record.instance, record.policy, record.time_ns) = (1, 3, time_ns);
    record.mode = mode::ENFORCE;
    record
}

fn denied(kind: u8, time_ns: u64) -> Record {
    let mut record = record(kind, time_ns);
    record.decision =
        Decision { verdict: verdict::DENY, reason: reason::DENY, set: 0, access: access::READ };
    record.enforced = enforced::DENIED;
    record
}

fn feed(enricher: &mut Enricher, record: Record, path: &[u8], second: &[u8]) -> Vec<Event> {
    let mut out = Vec::new();
    let bytes = encode(record, [path, second, b"", b""]);
    enricher.record(&decode(&bytes).unwrap(), &mut out);
    for event in &out {
        assert_eq!(&Event::parse(event.to_json().as_bytes()).unwrap(), event);
    }
    out
}

fn alert(event: &Event) -> &Alert {
    match &event.body {
        Body::Alert(alert) => alert,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_allowed_open_is_an_event_and_nothing_more() {
    let out = feed(&mut enricher(), record(kind::OPEN, 9), b"/srv/a", b"");
    assert_eq!(out.len(), 1);
    let event = &out[0];
    assert_eq!((event.seq, event.boot_ns, event.time_ns), (100, 9, 1_000_000_009));
    assert_eq!((&*event.server, event.instance, event.kind()), ("github", 1, "open"));
    assert_eq!(event.violation, None);
}

#[test]
fn a_denied_open_is_an_event_and_an_alert_that_points_to_it() {
    let out = feed(&mut enricher(), denied(kind::OPEN, 9), b"/etc/shadow", b"");
    assert_eq!(out.len(), 2);
    let violation = out[0].violation.as_ref().unwrap();
    assert_eq!((violation.category.name(), violation.enforced.name()), ("file_read", "kernel"));
    assert_eq!(violation.rule.as_ref().unwrap().text, "/etc/shadow");
    assert_eq!((out[1].seq, out[1].boot_ns), (101, 9));
    assert_eq!(out[1].violation, out[0].violation);
    let alert = alert(&out[1]);
    assert_eq!((alert.count, alert.evidence.as_slice()), (1, [100].as_slice()));
    assert_eq!((alert.event.as_str(), alert.subject.to_text().as_str()), ("open", "/etc/shadow"));
    assert_eq!(
        alert.why,
        " (10) opens /etc/shadow: a deny rule names it (rules.toml:7 /etc/shadow); denied"
    );
}

#[test]
fn observe_mode_says_what_enforce_mode_would_do() {
    let mut record = denied(kind::OPEN, 9);
    (record.mode, record.enforced) = (mode::OBSERVE, enforced::NONE);
    let out = feed(&mut enricher(), record, b"/etc/shadow", b"");
    let line = out[0].to_json();
    assert!(line.contains(r#""verdict":"alert","would_be":"deny""#), "{line}");
    assert!(line.ends_with(r#""enforced":"none"}"#), "{line}");
    assert!(alert(&out[1]).why.ends_with("reported, enforce mode would deny it"));
}

#[test]
fn a_kill_that_the_kernel_left_is_the_agents() {
    let mut record = denied(kind::CONNECT, 9);
    record.decision.verdict = verdict::KILL_TREE;
    record.enforced = enforced::NONE;
    let out = feed(&mut enricher(), record, b"", b"");
    assert_eq!(out[0].violation.as_ref().unwrap().enforced, Enforced::Agent);
    record.decision.verdict = verdict::DENY;
    record.time_ns += 1;
    let out = feed(&mut enricher(), record, b"", b"");
    assert_eq!(out[0].violation.as_ref().unwrap().enforced, Enforced::None);
}

#[test]
fn files_of_a_container_have_their_name_on_the_host() {
    let mut enricher = enricher();
    let (container, host) =
        (b"1 2 8:1 /home/me /data rw - ext4 x rw\n", b"1 2 8:1 / / rw - ext4 x rw\n");
    enricher.outside(1, 77, Outside::of(container, host));
    let record = Record { mnt_ns: 77, ..denied(kind::OPEN, 1) };
    let out = feed(&mut enricher, record, b"/data/key", b"");
    assert!(out[0].to_json().contains(r#""path":"/data/key","host_path":"/home/me/key""#));
    let Body::Alert(alert) = &out[1].body else { panic!("{:?}", out[1]) };
    assert!(alert.why.contains("/data/key (on the host /home/me/key): "), "{}", alert.why);
    assert_eq!(alert.subject.as_bytes(), b"/data/key");
    // Other namespaces, and paths that are none of it.
    for record in [
        Record { mnt_ns: 78, ..record },
        Record { instance: 2, ..record },
        Record { flags: flags::FOREIGN, ..record },
        Record { flags: flags::ARGUMENT, ..record },
    ] {
        let out = feed(&mut enricher, record, b"/data/key", b"");
        assert!(!out[0].to_json().contains("host_path"), "{:?}", out[0]);
    }
    enricher.forget(1);
    let out = feed(&mut enricher, record, b"/data/key", b"");
    assert!(!out[0].to_json().contains("host_path"));
}

#[test]
fn a_set_is_named_with_its_category() {
    let mut record = denied(kind::OPEN, 9);
    record.decision.reason = reason::SET;
    record.decision.set = set::SECRETS as u8;
    record.classes = class::of_set(set::SECRETS);
    record.labels = class::of_set(set::SECRETS);
    let out = feed(&mut enricher(), record, b"/home/u/.ssh/id_ed25519", b"");
    let line = out[0].to_json();
    assert!(line.contains(r#""category":"secret""#) && line.contains(r#""set":"secrets""#));
    assert!(line.contains(r#""labels":["secrets"],"sets":["secrets"]"#), "{line}");
}

#[test]
fn the_rule_of_an_address_and_of_an_abstract_socket_is_found() {
    let mut record = denied(kind::CONNECT, 9);
    let address = network::mapped_v4(0x0a00_0001);
    record.peer = Peer { address, port: 443, family: 2, socket_type: 1, protocol: 6 };
    record.decision.access = access::CONNECT;
    let out = feed(&mut enricher(), record, b"", b"");
    let rule = out[0].violation.as_ref().unwrap().rule.clone().unwrap();
    assert_eq!(rule.text, "::ffff:10.0.0.1:443/1");
    assert_eq!(alert(&out[1]).subject.to_text(), "10.0.0.1:443/tcp");
    let mut record = denied(kind::UNIX, 9);
    record.flags = flags::ABSTRACT;
    let out = feed(&mut enricher(), record, b"@/tmp/.X11-unix/X0", b"");
    let rule = out[0].violation.as_ref().unwrap().rule.clone().unwrap();
    assert_eq!(rule.text, "@/tmp/.X11-unix/X0");
}

#[test]
fn the_rule_of_a_rename_may_be_about_its_new_name() {
    let mut record = denied(kind::CHANGE, 9);
    record.op = change::RENAME;
    let out = feed(&mut enricher(), record, b"/tmp/unnamed", b"/etc/cron.d/x");
    assert_eq!(out[0].violation.as_ref().unwrap().rule.clone().unwrap().text, "/etc/cron.d/x");
    assert!(alert(&out[1]).why.contains("renames /tmp/unnamed to /etc/cron.d/x"));
}

#[test]
fn a_loop_of_denied_opens_makes_few_alerts_that_count_them_all() {
    let mut enricher = enricher();
    let (mut events, mut alerts) = (0, Vec::new());
    let count = 20_000;
    for number in 0..count {
        let record = denied(kind::OPEN, number * 5_000_000);
        for event in feed(&mut enricher, record, b"/etc/shadow", b"") {
            match event.body {
                Body::Alert(alert) => alerts.push(alert.count),
                _ => events += 1,
            }
        }
    }
    let mut rest = Vec::new();
    enricher.finish(count * 5_000_000, &mut rest);
    alerts.extend(rest.iter().map(|event| alert(event).count));
    assert_eq!(events, count);
    assert_eq!(alerts.iter().sum::<u64>(), count);
    assert!(alerts.len() <= 12, "100 s make an alert every 10 s: {}", alerts.len());
}

#[test]
fn a_run_through_many_files_is_counted_together() {
    let mut enricher = enricher();
    let mut alerts = Vec::new();
    for number in 0..10_000_u64 {
        let path = format!("/home/u/{number}");
        let out = feed(&mut enricher, denied(kind::OPEN, number), path.as_bytes(), b"");
        alerts.extend(out.into_iter().filter(Event::is_alert));
    }
    assert!(alerts.len() < 50, "{}", alerts.len());
    enricher.finish(20_000, &mut alerts);
    assert_eq!(alerts.iter().map(|event| alert(event).count).sum::<u64>(), 10_000);
    let last = alert(alerts.last().unwrap());
    assert!(
        last.why.ends_with(&format!("and {} more of this kind", last.count - 1)),
        "{}",
        last.why
    );
}

#[test]
fn a_ps_over_all_environments_is_one_deed() {
    let mut enricher = enricher();
    let mut alerts = Vec::new();
    for pid in 0..300_u64 {
        let mut record = denied(kind::OPEN, pid);
        record.decision.reason = reason::SET;
        record.decision.set = set::PROCESSES as u8;
        let path = format!("/proc/{pid}/environ");
        let out = feed(&mut enricher, record, path.as_bytes(), b"");
        alerts.extend(out.into_iter().filter(Event::is_alert));
    }
    enricher.finish(20_000, &mut alerts);
    let counts: Vec<u64> = alerts.iter().map(|event| alert(event).count).collect();
    assert_eq!(counts, [1, 299]);
    assert!(alert(&alerts[1]).why.ends_with("(299 times)"), "{}", alert(&alerts[1]).why);
}

#[test]
fn many_programs_at_many_files_stay_within_bounds() {
    let mut enricher = enricher();
    let mut alerts = Vec::new();
    for number in 0..3_000_u64 {
        let program = format!("/tmp/copy-{number}");
        let exec = record(kind::EXEC, number);
        feed(&mut enricher, exec, program.as_bytes(), b"");
        let path = format!("/home/u/{number}");
        let out = feed(&mut enricher, denied(kind::OPEN, number), path.as_bytes(), b"");
        alerts.extend(out.into_iter().filter(Event::is_alert));
    }
    assert!(alerts.len() < 600, "{}", alerts.len());
    enricher.finish(20_000, &mut alerts);
    assert_eq!(alerts.iter().map(|event| alert(event).count).sum::<u64>(), 3_000);
}

#[test]
fn a_quiet_time_ends_a_run_and_ticks_tell_of_it() {
    let mut enricher = enricher();
    for time_ns in [1, 2, 3] {
        feed(&mut enricher, denied(kind::OPEN, time_ns), b"/etc/shadow", b"");
    }
    let mut out = Vec::new();
    enricher.tick(1_000, &mut out);
    assert_eq!(out, []);
    enricher.tick(20_000_000_000, &mut out);
    assert_eq!((out.len(), alert(&out[0]).count), (1, 2));
    assert_eq!(alert(&out[0]).evidence, [102, 103]);
    assert_eq!(out[0].boot_ns, 20_000_000_000);
    enricher.tick(60_000_000_000, &mut out);
    assert_eq!(out.len(), 1);
    let again = feed(&mut enricher, denied(kind::OPEN, 70_000_000_000), b"/etc/shadow", b"");
    assert_eq!(again.len(), 2, "after a quiet time the next one alerts at once");
}

#[test]
fn an_exec_gives_later_events_their_program() {
    let mut enricher = enricher();
    let bytes = encode(record(kind::EXEC, 1), [b"/usr/bin/node", b"", b"/srv", b"node\0s.js\0"]);
    let mut out = Vec::new();
    enricher.record(&decode(&bytes).unwrap(), &mut out);
    let events = feed(&mut enricher, denied(kind::OPEN, 2), b"/x", b"");
    let image = &events[0].observed.as_ref().unwrap().process.image;
    assert_eq!(
        (image.exe.to_text().as_str(), image.cwd.to_text().as_str()),
        ("/usr/bin/node", "/srv")
    );
    let ancestry = &alert(&events[1]).ancestry;
    assert_eq!((ancestry.len(), ancestry[0].argv[1].to_text().as_str()), (1, "s.js"));
}

#[test]
fn what_the_agent_says_is_part_of_the_stream() {
    let mut enricher = enricher();
    let event = enricher.agent(1, "response", "killed the tree of instance 1");
    assert_eq!((event.seq, &*event.server), (100, "github"));
    let mut counters = Counters::default();
    counters[monitor_common::record::counter::EVENTS_LOST as usize] = 4;
    let mut out = Vec::new();
    enricher.losses(&counters, Delivered::default(), &mut out);
    assert_eq!((out[0].seq, out[0].kind()), (101, "loss"));
    let policy = enricher.policy("install", PolicyText { instance: 1, ..Default::default() });
    assert_eq!((policy.seq, policy.kind()), (102, "policy"));
}
