//! The writer and the reader held together, and the shape that readers outside rely on.

use monitor_common::{
    policy::{class, detector, reason, verdict},
    record::{flags, kind},
};
use proptest::{collection::vec, prelude::*};

use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(|bytes| Bytes::from(bytes.as_slice()))
}

fn sets() -> impl Strategy<Value = u32> {
    (0..1_u32 << monitor_common::policy::set::COUNT).prop_map(|bits| bits << class::SET_SHIFT)
}

fn target() -> impl Strategy<Value = Target> {
    (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(start_ns, tgid, instance)| Target {
        start_ns,
        tgid,
        instance,
    })
}

fn inode() -> impl Strategy<Value = InodeKey> {
    (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(ino, dev, generation)| InodeKey {
        ino,
        dev,
        generation,
    })
}

fn file() -> impl Strategy<Value = File> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let paths = (bytes(), bytes());
    (paths, inode(), numbers, sets(), sets()).prop_map(|(paths, inode, numbers, labels, sets)| {
        let ((path, host_path), (mode, nlink, fs_magic, mnt_ns)) = (paths, numbers);
        File { path, host_path, inode, mode, nlink, fs_magic, mnt_ns, labels, sets }
    })
}

fn contact() -> impl Strategy<Value = Contact> {
    let inet = (any::<u32>(), any::<u16>())
        .prop_map(|(address, port)| (monitor_common::network::mapped_v4(address), port, 2));
    let inet6 = (any::<[u8; 16]>(), any::<u16>()).prop_map(|(address, port)| (address, port, 10));
    let other = (11..100_u16).prop_map(|family| ([0; 16], 0, family));
    let name = proptest::option::of("[a-z.]{1,20}");
    (prop_oneof![inet, inet6, other], any::<u16>(), any::<u16>(), sets(), name).prop_map(
        |((address, port, family), socket_type, protocol, sets, name)| Contact {
            peer: Peer { address, port, family, socket_type, protocol },
            sets,
            name,
            file: None,
        },
    )
}

/// An AF_UNIX socket that listens.
fn listener() -> impl Strategy<Value = Contact> {
    (file(), any::<u16>()).prop_map(|(file, socket_type)| Contact {
        peer: Peer { family: 1, socket_type, ..Peer::default() },
        sets: file.sets,
        name: None,
        file: Some(Box::new(file)),
    })
}

fn kernel_body() -> impl Strategy<Value = Body> {
    let exec = (file(), bytes(), vec(bytes(), 0..4), bytes()).prop_map(
        |(file, interpreter, argv, cwd)| {
            Body::Exec(Box::new(Exec { file, interpreter, argv, cwd }))
        },
    );
    prop_oneof![
        exec,
        target().prop_map(|child| Body::Fork { child }),
        any::<u32>().prop_map(|status| Body::Exit { status }),
        (0..1_u32 << 7, file()).prop_map(|(access, file)| Body::Open { access, file }),
        (1..14_u8, file(), bytes()).prop_map(|(op, file, second)| Body::Change {
            op,
            file,
            second
        }),
        (file(), bytes()).prop_map(|(file, origin)| Body::Mount { file, origin }),
        contact().prop_map(Body::Connect),
        contact().prop_map(Body::Send),
        contact().prop_map(Body::Bind),
        contact().prop_map(Body::Listen),
        listener().prop_map(Body::Listen),
        contact().prop_map(Body::Socket),
        file().prop_map(|file| Body::Unix { file }),
        (1..5_u8, target(), any::<u32>(), 0..1_u32 << 7, file()).prop_map(
            |(op, target, detail, access, file)| Body::Process { op, target, detail, access, file }
        ),
        Just(Body::IoUring),
        Just(Body::Namespace),
        any::<u32>().prop_map(|command| Body::Bpf { command }),
    ]
}

fn finding() -> impl Strategy<Value = Finding> {
    (any::<[u64; 4]>(), vec(bytes(), 0..3)).prop_map(|(numbers, samples)| {
        let [limit, window_ms, first_ns, last_ns] = numbers;
        Finding { limit, window_ms, first_ns, last_ns, samples }
    })
}

