//! Questions and answers, with a map in the kernel's place.

use std::{collections::HashMap, str::FromStr as _};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype,
        iana::{Opcode, Rcode},
    },
    rdata::{A, Aaaa, Cname},
};
use monitor_common::{
    network::{AddressRules, mapped_v4},
    policy::{reason, verdict},
};
use proptest::prelude::*;

use super::{
    questions::{Asked, Course, Questions},
    *,
};
use crate::rules::{Bindings, Compiled, SearchPath, Standing, compile, load};

/// Rules in enforce with these lists in `[network]`, what is unlisted denied.
pub(super) fn rules(lists: &str) -> Compiled {
    rules_with(lists, "enforce", "deny")
}

fn rules_with(lists: &str, mode: &str, unlisted: &str) -> Compiled {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("servers")).unwrap();
    let text = format!(
        "schema = 1\nserver = \"s\"\n[network]\n{lists}\n[response]\nmode = \"{mode}\"\n\
         unlisted = {{ connect = \"{unlisted}\" }}\n"
    );
    std::fs::write(folder.path().join("servers/s.toml"), text).unwrap();
    let bindings = Bindings { home: "/home/nobody".into(), ..Bindings::default() };
    let search = SearchPath::new(Some(folder.path()));
    compile(&load(&search, Some("s"), &bindings).unwrap()).unwrap()
}

const NAMED: &str = "connect = [\"api.example:443\", \"10.1.1.1:443\"]";
const PUBLIC: [u8; 4] = [1, 2, 3, 4];
const SECOND: u64 = 1_000_000_000;

/// An agent without sockets.
struct Desk {
    rules: Compiled,
    questions: Questions,
    kernel: HashMap<[u8; 16], AddressRules>,
    now_ns: u64,
}

impl Desk {
    fn new(rules: Compiled) -> Self {
        Self { rules, questions: Questions::default(), kernel: HashMap::new(), now_ns: 0 }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Questions, &mut Under<'_>) -> T) -> T {
        let Self { rules, questions, kernel, now_ns } = self;
        let mut set = |address, rules: Option<&AddressRules>| {
            match rules {
                Some(rules) => kernel.insert(address, *rules),
                None => kernel.remove(&address),
            };
            Ok(())
        };
        act(questions, &mut Under { policy: 1, rules, set: &mut set, now_ns: *now_ns })
    }

    fn ask(&mut self, name: &str, record: Rtype) -> Course {
        let bytes = question(name, record);
        self.with(|questions, under| questions.ask(&bytes, "udp", under))
    }

    fn asked(&mut self, name: &str, record: Rtype) -> Asked {
        match self.ask(name, record) {
            Course::Ask(asked) => asked,
            _ => panic!("{name} is not asked on"),
        }
    }

    /// What becomes of a question that a resolver answers so.
    fn answer(&mut self, name: &str, answer: impl FnOnce(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
        let asked = self.asked(name, Rtype::A);
        let answer = answer(&message::numbered(&asked.bytes, 99));
        self.with(|questions, under| questions.answer(&asked, 99, &answer, under))
    }

    fn is_let_in(&self, address: [u8; 4]) -> bool {
        self.kernel.contains_key(&mapped_v4(u32::from_be_bytes(address)))
    }

    fn last(&self) -> &Answered {
        self.questions.answered.last().unwrap()
    }
}

fn name(text: &str) -> Name<Vec<u8>> {
    Name::from_str(text).unwrap()
}

fn question(text: &str, record: Rtype) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(7);
    let mut message = message.question();
    message.push((name(text), record)).unwrap();
    message.finish()
}

/// An answer with an address for each of these owners.
fn addresses(question: &[u8], records: &[(&str, u32, [u8; 4])]) -> Vec<u8> {
    let message = Message::from_octets(question).unwrap();
    let answer = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR);
    let mut answer = answer.unwrap();
    for (owner, ttl, address) in records {
        answer.push((name(owner), *ttl, A::from(std::net::Ipv4Addr::from(*address)))).unwrap();
    }
    answer.finish()
}

fn rcode(reply: &[u8]) -> Rcode {
    Message::from_octets(reply).unwrap().header().rcode()
}

