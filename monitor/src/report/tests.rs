//! Reports of made-up incidents: what is concluded, what is not, and that names stay text.

use std::{fmt::Write as _, fs, io::Write as _, sync::Arc};

use monitor_common::{
    network::mapped_v4,
    policy::{class, reason, set, verdict},
    record::{Peer, Target, change, did, enforced},
};
use tempfile::NamedTempFile;

use super::{
    Report, html, markdown,
    model::{Effect, Fate, Level, Reach, Relation},
    read,
};
use crate::{
    event::{Alert, Body, Bytes, Category, Contact, Event, Exec, File, Image, Loss, tests::sample},
    segment::{Chain, ChainHash, Header, Place, Recording},
};

pub(crate) const SECRET: u32 = class::of_set(set::SECRETS);
const SENSITIVE: u32 = class::of_set(set::SENSITIVE);
const PERSISTENCE: u32 = class::of_set(set::PERSISTENCE);

/// Events of one stream, a millisecond after each other.
pub(crate) struct Story {
    pub boot_id: String,
    events: Vec<Event>,
    tgid: u32,
    instance: u32,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self { boot_id: "boot".to_owned(), events: Vec::new(), tgid: 10, instance: 1 }
    }

    fn by(&mut self, tgid: u32) -> &mut Self {
        self.tgid = tgid;
        self
    }

    fn of(&mut self, instance: u32) -> &mut Self {
        self.instance = instance;
        self
    }

    fn event(&mut self, body: Body) -> &mut Event {
        let seq = self.events.len() as u64;
        let mut event = sample(b"/x");
        let observed = event.observed.as_mut().unwrap();
        (observed.process.tgid, observed.process.start_ns) = (self.tgid, u64::from(self.tgid));
        observed.process.ppid = 1;
        observed.process.image =
            Arc::new(Image { exe: "/usr/bin/node".into(), cwd: "/srv".into() });
        observed.flags = 0;
        event.violation = None;
        event.seq = seq;
        event.instance = self.instance;
        event.boot_ns = 1_000_000 * seq;
        event.time_ns += 1_000_000 * seq;
        event.body = body;
        self.events.push(event);
        self.events.last_mut().unwrap()
    }

    fn fork(&mut self, child: u32) -> &mut Self {
        let instance = self.instance;
        let child = Target { tgid: child, start_ns: u64::from(child), instance };
        self.event(Body::Fork { child });
        self
    }

    pub(crate) fn open(&mut self, path: &[u8], access: u32, sets: u32) -> &mut Event {
        self.event(Body::Open { access, file: file(path, sets) })
    }

    fn change(&mut self, op: u8, path: &str, second: &str) -> &mut Event {
        self.event(Body::Change { op, file: file(path.as_bytes(), 0), second: second.into() })
    }

    fn connect(&mut self, address: [u8; 4]) -> &mut Event {
        let peer = Peer {
            address: mapped_v4(u32::from_be_bytes(address)),
            port: 443,
            family: libc::AF_INET as u16,
            socket_type: 1,
            protocol: libc::IPPROTO_TCP as u16,
        };
        self.event(Body::Connect(Contact { peer, sets: 0, name: None, file: None }))
    }

    /// The recording as a file.
    pub(crate) fn file(&self) -> NamedTempFile {
        let mut out = Vec::new();
        let mut lines = Chain::default();
        let header = Header {
            host: "host".into(),
            boot_id: self.boot_id.clone(),
            backend: "lsm".into(),
            ..Header::default()
        };
        let place = Place { segment: 1, ..Place::default() };
        let mut chain = lines.line(ChainHash::default(), &mut out, |out| header.write(out, &place));
        for event in &self.events {
            chain = lines.line(chain, &mut out, |out| event.write(out));
        }
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&out).unwrap();
        file
    }

    fn report(&self) -> Report {
        read(&[Recording::file(self.file().path())]).unwrap()
    }
}

fn file(path: &[u8], sets: u32) -> File {
    let Body::Open { file, .. } = sample(path).body else { unreachable!() };
    File { sets, labels: 0, ..file }
}

fn refuse(event: &mut Event) {
    let mut violation = sample(b"/x").violation.unwrap();
    violation.observed_only = false;
    violation.answered = enforced::DENIED;
    event.violation = Some(violation);
}

