//! DNS messages (RFC 1035), as far as the agent has to understand them: what is asked, where an
//! answer leads, and answers of its own. All else goes through as it is.

use domain::{
    base::{
        Message, MessageBuilder, ParsedName, Rtype, ToName,
        iana::{Class, Opcode, Rcode},
    },
    rdata::{A, Aaaa, Cname},
};
use monitor_common::network::mapped_v4;

use crate::event::Resolve;

/// Bytes of the header (RFC 1035, 4.1.1), which begins with the message's number.
const HEADER: usize = 12;
/// Names that a name may stand for, one behind the other; the resolver follows no more.
const ALIASES_MAX: usize = 16;
/// Addresses of one answer.
const FOUND_MAX: usize = 256;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Number of the message.
    pub id: u16,
    /// In lower case, without a dot at its end; unusual bytes as `\DDD`.
    pub name: String,
    /// What is asked for.
    pub record: Rtype,
}

/// What cannot be asked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No question, or none that can be read.
    Malformed,
    /// A question of another kind than for records of the internet.
    Unknown,
}

impl Question {
    /// Reads a question.
    pub fn read(bytes: &[u8]) -> Result<Self, Unusable> {
        let message = Message::from_octets(bytes).map_err(|_| Unusable::Malformed)?;
        let header = message.header();
        if header.qr() {
            return Err(Unusable::Malformed);
        }
        if header.opcode() != Opcode::QUERY {
            return Err(Unusable::Unknown);
        }
        Self::of(&message).ok_or(Unusable::Malformed)?
    }

    fn of(message: &Message<&[u8]>) -> Option<Result<Self, Unusable>> {
        let question = message.sole_question().ok()?;
        if question.qclass() != Class::IN {
            return Some(Err(Unusable::Unknown));
        }
        let (id, record) = (message.header().id(), question.qtype());
        Some(Ok(Self { id, name: text(question.qname()), record }))
    }

    /// The event of this question, without an answer.
    pub fn event(&self, policy: u32, over: &str, rcode: &str) -> Resolve {
        Resolve {
            policy,
            name: self.name.clone(),
            record: self.record.to_string(),
            over: over.to_owned(),
            rcode: rcode.to_owned(),
            ..Resolve::default()
        }
    }
}

/// Where an answer leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What the answer says: `NOERROR`, `NXDOMAIN`, ….
    pub rcode: String,
    /// The whole of it did not fit in a datagram.
    pub is_truncated: bool,
    /// Names that the name stands for.
    pub aliases: Vec<String>,
    /// Addresses of the last of them.
    pub addresses: Vec<[u8; 16]>,
    /// For how long that holds, in seconds.
    pub ttl: Option<u32>,
}

impl Found {
    /// Reads the answer to a question; `None` when it is none.
    pub fn read(bytes: &[u8], question: &Question) -> Option<Self> {
        let message = Message::from_octets(bytes).ok()?;
        let header = message.header();
        let answered = Question::of(&message)?.ok()?;
        if !header.qr() || answered != *question {
            return None;
        }
        let mut found = Self {
            rcode: header.rcode().to_string(),
            is_truncated: header.tc(),
            ..Self::default()
        };
        if !found.is_truncated {
            found.follow(&message)?;
        }
        Some(found)
    }

    /// Follows the names from the one that was asked for to addresses.
    fn follow(&mut self, message: &Message<&[u8]>) -> Option<()> {
        let mut name = *message.sole_question().ok()?.qname();
        for _ in 0..ALIASES_MAX {
            let Some((ttl, next)) = alias(message, &name)? else { break };
            self.aliases.push(text(&next));
            self.hold(ttl);
            name = next;
        }
        let answer = message.answer().ok()?;
        for record in answer.limit_to_in::<A>() {
            let record = record.ok()?;
            if record.owner().name_eq(&name) {
                self.address(mapped_v4(record.data().addr().to_bits()), record.ttl().as_secs())?;
            }
        }
        let answer = message.answer().ok()?;
        for record in answer.limit_to_in::<Aaaa>() {
            let record = record.ok()?;
            if record.owner().name_eq(&name) {
                self.address(record.data().addr().octets(), record.ttl().as_secs())?;
            }
        }
        Some(())
    }

    fn address(&mut self, address: [u8; 16], ttl: u32) -> Option<()> {
        self.hold(ttl);
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
        (self.addresses.len() <= FOUND_MAX).then_some(())
    }

    fn hold(&mut self, ttl: u32) {
        self.ttl = Some(self.ttl.map_or(ttl, |before| before.min(ttl)));
    }
}

/// The name that `name` stands for, with the time that this holds.
#[expect(clippy::type_complexity, reason = "nothing found and nothing readable are told apart")]
fn alias<'a>(
    message: &'a Message<&'a [u8]>,
    name: &ParsedName<&'a [u8]>,
) -> Option<Option<(u32, ParsedName<&'a [u8]>)>> {
    for record in message.answer().ok()?.limit_to_in::<Cname<_>>() {
        let record = record.ok()?;
        if record.owner().name_eq(name) {
            return Some(Some((record.ttl().as_secs(), *record.data().cname())));
        }
    }
    Some(None)
}

/// A name as people write it.
fn text(name: &impl ToName) -> String {
    name.fmt_with_dot().to_string().trim_end_matches('.').to_ascii_lowercase()
}

/// A message with another number.
pub fn numbered(bytes: &[u8], id: u16) -> Vec<u8> {
    let mut message = bytes.to_vec();
    if let Some(number) = message.get_mut(..2) {
        number.copy_from_slice(&id.to_be_bytes());
    }
    message
}

/// An answer of our own to a question: no records, only what became of it.
pub fn reply(question: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let message = Message::from_octets(question).ok()?;
    let mut answer = MessageBuilder::new_vec().start_answer(&message, rcode).ok()?;
    answer.header_mut().set_ra(true);
    Some(answer.finish())
}

/// Tells who asked by datagram to ask by stream.
pub fn truncated(question: &[u8]) -> Option<Vec<u8>> {
    let mut message = reply(question, Rcode::NOERROR)?;
    debug_assert!(message.len() >= HEADER);
    Message::from_octets(message.as_mut_slice()).ok()?.header_mut().set_tc(true);
    Some(message)
}
