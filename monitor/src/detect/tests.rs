//! Each detector with what it must find and its quiet twin, and the bounds of all.

use monitor_common::{
    network::mapped_v4,
    policy::{Decision, InodeKey, class, reason, set, verdict},
    record::{Peer, Target, change, did, enforced, flags},
};

use super::*;
use crate::event::{Body, Category, Contact, Enforced, Exec, Resolve, tests::sample};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

struct Tree {
    detectors: Detectors,
    seq: u64,
    now_ns: u64,
    tgid: u32,
    flags: u32,
    found: Vec<Found>,
}

impl Tree {
    fn new() -> Self {
        Self::under(Limits::default())
    }

    fn under(limits: Limits) -> Self {
        let mut detectors = Detectors::default();
        detectors.learn(3, Arc::new(limits));
        Self { detectors, seq: 0, now_ns: SECOND, tgid: 10, flags: 0, found: Vec::new() }
    }

    fn event(&mut self, body: Body, violation: Option<Violation>) {
        self.seq += 1;
        let mut event = Event { seq: self.seq, boot_ns: self.now_ns, body, ..sample(b"/x") };
        event.violation = violation.map(Box::new);
        if let Some(observed) = &mut event.observed {
            observed.process.tgid = self.tgid;
            observed.flags = self.flags;
        }
        let is_runtime = |path: &Bytes| path.as_bytes().starts_with(b"/usr/");
        self.found.extend(self.detectors.observe(&event, &is_runtime));
    }

    fn open(&mut self, path: &str, access: u32, sets: u32) {
        let found = (sets != 0).then(|| violation(sets, enforced::NONE));
        self.event(Body::Open { access, file: file(path, sets) }, found);
    }

    fn read(&mut self, path: &str) {
        self.open(path, did::READ, 0);
    }

    /// A rename onto another file.
    fn replace(&mut self, path: &str, second: &str) {
        self.flags = flags::REPLACED;
        self.change(change::RENAME, path, second);
        self.flags = 0;
    }

    fn change(&mut self, op: u8, path: &str, second: &str) {
        self.event(Body::Change { op, file: file(path, 0), second: second.into() }, None);
    }

    fn connect(&mut self, address: [u8; 4], port: u16) {
        self.event(Body::Connect(contact(address, port)), None);
    }

    /// A question that a resolver has answered, as no process's.
    fn ask(&mut self, name: &str) {
        self.resolve(Resolve { name: name.to_owned(), bytes: 100, ..Resolve::default() });
    }

    fn resolve(&mut self, resolve: Resolve) {
        self.seq += 1;
        let body = Body::Resolve(Box::new(Resolve { policy: 3, ..resolve }));
        let event = Event::of_monitor(self.seq, self.now_ns, self.now_ns, body);
        self.found.extend(self.detectors.observe(&Event { instance: 1, ..event }, &|_| false));
    }

    fn names(&self) -> Vec<&'static str> {
        self.found.iter().map(|found| detector::NAMES[found.detector]).collect()
    }
}

fn file(path: &str, sets: u32) -> File {
    let Body::Open { file, .. } = sample(path.as_bytes()).body else { unreachable!() };
    let inode = InodeKey { ino: distinct::key(&path) | 1, dev: 1, generation: 0 };
    File { inode, sets, labels: 0, ..file }
}

fn contact(address: [u8; 4], port: u16) -> Contact {
    let address = mapped_v4(u32::from_be_bytes(address));
    let peer = Peer { address, port, family: 2, socket_type: 1, protocol: 6 };
    Contact { peer, sets: 0, name: None, file: None }
}

fn violation(sets: u32, answered: u8) -> Violation {
    let reason = if sets == 0 { reason::UNLISTED } else { reason::SET };
    Violation {
        decision: Decision { verdict: verdict::ALERT, reason, set: 0, access: 1 },
        observed_only: false,
        category: Category::Secret,
        rule: None,
        enforced: Enforced::None,
        answered,
    }
}

const SECRETS: u32 = class::of_set(set::SECRETS);
const SENSITIVE: u32 = class::of_set(set::SENSITIVE);
const PROCESSES: u32 = class::of_set(set::PROCESSES);

#[test]
fn a_walk_over_a_project_is_a_mass_read_at_the_limit() {
    let mut tree = Tree::new();
    for number in 0..499 {
        tree.read(&format!("/srv/{number}"));
        tree.now_ns += MS;
    }
    assert_eq!(tree.names(), [""; 0]);
    tree.read("/srv/499");
    assert_eq!(tree.names(), ["mass_read"]);
    let found = &tree.found[0];
    assert_eq!((found.run.count, found.evidence.as_slice()), (500, [1, 500].as_slice()));
    assert_eq!(found.deed, "has read 500 different files within 0.499 s");
    assert_eq!(found.run.samples.len(), 8);
}