fn page(report: &Report) -> String {
    let mut out = Vec::new();
    html(report, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_secret_and_a_contact_elsewhere_behind_it_could_have_left() {
    let mut story = Story::new();
    story.open(b"/home/u/.ssh/id_rsa", did::READ, SECRET);
    story.connect([203, 0, 113, 7]);
    let report = story.report();
    assert_eq!(report.level, Level::Critical);
    assert_eq!(report.impact.reach, Reach::Network);
    let secret = &report.impact.secrets.items[0];
    assert_eq!(secret.then, Some("203.0.113.7:443/tcp".into()));
    assert_eq!(report.instances.items[0].trail.sent.items[0].relation, Some(Relation::SameProcess));
    assert!(report.findings[0].text.contains("it could have left"), "{:?}", report.findings);
}

#[test]
fn what_was_contacted_before_the_secret_carried_nothing_but_may_have_been_open() {
    let mut story = Story::new();
    story.connect([203, 0, 113, 7]);
    story.open(b"/home/u/.ssh/id_rsa", did::READ, SECRET);
    let report = story.report();
    assert_eq!(report.impact.reach, Reach::Process);
    assert_eq!(report.instances.items[0].trail.open_before.len(), 1);
    assert!(report.instances.items[0].trail.sent.is_empty());
}

#[test]
fn a_refused_secret_needs_no_rotation_and_a_refused_contact_carries_nothing() {
    let mut story = Story::new();
    refuse(story.open(b"/home/u/.ssh/id_rsa", did::READ, SECRET));
    story.connect([203, 0, 113, 7]);
    let report = story.report();
    assert_eq!(report.impact.reach, Reach::Nothing);
    assert!(report.impact.rotate.is_empty());

    let mut story = Story::new();
    story.open(b"/home/u/.ssh/id_rsa", did::READ, SECRET);
    refuse(story.connect([203, 0, 113, 7]));
    let report = story.report();
    assert_eq!(report.impact.reach, Reach::Process);
    assert_eq!(report.impact.rotate[0].what, "SSH keys");
    assert_eq!(report.instances.items[0].trail.sent.items[0].effect, Effect::Refused);
}

#[test]
fn a_flood_of_contacts_does_not_hide_how_far_a_secret_got() {
    let mut story = Story::new();
    story.open(b"/srv/.env", did::READ, SENSITIVE);
    for number in 0..2000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        story.connect([10, 0, high, low]);
    }
    story.open(b"/home/u/.ssh/id_rsa", did::READ, SECRET);
    story.connect([203, 0, 113, 7]);
    let report = story.report();
    let secret = report.impact.secrets.items.iter().find(|secret| secret.sets == ["secrets"]);
    assert_eq!(secret.unwrap().reach, Reach::Network);
    let trail = &report.instances.items[0].trail;
    assert_eq!(trail.sent.len(), 2001);
    assert!(trail.sent.more != 0);
    assert!(page(&report).contains("and 1,883 further steps"), "honest about what is not told");
}

#[test]
fn the_way_from_reader_to_sender_is_named() {
    let mut story = Story::new();
    story.fork(20);
    story.by(20).fork(30);
    story.by(20).open(b"/home/u/.aws/credentials", did::READ, SECRET);
    for (tgid, address) in [(30, 1), (10, 2), (40, 3)] {
        story.by(tgid).connect([203, 0, 113, address]);
    }
    let report = story.report();
    let sent = &report.instances.items[0].trail.sent.items;
    let relations: Vec<_> = sent.iter().map(|step| step.relation.unwrap()).collect();
    assert_eq!(relations, [Relation::Descendant, Relation::Ancestor, Relation::SameTree]);
}

#[test]
fn files_are_told_by_what_became_of_them() {
    let mut story = Story::new();
    let writes = did::WRITE | did::CREATE;
    story.open(b"/p/new", writes, 0);
    story.open(b"/p/old", did::WRITE, 0);
    story.open(b"/p/gone", writes, 0);
    story.change(change::UNLINK, "/p/gone", "");
    story.change(change::UNLINK, "/p/deleted", "");
    story.change(change::RENAME, "/p/from", "/p/to");
    story.change(change::CHMOD, "/p/mode", "");
    refuse(story.open(b"/p/refused", did::WRITE, 0));
    let report = story.report();
    let fate = |path: &str| {
        let files = &report.instances.items[0].changed.items;
        files.iter().find(|file| file.path == path.into()).unwrap().fate
    };
    for (path, expected) in [
        ("/p/new", Fate::Created),
        ("/p/old", Fate::Changed),
        ("/p/gone", Fate::Temporary),
        ("/p/deleted", Fate::Deleted),
        ("/p/from", Fate::Deleted),
        ("/p/to", Fate::Created),
        ("/p/mode", Fate::Attributes),
        ("/p/refused", Fate::Untouched),
    ] {
        assert_eq!(fate(path), expected, "{path}");
    }
    let restore: Vec<String> =
        report.impact.restore.items.iter().map(|file| file.path.to_text()).collect();
    assert!(
        !restore.contains(&"/p/gone".to_owned()) && !restore.contains(&"/p/refused".to_owned())
    );
    assert_eq!(restore.len(), 6);
}

#[test]
fn programs_that_are_read_are_no_persistence_and_profiles_that_are_written_are() {
    let mut story = Story::new();
    story.open(b"/usr/bin/cat", did::READ, PERSISTENCE);
    assert_eq!(story.report().level, Level::Quiet);
    story.open(b"/home/u/.bashrc", did::WRITE | did::APPEND, PERSISTENCE);
    let report = story.report();
    assert_eq!(report.level, Level::Critical);
    assert_eq!(report.impact.persistence.items[0].path, "/home/u/.bashrc".into());
    assert!(report.impact.restore.is_empty());
}

#[test]
fn other_instances_that_touched_the_same_are_named_and_common_reading_is_not() {
    let mut story = Story::new();
    story.of(1).open(b"/home/u/.bashrc", did::WRITE, PERSISTENCE);
    story.of(1).open(b"/etc/hosts", did::READ, 0);
    story.of(2).open(b"/etc/hosts", did::READ, 0);
    assert!(story.report().impact.shared.is_empty());
    story.of(2).by(50).open(b"/home/u/.bashrc", did::READ, 0);
    let shared = story.report().impact.shared;
    assert_eq!(shared.len(), 1);
    let by: Vec<_> = shared.items[0].by.iter().map(|by| (by.instance, by.how)).collect();
    assert_eq!(by, [(1, "changed"), (2, "read")]);
}

#[test]
fn an_alert_stands_with_the_line_behind_it() {
    let mut story = Story::new();
    let path = b"/home/u/.ssh/id_rsa".as_slice();
    let event = story.open(path, did::READ, SECRET);
    let mut violation = sample(path).violation.unwrap();
    (violation.category, violation.observed_only) = (Category::Secret, false);
    violation.decision.verdict = verdict::ALERT;
    violation.decision.reason = reason::SET;
    event.violation = Some(violation.clone());
    let alert = Alert {
        event: "open".into(),
        subject: Bytes::from(path),
        why: "node opens it".into(),
        count: 3,
        ancestry: Vec::new(),
        evidence: vec![0],
        finding: None,
    };
    story.event(Body::Alert(Box::new(alert))).violation = Some(violation);
    let report = story.report();
    let told = &report.instances.items[0].alerts.items[0];
    assert_eq!((told.count, told.level), (3, Level::Critical));
    assert_eq!(told.evidence[0].line.unwrap().line, 2);
    assert!(told.evidence[0].text.as_ref().unwrap().contains("id_rsa"));
    assert_eq!(report.instances.items[0].violations["secret"], 3);
}

#[test]
fn losses_and_faults_are_findings_and_the_rest_is_told_all_the_same() {
    let mut story = Story::new();
    story.open(b"/p/a", did::READ, 0);
    let (ring, reason) = ("events".to_owned(), "buffer full".to_owned());
    story.event(Body::Loss(Loss { ring, reason, count: 12, range: None }));
    story.open(b"/p/b", did::WRITE, 0);
    let report = story.report();
    assert!(report.verification.intact);
    assert!(
        report.findings.iter().any(|finding| finding.text.contains("buffer full (events) (12)"))
    );

    let file = story.file();
    let changed = fs::read_to_string(file.path()).unwrap().replace("/p/a", "/p/c");
    fs::write(file.path(), changed).unwrap();
    let report = read(&[Recording::file(file.path())]).unwrap();
    assert!(!report.verification.intact);
    assert_eq!((report.level, report.events), (Level::Critical, 3));
    assert!(report.findings[0].text.contains("line 2"), "{:?}", report.findings);
}

#[test]
fn lines_that_are_none_are_counted_and_skipped() {
    let mut story = Story::new();
    story.open(b"/p/a", did::READ, 0);
    let file = story.file();
    let mut text = fs::read_to_string(file.path()).unwrap();
    write!(text, "rubbish\n{{\"v\":1}}\n").unwrap();
    fs::write(file.path(), text).unwrap();
    let report = read(&[Recording::file(file.path())]).unwrap();
    assert_eq!(report.events, 1);
    let unreadable = report.unseen.iter().find(|unseen| unseen.what.contains("could not be read"));
    assert_eq!(unreadable.unwrap().count, Some(2));
}

#[test]
fn hostile_names_are_text_in_every_form() {
    let hostile: &[&[u8]] = &[
        b"/p/</style><script>alert(1)</script>",
        b"/p/\" onmouseover=\"alert(1)",
        b"/p/' autofocus onfocus='alert(1)",
        b"/p/--><img src=x onerror=alert(1)>",
        b"/p/\xe2\x80\xaegpj.exe\x1b[2J\xff",
        b"/p/[click](javascript:alert(1)) `x` | *y*\n# heading\n- [ ] task",
    ];
    let mut story = Story::new();
    for name in hostile {
        let exec = Exec {
            file: file(name, 0),
            interpreter: Bytes::default(),
            argv: vec![Bytes::from(*name), Bytes::from(*name)],
            cwd: Bytes::from(*name),
        };
        story.event(Body::Exec(Box::new(exec)));
        story.open(name, did::READ, SECRET);
        story.open(name, did::WRITE, PERSISTENCE).server = String::from_utf8_lossy(name).into();
        story.event(Body::Unix { file: file(name, 0) });
        let message = String::from_utf8_lossy(name).into_owned();
        story.event(Body::Agent { action: "note".into(), message });
    }
    story
        .events
        .iter_mut()
        .for_each(|event| event.server = "</title><script>alert(1)</script>".into());
    let report = story.report();
    let page = page(&report);
    for bad in [
        "<script>alert",
        "<img",
        "</title><script>",
        "\u{202e}",
        "\u{1b}",
        "\" onmouseover",
        "' autofocus",
    ] {
        assert!(!page.contains(bad), "{bad}");
    }
    assert_eq!(page.matches("<script>").count(), 1);
    assert!(page.contains("\\u{202e}") && page.contains("\\x1b") && page.contains("\\xff"));

    let mut out = Vec::new();
    markdown(&report, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    for bad in ["<script", "<img", "](javascript", "\n# heading", "\u{202e}", "\u{1b}"] {
        assert!(!text.contains(bad), "{bad}");
    }
    let json = serde_json::to_value(&report).unwrap();
    let changed = &json["instances"]["items"][0]["changed"]["items"];
    let back: Vec<_> = changed
        .as_array()
        .unwrap()
        .iter()
        .map(|file| Bytes::from_text(file["path"].as_str().unwrap()).unwrap())
        .collect();
    for name in hostile {
        assert!(back.contains(&Bytes::from(*name)), "JSON is lossless: {:?}", Bytes::from(*name));
    }
}

#[test]
fn the_same_recording_gives_the_same_report() {
    let mut story = Story::new();
    for number in 0..300 {
        story.by(10 + number % 7).open(
            format!("/p/d{}/{number}", number % 90).as_bytes(),
            did::READ,
            0,
        );
        story.open(format!("/p/w{number}").as_bytes(), did::WRITE, 0);
    }
    let file = story.file();
    let recordings = [Recording::file(file.path())];
    assert_eq!(page(&read(&recordings).unwrap()), page(&read(&recordings).unwrap()));
}

#[test]
fn an_empty_recording_makes_a_report() {
    let report = Story::new().report();
    assert_eq!((report.level, report.events), (Level::Quiet, 0));
    assert!(page(&report).contains("no instance"));
}