#[test]
fn an_answer_holds_for_its_time_and_a_grace_but_not_for_ever() {
    assert_eq!(holds_until(Some(5), 7), 65 * SECOND + 7);
    assert_eq!(holds_until(Some(0), 0), 60 * SECOND);
    assert_eq!(holds_until(Some(u32::MAX), 0), (86_400 + 60) * SECOND);
    assert_eq!(holds_until(None, 7), u64::MAX);
}

#[test]
fn a_named_host_is_let_in_until_its_answer_has_ceased_to_hold() {
    let mut desk = Desk::new(rules(NAMED));
    let given = desk.answer("API.example", |it| addresses(it, &[("api.Example", 5, PUBLIC)]));
    let given = given.unwrap();
    assert_eq!((rcode(&given), &given[..2]), (Rcode::NOERROR, &[0, 7][..]), "with its own number");
    assert!(desk.is_let_in(PUBLIC));
    let Answered { resolve, naming, .. } = desk.last();
    assert_eq!((resolve.name.as_str(), resolve.record.as_str()), ("api.example", "A"));
    assert_eq!((resolve.rcode.as_str(), resolve.ttl), ("NOERROR", Some(5)));
    assert_eq!(resolve.addresses, [mapped_v4(u32::from_be_bytes(PUBLIC))]);
    assert_eq!((naming.standing, naming.decision.verdict), (Standing::Named, verdict::ALLOW));
    desk.now_ns = 65 * SECOND - 1;
    desk.with(Questions::expire);
    assert!(desk.is_let_in(PUBLIC));
    desk.now_ns += 1;
    desk.with(Questions::expire);
    assert!(!desk.is_let_in(PUBLIC));
}

#[test]
fn an_alias_is_followed_and_holds_as_long_as_its_shortest_part() {
    let mut desk = Desk::new(rules(NAMED));
    let given = desk.answer("api.example", |it| {
        let message = Message::from_octets(it).unwrap();
        let mut answer = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).unwrap();
        // Out of order, and with the address of a name that nobody asked for.
        answer.push((name("b.test"), 300, A::new(PUBLIC.into()))).unwrap();
        answer.push((name("other.test"), 1, A::new([5, 5, 5, 5].into()))).unwrap();
        answer.push((name("a.test"), 20, Cname::new(name("b.test")))).unwrap();
        answer.push((name("api.example"), 100, Cname::new(name("a.test")))).unwrap();
        answer.push((name("b.test"), 300, Aaaa::new("2600::1".parse().unwrap()))).unwrap();
        answer.finish()
    });
    assert!(given.is_some() && desk.is_let_in(PUBLIC) && !desk.is_let_in([5, 5, 5, 5]));
    let resolve = &desk.last().resolve;
    assert_eq!(resolve.aliases, ["a.test", "b.test"]);
    assert_eq!((resolve.ttl, resolve.addresses.len()), (Some(20), 2));
}

#[test]
fn aliases_that_go_in_a_circle_lead_nowhere() {
    let mut desk = Desk::new(rules(NAMED));
    desk.answer("api.example", |it| {
        let message = Message::from_octets(it).unwrap();
        let mut answer = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).unwrap();
        answer.push((name("api.example"), 1, Cname::new(name("a.test")))).unwrap();
        answer.push((name("a.test"), 1, Cname::new(name("api.example")))).unwrap();
        answer.finish()
    });
    assert_eq!(desk.last().resolve.addresses, [] as [[u8; 16]; 0]);
    assert!(desk.kernel.is_empty());
}