#[test]
fn children_that_read_a_little_each_are_counted_together() {
    let mut tree = Tree::new();
    for child in 0..40 {
        tree.tgid = 100 + child;
        (0..50).for_each(|number| tree.read(&format!("/srv/{child}/{number}")));
    }
    assert_eq!(tree.names(), ["mass_read"], "one finding in a window");
}

#[test]
fn what_a_runtime_and_ps_read_is_no_mass_read() {
    let mut tree = Tree::new();
    for number in 0..5000 {
        tree.read(&format!("/usr/lib/python3/{number}.py"));
        tree.read("/srv/the-same");
        tree.open(&format!("/srv/written/{number}"), did::WRITE | did::CREATE, 0);
        tree.open(&format!("/srv/path/{number}"), did::PATH, 0);
        let mut proc = file(&format!("/proc/{number}/stat"), 0);
        proc.fs_magic = file::PROC_SUPER_MAGIC;
        tree.event(Body::Open { access: did::READ, file: proc }, None);
        let mut directory = file(&format!("/srv/directory/{number}"), 0);
        directory.mode = libc::S_IFDIR | 0o755;
        tree.event(Body::Open { access: did::READ, file: directory }, None);
        let refused = file(&format!("/srv/refused/{number}"), 0);
        let denied = violation(0, enforced::DENIED);
        tree.event(Body::Open { access: did::READ, file: refused }, Some(denied));
    }
    assert_eq!(tree.names(), [""; 0]);
}

#[test]
fn a_slow_walk_is_found_against_the_stated_breadth_alone() {
    let walk = |breadth| {
        let mut limits = Limits::default();
        limits.values[parameter::BREADTH_FILES] = breadth;
        let mut tree = Tree::under(limits);
        for number in 0..1000 {
            tree.read(&format!("/srv/{number}"));
            tree.now_ns += 60 * SECOND;
        }
        tree
    };
    assert_eq!(walk(0).names(), [""; 0]);
    let tree = walk(1000);
    assert_eq!((tree.names(), tree.found[0].table), (vec!["mass_read"], "breadth"));
    assert_eq!(tree.found[0].deed, "has read 1000 different files within 16 h");
    assert_eq!(walk(1440).names(), [""; 0], "a day has 1440 minutes");
}

#[test]
fn the_kernels_own_count_is_told_with_evidence_and_once_a_window() {
    let mut limits = Limits { enforce: true, ..Limits::default() };
    limits.verdicts[detector::MASS_READ] = verdict::DENY;
    assert!(limits.kernel_counts_reads());
    let mut tree = Tree::under(limits);
    (0..700).for_each(|number| tree.read(&format!("/srv/{number}")));
    assert_eq!(tree.names(), [""; 0], "the kernel decides");
    let set = detector::MASS_READ as u8;
    let decision = Decision { verdict: verdict::DENY, reason: reason::DETECTOR, set, access: 1 };
    let refused = Violation { decision, ..violation(0, enforced::DENIED) };
    for number in 0..100 {
        let open = Body::Open { access: did::READ, file: file(&format!("/srv/no/{number}"), 0) };
        tree.event(open, Some(refused.clone()));
    }
    assert_eq!(tree.names(), ["mass_read"]);
    let found = &tree.found[0];
    assert_eq!(found.answered.as_ref(), Some(&refused));
    assert_eq!((found.run.count, found.run.last.seq), (500, 701));
}

#[test]
fn files_of_others_deleted_emptied_renamed_or_overwritten_are_a_mass_write() {
    let ways: [fn(&mut Tree, &str); 5] = [
        |tree, path| tree.change(change::UNLINK, path, ""),
        |tree, path| tree.change(change::TRUNCATE, path, ""),
        |tree, path| tree.change(change::RENAME, path, &format!("{path}.locked")),
        |tree, path| tree.open(path, did::WRITE | did::TRUNCATE, 0),
        |tree, path| {
            let own = format!("{path}.new");
            tree.open(&own, did::WRITE | did::CREATE, 0);
            tree.replace(&own, path);
        },
    ];
    for way in ways {
        let mut tree = Tree::new();
        (0..49).for_each(|number| way(&mut tree, &format!("/home/u/{number}")));
        assert_eq!(tree.names(), [""; 0]);
        way(&mut tree, "/home/u/49");
        assert_eq!(tree.names(), ["mass_write"]);
    }
}