fn own_body() -> impl Strategy<Value = Body> {
    let ancestor = (any::<u32>(), any::<u64>(), bytes(), vec(bytes(), 0..3))
        .prop_map(|(tgid, start_ns, exe, argv)| Ancestor { tgid, start_ns, exe, argv });
    let alert = (
        "[a-z]{1,8}",
        bytes(),
        any::<String>(),
        any::<u64>(),
        vec(ancestor, 0..3),
        vec(any::<u64>(), 0..3),
        proptest::option::of(finding()),
    );
    let source = any::<[String; 4]>().prop_map(|[kind, name, path, text]| SourceText {
        kind,
        name,
        path,
        text,
    });
    let policy =
        (any::<u32>(), any::<String>(), vec(source, 0..3)).prop_map(|(policy, server, sources)| {
            PolicyText { policy, server, sources, ..Default::default() }
        });
    let loss = (any::<[String; 2]>(), any::<u64>(), any::<Option<(u64, u64)>>())
        .prop_map(|([ring, reason], count, range)| Body::Loss(Loss { ring, reason, count, range }));
    prop_oneof![
        any::<[String; 2]>().prop_map(|[action, message]| Body::Agent { action, message }),
        ("[a-z]{1,8}", any::<[String; 3]>(), any::<Option<u32>>(), any::<bool>()).prop_map(
            |(action, [server, rules, user], instance, by)| {
                let person = Person { uid: 1000, user };
                let by = by.then(|| person.clone());
                let until = "2026-11-20T10:00:00Z".to_owned();
                let grant =
                    Grant { id: 7, server, instance, rules, by: person, until_ns: 9, until };
                Body::Grant { action, by, grant: Box::new(grant) }
            }
        ),
        ("[a-z]{1,8}", policy)
            .prop_map(|(action, policy)| Body::Policy { action, policy: Box::new(policy) }),
        loss,
        alert.prop_map(|(event, subject, why, count, ancestry, evidence, finding)| {
            let finding = finding.map(Box::new);
            let alert = Alert { event, subject, why, count, ancestry, evidence, finding };
            Body::Alert(Box::new(alert))
        }),
    ]
}

fn observed() -> impl Strategy<Value = Observed> {
    let numbers = (any::<[u32; 5]>(), any::<[u64; 2]>(), 0..1_u32 << 12);
    (numbers, "[a-z\\\\ä]{0,7}", bytes(), bytes()).prop_map(
        |((small, big, flags), name, exe, cwd)| {
            let mut comm = [0; 16];
            comm[..name.len()].copy_from_slice(name.as_bytes());
            let [tgid, tid, ppid, uid, policy] = small;
            let [start_ns, cgroup] = big;
            let image = Arc::new(Image { exe, cwd });
            let process = Process { tgid, tid, start_ns, ppid, uid, cgroup, comm, image };
            Observed { process, policy, flags }
        },
    )
}

