//! What becomes of a question, however it came: judged, asked on or refused, and its answer judged
//! again before it is given.

use domain::base::iana::Rcode;
use monitor_common::policy::{mode, verdict};

use super::{
    Answered, holds_until,
    message::{self, Found, Question, Unusable},
    table::{SetAddress, Table},
};
use crate::{
    enrich::clock,
    event::Resolve,
    rules::{Compiled, Naming, Standing},
};

/// The policy that a server is under, and the way to its address table.
pub struct Under<'a> {
    /// Number of the policy in the stream.
    pub policy: u32,
    /// The policy.
    pub rules: &'a Compiled,
    /// Replaces what the kernel's table says about one address.
    pub set: &'a mut SetAddress<'a>,
    /// CLOCK_BOOTTIME.
    pub now_ns: u64,
}

impl Under<'_> {
    fn refuses(&self, naming: &Naming) -> bool {
        self.rules.policy.mode == mode::ENFORCE && naming.decision.verdict >= verdict::DENY
    }
}

/// What is to be done with a question.
pub enum Course {
    /// Nothing: it is none.
    Drop,
    /// Give this answer.
    Answer(Vec<u8>),
    /// Ask a resolver.
    Ask(Asked),
}

/// A question that waits for its answer.
pub struct Asked {
    /// What is asked, with the number that the asker gave it.
    pub question: Question,
    /// As it came.
    pub bytes: Vec<u8>,
    /// How it came: `udp` or `tcp`.
    pub over: &'static str,
}

/// See the module.
#[derive(Default)]
pub struct Questions {
    table: Table,
    /// Questions that have been answered, for the stream.
    pub answered: Vec<Answered>,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Questions {
    /// Judges a question.
    pub fn ask(&mut self, bytes: &[u8], over: &'static str, under: &Under<'_>) -> Course {
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(Unusable::Malformed) => return Course::Drop,
            Err(Unusable::Unknown) => {
                return message::reply(bytes, Rcode::NOTIMP).map_or(Course::Drop, Course::Answer);
            }
        };
        let naming = under.rules.judge_name(&question.name, &[]);
        // A name with a domain behind it that resolvers try by themselves. What comes of it tells
        // nobody anything, and for a refusal they would not go on to the name itself.
        let is_search = naming.standing == Standing::Extended && under.rules.refuses_unnamed();
        let rcode = match is_search {
            true => Rcode::NXDOMAIN,
            false if under.refuses(&naming) => Rcode::REFUSED,
            false => return Course::Ask(Asked { question, bytes: bytes.to_vec(), over }),
        };
        let resolve = question.event(under.policy, over, &rcode.to_string());
        self.tell(resolve, naming, under);
        message::reply(bytes, rcode).map_or(Course::Drop, Course::Answer)
    }

    /// Takes a resolver's answer, which carries the number `id`: what the asker gets, once the
    /// address table lets it connect to where the answer leads. `None` when it is not the answer.
    pub fn answer(
        &mut self,
        asked: &Asked,
        id: u16,
        answer: &[u8],
        under: &mut Under<'_>,
    ) -> Option<Vec<u8>> {
        let found = Found::read(answer, &Question { id, ..asked.question.clone() })?;
        let mut resolve = asked.question.event(under.policy, asked.over, &found.rcode);
        let Found { aliases, addresses, ttl, .. } = found;
        resolve.bytes = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        (resolve.aliases, resolve.addresses, resolve.ttl) = (aliases, addresses, ttl);
        let naming = under.rules.judge_name(&resolve.name, &resolve.addresses);
        let reply = if found.is_truncated {
            TRUNCATED.clone_into(&mut resolve.rcode);
            message::truncated(&asked.bytes)
        } else if under.refuses(&naming) {
            REFUSED.clone_into(&mut resolve.rcode);
            message::reply(&asked.bytes, Rcode::REFUSED)
        } else if self.let_in(&resolve, &naming, under) {
            Some(message::numbered(answer, asked.question.id))
        } else {
            resolve.addresses.clear();
            FAILED.clone_into(&mut resolve.rcode);
            message::reply(&asked.bytes, Rcode::SERVFAIL)
        };
        self.tell(resolve, naming, under);
        reply
    }

    /// No resolver answers: what the asker gets.
    pub fn unanswered(&mut self, asked: &Asked, under: &Under<'_>) -> Option<Vec<u8>> {
        let naming = under.rules.judge_name(&asked.question.name, &[]);
        self.tell(asked.question.event(under.policy, asked.over, TIMEOUT), naming, under);
        message::reply(&asked.bytes, Rcode::SERVFAIL)
    }

    /// Takes in what `/etc/hosts` says about hosts that rules name.
    pub fn hosts(&mut self, text: &str, under: &mut Under<'_>) {
        for (name, addresses) in super::hosts::parse(text) {
            let naming = under.rules.judge_name(&name, &addresses);
            if naming.standing != Standing::Named {
                continue;
            }
            let (over, rcode) = ("hosts".to_owned(), NOERROR.to_owned());
            let policy = under.policy;
            let resolve = Resolve { policy, name, over, rcode, addresses, ..Resolve::default() };
            if !under.refuses(&naming) {
                self.let_in(&resolve, &naming, under);
            }
            self.tell(resolve, naming, under);
        }
    }

    /// Goes on with the addresses that another's answers led to.
    pub fn take_over(&mut self, other: &Self, under: &mut Under<'_>) {
        if let Err(error) = self.table.take_over(&other.table, under.rules, under.set) {
            self.notes.push(error.to_string());
        }
    }

    /// Takes out what has ceased to hold.
    pub fn expire(&mut self, under: &mut Under<'_>) {
        if let Err(error) = self.table.expire(under.now_ns, under.rules, under.set) {
            self.notes.push(error.to_string());
        }
    }

    /// Whether the address table now lets the server connect to where an answer leads.
    fn let_in(&mut self, resolve: &Resolve, naming: &Naming, under: &mut Under<'_>) -> bool {
        if naming.standing != Standing::Named {
            return true;
        }
        let until_ns = holds_until(resolve.ttl, under.now_ns);
        let Resolve { name, addresses, .. } = resolve;
        let allowed = self.table.allow(name, addresses, until_ns, under.rules, under.set);
        allowed.map_err(|error| self.notes.push(format!("{name}: {error}"))).is_ok()
    }

    fn tell(&mut self, resolve: Resolve, naming: Naming, under: &Under<'_>) {
        let (mode, boot_ns) = (under.rules.policy.mode, clock::boot_ns());
        self.answered.push(Answered { resolve, naming, mode, boot_ns });
    }
}

const NOERROR: &str = "NOERROR";
const REFUSED: &str = "REFUSED";
const FAILED: &str = "SERVFAIL";
/// Of no resolver's: what was asked may have been heard.
pub const TIMEOUT: &str = "TIMEOUT";
const TRUNCATED: &str = "TRUNCATED";