#[test]
fn files_of_its_own_that_come_and_go_are_no_mass_write() {
    let mut tree = Tree::new();
    for number in 0..2000 {
        let (own, other) = (format!("/tmp/{number}"), format!("/tmp/{number}.done"));
        tree.open(&own, did::WRITE | did::CREATE, 0);
        tree.open(&own, did::WRITE | did::TRUNCATE, 0);
        tree.change(change::RENAME, &own, &format!("{own}.saved"));
        tree.replace(&format!("{own}.saved"), "/home/u/document");
        tree.change(change::CREATE, &other, "");
        tree.change(change::UNLINK, &other, "");
        tree.change(change::UNLINK, &format!("/usr/lib/{number}"), "");
    }
    assert_eq!(tree.names(), [""; 0]);
}

fn exec(path: &str) -> Body {
    let (file, cwd) = (file(path, 0), "/".into());
    Body::Exec(Box::new(Exec { file, interpreter: Bytes::default(), argv: Vec::new(), cwd }))
}

#[test]
fn a_hundred_programs_or_processes_in_a_moment_are_a_burst() {
    let mut tree = Tree::new();
    (0..100).for_each(|_| tree.event(exec("/usr/bin/openssl"), None));
    assert_eq!(tree.names(), ["exec_burst"]);
    let mut tree = Tree::new();
    (0..100).for_each(|_| tree.event(Body::Fork { child: Target::default() }, None));
    assert_eq!(tree.names(), ["exec_burst"]);
    assert!(tree.found[0].deed.contains("100 processes"), "{}", tree.found[0].deed);
}

#[test]
fn the_commands_of_a_busy_server_are_no_burst() {
    let mut tree = Tree::new();
    for _ in 0..1000 {
        tree.event(Body::Fork { child: Target::default() }, None);
        tree.event(exec("/usr/bin/git"), None);
        tree.now_ns += SECOND / 9;
    }
    assert_eq!(tree.names(), [""; 0]);
}

#[test]
fn scans_of_ports_and_of_private_hosts_are_found() {
    let mut tree = Tree::new();
    (1..=20).for_each(|port| tree.connect([127, 0, 0, 1], port));
    assert_eq!(tree.names(), ["connect_burst"]);
    assert_eq!(tree.found[0].deed, "has contacted 20 ports of one host within 0.000 s");
    let mut tree = Tree::new();
    (1..=20).for_each(|host| tree.connect([192, 168, 1, host], 22));
    assert_eq!(tree.names(), ["connect_burst"]);
    let mut tree = Tree::new();
    let denied = violation(0, enforced::DENIED);
    for host in 1..=20 {
        tree.event(Body::Connect(contact([10, 0, 0, host], 22)), Some(denied.clone()));
    }
    assert_eq!(tree.names(), ["connect_burst"], "a scan that is refused is one");
    let mut tree = Tree::new();
    (0..150_u8).for_each(|host| tree.connect([93, 184, 216, host], 80));
    assert_eq!(tree.names(), ["connect_burst"]);
}

#[test]
fn a_browser_and_a_resolver_are_no_scan() {
    let mut tree = Tree::new();
    for number in 0..90 {
        tree.connect([93, 184, 216, number], 443);
        tree.connect([10, 0, 0, 53], 53);
        tree.connect([127, 0, 0, 1], 9222);
        tree.connect([192, 168, 7, number], 0);
        tree.now_ns += 100 * MS;
    }
    assert_eq!(tree.names(), [""; 0]);
}

#[test]
fn a_secret_read_and_then_something_sent_is_exfiltration_with_both_ends() {
    let mut tree = Tree::new();
    tree.connect([93, 184, 216, 34], 443);
    tree.open("/home/u/.ssh/id", did::READ, SECRETS);
    (tree.tgid, tree.now_ns) = (11, tree.now_ns + 1500 * MS);
    tree.connect([93, 184, 216, 34], 443);
    assert_eq!(tree.names(), ["exfiltration"]);
    let found = &tree.found[0];
    assert_eq!(found.evidence, [2, 3]);
    assert_eq!(
        found.deed,
        "contacts 93.184.216.34:443/tcp, 1.500 s after the server has read /home/u/.ssh/id"
    );
    tree.connect([93, 184, 216, 34], 443);
    assert_eq!(tree.found.len(), 1, "once for each read");
}