#[test]
fn a_private_address_refuses_the_whole_answer_unless_a_rule_allows_it() {
    for private in [[10, 0, 0, 1], [127, 0, 0, 1], [169, 254, 169, 254], [0, 0, 0, 0]] {
        let mut desk = Desk::new(rules(NAMED));
        let records = [("api.example", 5, PUBLIC), ("api.example", 5, private)];
        let given = desk.answer("api.example", |it| addresses(it, &records)).unwrap();
        assert_eq!(rcode(&given), Rcode::REFUSED, "{private:?}");
        assert!(desk.kernel.is_empty());
        let Answered { resolve, naming, .. } = desk.last();
        assert_eq!((resolve.rcode.as_str(), resolve.addresses.len()), ("REFUSED", 2));
        assert_eq!(naming.decision.reason, reason::REBINDING);
    }
    let mut desk = Desk::new(rules(NAMED));
    let listed = [("api.example", 5, [10, 1, 1, 1])];
    let given = desk.answer("api.example", |it| addresses(it, &listed)).unwrap();
    assert_eq!(rcode(&given), Rcode::NOERROR);
    let observing = rules_with(NAMED, "observe", "deny");
    let mut desk = Desk::new(observing);
    let private = [("api.example", 5, [10, 0, 0, 1])];
    let given = desk.answer("api.example", |it| addresses(it, &private)).unwrap();
    assert_eq!(rcode(&given), Rcode::NOERROR);
    assert_eq!(desk.last().naming.decision.reason, reason::REBINDING);
    assert!(desk.kernel.is_empty(), "its name never lets a private address in");
}

#[test]
fn what_no_rule_names_is_asked_only_where_it_may_be_connected_to() {
    let refused = |rules: Compiled, text: &str| match Desk::new(rules).ask(text, Rtype::TXT) {
        Course::Answer(answer) => Some(rcode(&answer)),
        _ => None,
    };
    assert_eq!(refused(rules(NAMED), "evil.example"), Some(Rcode::REFUSED));
    assert_eq!(refused(rules(NAMED), "api.example"), None);
    assert_eq!(refused(rules_with(NAMED, "enforce", "kill-tree"), "x.test"), Some(Rcode::REFUSED));
    assert_eq!(refused(rules_with(NAMED, "enforce", "alert"), "evil.example"), None);
    assert_eq!(refused(rules_with(NAMED, "observe", "deny"), "evil.example"), None);
    let open = "connect = [\"api.example:5432\", \"public:443\"]";
    assert_eq!(refused(rules(open), "evil.example"), None);
    let dns = "connect = [\"api.example:5432\", \"public:53\"]";
    assert_eq!(refused(rules(dns), "evil.example"), Some(Rcode::REFUSED));
}

#[test]
fn a_search_list_is_answered_so_that_the_name_itself_is_asked_next() {
    let mut desk = Desk::new(rules(NAMED));
    let Course::Answer(answer) = desk.ask("api.example.corp.test", Rtype::A) else { panic!() };
    assert_eq!(rcode(&answer), Rcode::NXDOMAIN);
    let Answered { resolve, naming, .. } = desk.last();
    assert_eq!((resolve.rcode.as_str(), naming.decision.verdict), ("NXDOMAIN", verdict::ALLOW));
}

#[test]
fn only_the_answer_to_the_question_is_taken() {
    let mut desk = Desk::new(rules(NAMED));
    let asked = desk.asked("api.example", Rtype::A);
    let records = [("api.example", 5, PUBLIC)];
    let right = addresses(&message::numbered(&asked.bytes, 99), &records);
    let other_name = addresses(&message::numbered(&question("x.test", Rtype::A), 99), &records);
    let other_type =
        addresses(&message::numbered(&question("api.example", Rtype::TXT), 99), &records);
    let other_number = message::numbered(&right, 98);
    let no_answer = message::numbered(&asked.bytes, 99);
    for wrong in [other_name, other_type, other_number, no_answer, Vec::new(), right[..20].to_vec()]
    {
        assert!(desk.with(|it, under| it.answer(&asked, 99, &wrong, under)).is_none());
    }
    assert!(desk.kernel.is_empty() && desk.questions.answered.is_empty());
    assert!(desk.with(|it, under| it.answer(&asked, 99, &right, under)).is_some());
    assert!(desk.is_let_in(PUBLIC));
}

#[test]
fn more_addresses_than_the_bound_are_not_given() {
    let mut desk = Desk::new(rules("connect = [\"*.example:443\"]"));
    for host in 0..=16_u8 {
        let owner = format!("h{host}.example");
        let records: Vec<_> = (0..64).map(|at| (owner.as_str(), 5, [1, 2, host, at])).collect();
        let given = desk.answer(&owner, |it| addresses(it, &records)).unwrap();
        let expected = if host < 16 { Rcode::NOERROR } else { Rcode::SERVFAIL };
        assert_eq!(rcode(&given), expected, "{host}");
    }
    assert_eq!(desk.kernel.len(), ADDRESSES_MAX);
    assert_eq!(desk.last().resolve.rcode, "SERVFAIL");
    assert_eq!(desk.questions.notes.len(), 1);
}