fn violation() -> impl Strategy<Value = Violation> {
    let decision =
        (1..5_u8, 0..9_u8, 0..7_u8, 0..6_u32).prop_map(|(verdict, reason, set, access)| Decision {
            verdict,
            reason,
            set: match reason {
                reason::SET => set,
                reason::DETECTOR => detector::ENV_SECRET as u8,
                _ => 0,
            },
            access: 1 << access,
        });
    let rule = any::<Option<([String; 3], u32)>>()
        .prop_map(|rule| rule.map(|([file, list, text], line)| Rule { file, line, list, text }));
    (decision, any::<bool>(), rule, 0..4_u8).prop_map(
        |(decision, observed_only, rule, answered)| Violation {
            decision,
            observed_only,
            category: Category::EnvSecret,
            rule,
            enforced: Enforced::Kernel,
            answered,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let numbers = any::<[u64; 3]>();
    let kernel = (numbers, observed(), proptest::option::of(violation()), kernel_body()).prop_map(
        |(numbers, observed, violation, body)| (numbers, 7, Some(observed), violation, body),
    );
    let own = (numbers, own_body()).prop_map(|(numbers, body)| (numbers, 0, None, None, body));
    prop_oneof![kernel, own].prop_map(|(numbers, instance, observed, violation, body)| {
        let [seq, time_ns, boot_ns] = numbers;
        let server = if instance == 0 { "" } else { "gi\"thub" }.into();
        let violation = violation.map(Box::new);
        Event { seq, time_ns, boot_ns, server, instance, observed, violation, body }
    })
}

/// An open of `path` in observe mode against the secrets set.
pub(crate) fn sample(path: &[u8]) -> Event {
    Event {
        seq: 41,
        time_ns: 1_767_323_045_000_000_006,
        boot_ns: 99,
        server: "github".into(),
        instance: 1,
        observed: Some(Observed {
            process: Process {
                tgid: 10,
                tid: 11,
                start_ns: 5,
                ppid: 9,
                uid: 1000,
                cgroup: 77,
                comm: *b"node\0\0\0\0\0\0\0\0\0\0\0\0",
                image: Arc::new(Image { exe: "/usr/bin/node".into(), cwd: "/srv".into() }),
            },
            policy: 3,
            flags: flags::COMPAT | flags::TRUNCATED,
        }),
        violation: Some(Box::new(Violation {
            decision: Decision { verdict: verdict::DENY, reason: reason::SET, set: 0, access: 1 },
            observed_only: true,
            category: Category::Secret,
            rule: Some(Rule {
                file: "sets/secrets.toml".into(),
                line: 4,
                list: "secrets.paths".into(),
                text: "~/.ssh/**".into(),
            }),
            enforced: Enforced::None,
            answered: 0,
        })),
        body: Body::Open {
            access: 1,
            file: File {
                path: path.into(),
                host_path: Bytes::default(),
                inode: InodeKey { ino: 12, dev: 259 << 20 | 1, generation: 0 },
                mode: 0o100_600,
                nlink: 1,
                fs_magic: 0,
                mnt_ns: 4_026_531_841,
                labels: class::of_set(0),
                sets: class::of_set(0),
            },
        },
    }
}

#[test]
fn an_open_in_observe_mode_reads_as_documented() {
    let expected = concat!(
        r#"{"v":1,"type":"open","seq":41,"time":"2026-01-02T03:04:05.000000006Z","boot_ns":99,"#,
        r#""server":"github","instance":1,"policy":3,"process":{"tgid":10,"tid":11,"start_ns":5,"#,
        r#""ppid":9,"exe":"/usr/bin/node","comm":"node","uid":1000,"cwd":"/srv","cgroup":77},"#,
        r#""source":"kernel","truncated":true,"flags":["compat"],"#,
        r#""path":"/home/\\xff\\\\\u001b\"","dev":"259:1","ino":12,"mode":33152,"nlink":1,"#,
        r#""mnt_ns":4026531841,"labels":["secrets"],"sets":["secrets"],"access":["read"],"#,
        r#""verdict":"alert","would_be":"deny","category":"secret","judged":["read"],"#,
        r#""reason":"set","set":"secrets","#,
        r#""rule":{"file":"sets/secrets.toml","line":4,"list":"secrets.paths","text":"~/.ssh/**"},"enforced":"none"}"#,
    );
    assert_eq!(sample(b"/home/\xff\\\x1b\"").to_json(), expected);
}

#[test]
fn every_kind_of_record_has_a_word() {
    assert_eq!(kind::END, 17, "a new kind needs a body, a word and a line in docs/events.md");
}

#[test]
fn fields_of_a_newer_writer_are_skipped_and_another_format_is_refused() {
    let line = sample(b"/x").to_json();
    let newer = line.replacen("\"seq\"", "\"new\":[1],\"seq\"", 1);
    assert_eq!(Event::parse(newer.as_bytes()).unwrap(), sample(b"/x"));
    let other = line.replacen("\"v\":1", "\"v\":2", 1);
    assert!(matches!(Event::parse(other.as_bytes()), Err(ParseError::Version(2))));
}

#[test]
fn what_is_wrong_with_a_line_is_named() {
    let line = sample(b"/x").to_json();
    let error = |from: &str, to: &str| {
        Event::parse(line.replacen(from, to, 1).as_bytes()).unwrap_err().to_string()
    };
    assert_eq!(error("\"secret\"", "\"odd\""), "event with category \"odd\"");
    assert_eq!(error("\"259:1\"", "\"259\""), "event with dev \"259\"");
    assert_eq!(error("\"policy\":3,", ""), "open event without policy");
    assert_eq!(error("\"open\"", "\"opened\""), "event line of unknown type \"opened\"");
    assert!(error("/x", "/\\\\q").contains("neither"));
}

#[test]
fn a_fork_always_has_a_child() {
    let body = Body::Fork { child: Target::default() };
    let event = Event { body, violation: None, ..sample(b"") };
    assert_eq!(Event::parse(event.to_json().as_bytes()).unwrap(), event);
}

proptest! {
    #[test]
    fn every_event_is_one_line_and_comes_back(event in event()) {
        let line = event.to_json();
        prop_assert!(!line.bytes().any(|byte| byte < 0x20 || byte == 0x7f), "{line}");
        let back = Event::parse(line.as_bytes()).unwrap();
        prop_assert_eq!(back, event);
    }

    #[test]
    fn no_line_panics(line in vec(any::<u8>(), 0..200)) {
        let _ = Event::parse(&line);
    }
}