#[test]
fn a_mass_read_and_then_something_sent_is_exfiltration() {
    let mut tree = Tree::new();
    (0..500).for_each(|number| tree.read(&format!("/srv/{number}")));
    tree.event(Body::Send(contact([127, 0, 0, 1], 9)), None);
    assert_eq!(tree.names(), ["mass_read", "exfiltration"]);
}

#[test]
fn sending_before_reading_long_after_or_without_having_got_it_is_no_exfiltration() {
    let mut tree = Tree::new();
    tree.connect([93, 184, 216, 34], 443);
    tree.open("/home/u/.ssh/id", did::READ, SECRETS);
    tree.now_ns += 601 * SECOND;
    tree.connect([93, 184, 216, 34], 443);
    let denied = violation(SECRETS, enforced::DENIED);
    let open = Body::Open { access: did::READ, file: file("/home/u/.ssh/id", SECRETS) };
    tree.event(open, Some(denied));
    tree.connect([93, 184, 216, 34], 443);
    // Named in allow_secret: no verdict.
    let named = Body::Open { access: did::READ, file: file("/home/u/.npmrc", SECRETS) };
    tree.event(named, None);
    tree.connect([93, 184, 216, 34], 443);
    assert_eq!(tree.names(), [""; 0]);
}

#[test]
fn a_projects_env_file_counts_only_towards_where_no_rule_leads() {
    let mut tree = Tree::new();
    tree.open("/srv/.env", did::READ, SENSITIVE);
    tree.connect([93, 184, 216, 34], 443);
    assert_eq!(tree.names(), [""; 0], "nine of forty honest servers do this");
    let unlisted = violation(0, enforced::NONE);
    tree.event(Body::Connect(contact([93, 184, 216, 35], 443)), Some(unlisted));
    assert_eq!(tree.names(), ["exfiltration"]);
}

#[test]
fn environments_count_when_the_process_that_read_them_sends_and_ps_does_not() {
    let mut tree = Tree::new();
    tree.tgid = 50;
    (0..100).for_each(|pid| tree.open(&format!("/proc/{pid}/environ"), did::READ, PROCESSES));
    tree.tgid = 10;
    tree.connect([93, 184, 216, 34], 443);
    assert_eq!(tree.names(), [""; 0]);
    tree.open("/proc/1/environ", did::READ, PROCESSES);
    tree.connect([93, 184, 216, 34], 443);
    assert_eq!(tree.names(), ["exfiltration"]);
}

#[test]
fn sensitive_reads_do_not_crowd_a_secret_out() {
    let mut tree = Tree::new();
    tree.open("/home/u/.ssh/id", did::READ, SECRETS);
    (0..100).for_each(|number| tree.open(&format!("/srv/{number}/.env"), did::READ, SENSITIVE));
    tree.connect([93, 184, 216, 34], 443);
    assert_eq!(tree.names(), ["exfiltration"]);
}

#[test]
fn a_key_carried_away_in_names_is_a_dns_burst() {
    let mut tree = Tree::new();
    for number in 0..8 {
        tree.ask(&format!("{number}{}.{}.t.example.com", "k".repeat(62), "y".repeat(63)));
    }
    assert_eq!(tree.names(), ["dns_burst"]);
    let found = &tree.found[0];
    assert_eq!(
        found.deed,
        "has asked for 8 names beneath example.com that hold 1032 bytes within 0.000 s"
    );
    assert_eq!((found.limit, found.evidence.as_slice()), (1000, [1, 8].as_slice()));
    assert_eq!(found.run.samples.len(), 8);
    let mut tree = Tree::new();
    (0..63).for_each(|number| tree.ask(&format!("{number}.example.com")));
    assert_eq!(tree.names(), ["dns_burst"], "a little in each");
}

#[test]
fn the_names_of_a_busy_browser_are_no_dns_burst() {
    let mut tree = Tree::new();
    for round in 0..20 {
        for number in 0..40 {
            tree.ask(&format!("www.site{number}.example"));
            tree.ask(&format!("cdn{}.example.net", number));
            tree.ask("example.com");
        }
        tree.now_ns += u64::from(round % 2 == 0) * 10 * SECOND;
    }
    assert_eq!(tree.names(), [""; 0]);
}

#[test]
fn questions_that_were_refused_told_nobody() {
    let mut tree = Tree::new();
    let question = |number: u32, rcode: &str| Resolve {
        name: format!("{number}.example.com"),
        rcode: rcode.to_owned(),
        ..Resolve::default()
    };
    (0..500).for_each(|number| tree.resolve(question(number, "REFUSED")));
    assert_eq!(tree.names(), [""; 0]);
    (0..500).for_each(|number| tree.resolve(question(number, crate::names::TIMEOUT)));
    assert_eq!(tree.names(), ["dns_burst"], "the resolver may have asked on");
}