#[test]
fn a_truncated_answer_gives_no_address() {
    let mut desk = Desk::new(rules(NAMED));
    let given = desk.answer("api.example", |it| {
        let mut answer = addresses(it, &[("api.example", 5, PUBLIC)]);
        answer[2] |= 2;
        answer
    });
    let given = given.unwrap();
    let message = Message::from_octets(given.as_slice()).unwrap();
    assert!(message.header().tc() && message.header_counts().ancount() == 0);
    assert!(desk.kernel.is_empty());
    assert_eq!(desk.last().resolve.rcode, "TRUNCATED");
}

#[test]
fn a_question_that_nobody_answers_is_told_and_fails() {
    let mut desk = Desk::new(rules(NAMED));
    let asked = desk.asked("api.example", Rtype::A);
    let given = desk.with(|questions, under| questions.unanswered(&asked, under)).unwrap();
    assert_eq!(rcode(&given), Rcode::SERVFAIL);
    assert_eq!(desk.last().resolve.rcode, "TIMEOUT");
}

#[test]
fn the_hosts_file_is_taken_in_for_named_hosts() {
    let mut desk = Desk::new(rules(NAMED));
    let text = "1.2.3.4 api.example\n5.5.5.5 evil.example\n127.0.0.1 localhost\n";
    desk.with(|questions, under| questions.hosts(text, under));
    assert!(desk.is_let_in(PUBLIC) && desk.kernel.len() == 1);
    assert_eq!((desk.last().resolve.over.as_str(), desk.questions.answered.len()), ("hosts", 1));
    let mut desk = Desk::new(rules(NAMED));
    desk.with(|questions, under| questions.hosts("10.0.0.1 api.example\n", under));
    assert!(desk.kernel.is_empty());
    assert_eq!(desk.last().naming.decision.reason, reason::REBINDING);
}

#[test]
fn what_is_no_question_for_records_is_not_asked_on() {
    let mut desk = Desk::new(rules(NAMED));
    let mut update = question("api.example", Rtype::A);
    Message::from_octets(update.as_mut_slice()).unwrap().header_mut().set_opcode(Opcode::UPDATE);
    let Course::Answer(answer) = desk.with(|it, under| it.ask(&update, "udp", under)) else {
        panic!()
    };
    assert_eq!(rcode(&answer), Rcode::NOTIMP);
    for nothing in [&b""[..], b"x", &[0; 12], &question("api.example", Rtype::A)[..20]] {
        assert!(matches!(desk.with(|it, under| it.ask(nothing, "udp", under)), Course::Drop));
    }
}

#[test]
fn a_dot_within_a_label_makes_another_name() {
    let mut desk = Desk::new(rules("connect = [\"*.api.example:443\"]"));
    let named = desk.ask("x.api.example", Rtype::A);
    assert!(matches!(named, Course::Ask(_)));
    // One label `x.api` beneath `example`.
    let bytes = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x05x.api\x07example\0\0\x01\0\x01";
    let course = desk.with(|questions, under| questions.ask(bytes, "udp", under));
    assert!(matches!(course, Course::Answer(_)));
    assert_eq!(desk.last().resolve.name, "x\\.api.example");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut desk = Desk::new(Compiled::clone(&RULES));
        let asked = desk.asked("api.example", Rtype::A);
        desk.with(|questions, under| {
            questions.ask(&bytes, "udp", under);
            questions.answer(&asked, 99, &bytes, under);
            let mut answer = message::numbered(&asked.bytes, 99);
            answer[2] |= 0x80;
            answer[7] = 3;
            answer.extend_from_slice(&bytes);
            questions.answer(&asked, 99, &answer, under);
        });
    }
}

static RULES: std::sync::LazyLock<Compiled> = std::sync::LazyLock::new(|| rules(NAMED));