#[test]
fn a_domain_of_which_much_was_asked_is_not_crowded_out() {
    let mut tree = Tree::new();
    for number in 0..70 {
        tree.ask(&format!("{number}.example.com"));
        (0..20).for_each(|other| tree.ask(&format!("a.b{number}x{other}.test")));
    }
    assert_eq!(tree.names(), ["dns_burst"]);
}

#[test]
fn a_detector_with_verdict_allow_is_off() {
    let mut tree =
        Tree::under(Limits { verdicts: [verdict::ALLOW; detector::COUNT], ..Limits::default() });
    for number in 0..1000_u16 {
        tree.read(&format!("/srv/{number}"));
        tree.change(change::UNLINK, &format!("/srv/{number}"), "");
        tree.event(exec("/bin/true"), None);
        tree.connect([10, 0, 0, 1], number + 1);
        tree.ask(&format!("{number}.example.com"));
        tree.open("/home/u/.ssh/id", did::READ, SECRETS);
    }
    assert_eq!(tree.names(), [""; 0]);
}

#[test]
fn other_limits_take_the_place_of_the_old_ones() {
    let mut tree = Tree::new();
    let mut tight = Limits::default();
    tight.values[parameter::MASS_READ_FILES] = 10;
    (0..20).for_each(|number| tree.read(&format!("/srv/{number}")));
    tree.detectors.learn(3, Arc::new(Limits::default()));
    tree.detectors.learn(4, Arc::new(tight));
    let mut event = sample(b"/x");
    for number in 0..10 {
        event.body = Body::Open { access: did::READ, file: file(&format!("/srv/{number}"), 0) };
        event.violation = None;
        if let Some(observed) = &mut event.observed {
            observed.policy = 4;
        }
        tree.found.extend(tree.detectors.observe(&event, &|_| false));
    }
    assert_eq!(tree.names(), ["mass_read"]);
}

/// What docs/detectors.md states for the default limits.
const BYTES_MAX: usize = 400 << 10;

#[test]
fn a_fork_bomb_a_million_files_and_a_million_addresses_do_not_grow_the_state() {
    let mut tree = Tree::new();
    let long = "x".repeat(1000);
    let mut most = 0;
    for number in 0..30_000_u32 {
        tree.event(Body::Fork { child: Target::default() }, None);
        tree.event(exec(&format!("/tmp/{long}/{number}")), None);
        tree.read(&format!("/srv/{long}/{number}"));
        tree.open(&format!("/srv/{long}/{number}"), did::WRITE, 0);
        tree.open(&format!("/own/{long}/{number}"), did::WRITE | did::CREATE, 0);
        tree.open(&format!("/home/u/.ssh/{long}/{number}"), did::READ, SECRETS);
        tree.connect(number.to_be_bytes(), number as u16 | 1);
        tree.connect([10, 0, (number >> 8) as u8, number as u8], number as u16 | 1);
        tree.ask(&format!("{}.{number}.{}.{}.test", &long[..60], &long[..60], number % 1000));
        tree.now_ns += MS;
        tree.found.clear();
        if number.is_multiple_of(1000) {
            most = most.max(tree.detectors.instances[&1].bytes());
        }
    }
    assert!(most <= BYTES_MAX, "{most} bytes");
    assert!(most > BYTES_MAX / 4, "the figure in the documentation is far too large: {most}");
}

#[test]
fn states_of_many_instances_are_bounded() {
    let mut detectors = Detectors::default();
    detectors.learn(3, Arc::default());
    for instance in 0..3 * INSTANCES_MAX as u32 {
        let event = Event { instance, boot_ns: u64::from(instance), ..sample(b"/x") };
        detectors.observe(&event, &|_| false);
    }
    assert_eq!(detectors.instances.len(), INSTANCES_MAX);
    assert!(detectors.instances.contains_key(&(3 * INSTANCES_MAX as u32 - 1)));
}

#[test]
fn an_exec_that_is_only_judged_does_not_count() {
    let mut tree = Tree::new();
    for seq in 0..1000 {
        let mut event = Event { seq, boot_ns: seq, body: exec("/bin/true"), ..sample(b"/x") };
        event.violation = None;
        if let Some(observed) = &mut event.observed {
            observed.flags = flags::CHECK;
        }
        tree.found.extend(tree.detectors.observe(&event, &|_| false));
    }
    assert_eq!(tree.names(), [""; 0]);
}
