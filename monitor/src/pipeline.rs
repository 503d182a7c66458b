//! Wiring: what comes out of the rings goes through merge, decoding and enrichment into the
//! sinks; what must be answered is answered as soon as it is read. One thread does it all.

use std::{
    collections::HashMap,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use monitor_common::record::{Record, STRINGS, flags};

use crate::{
    decode::{self, DecodeError},
    enrich::{Clock, Counters, Delivered, Enricher, Merge, Outside, Source, clock},
    event::{Event, Grant, Person, PolicyText},
    kernel::{Kernel, KernelError, Rings},
    launch::Account,
    names::Answered,
    respond::{self, argument},
    rules::Compiled,
    sink::{
        Audience,
        recording::{Notice, SegmentWriter, Totals},
        terminal::Terminal,
    },
};

/// Records taken from a ring before the other one has its turn.
const BATCH: usize = 8192;
/// Events collected before the sinks get them.
const EVENTS: usize = 1024;
/// How long lines may wait in the recording's buffer.
const FLUSH: Duration = Duration::from_millis(200);
/// How often clocks and counters are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Where events end.
pub struct Sinks<W, A> {
    /// The recording.
    pub recording: SegmentWriter,
    /// People's alerts.
    pub terminal: Terminal<W>,
    /// Whoever else looks at every event.
    pub audience: A,
    /// Whose the recording is.
    pub account: Account,
}

impl<W: Write, A> Sinks<W, A> {
    /// Tells the sinks beside the recording what happened to it.
    fn beside(&mut self, notice: &Notice) {
        match notice {
            Notice::Lost(event) => self.terminal.event(event),
            Notice::Checkpoint(chain, checkpoint) => self.terminal.checkpoint(*chain, checkpoint),
            // Too late for the stream.
            Notice::Agent { message, .. } => self.terminal.say(message),
        }
    }
}

/// What a look at the rings has found.
#[derive(Clone, Copy)]
pub struct Look {
    /// There may be more in a ring.
    pub more: bool,
    /// Something was in a ring.
    pub any: bool,
    /// Records wait for earlier ones of the other ring.
    pub holds: bool,
}

/// From rings to sinks.
pub struct Pipeline<W, A> {
    rings: Rings,
    merge: Merge,
    enricher: Enricher,
    policies: HashMap<u32, Arc<Compiled>>,
    sinks: Sinks<W, A>,
    delivered: Delivered,
    events: Vec<Event>,
    /// Findings in questions for hosts, to be answered with the next records.
    owed: Vec<Record>,
    flushed: Instant,
    ticked: Instant,
    lag_ns: u64,
}

impl<W: Write, A: Audience> Pipeline<W, A> {
    /// A pipeline that knows no policy yet, see [`Pipeline::explain`].
    pub fn new(rings: Rings, enricher: Enricher, sinks: Sinks<W, A>) -> Self {
        Self {
            rings,
            merge: Merge::default(),
            enricher,
            policies: HashMap::new(),
            sinks,
            delivered: Delivered::default(),
            events: Vec::with_capacity(EVENTS + EVENTS / 4),
            owed: Vec::new(),
            flushed: Instant::now(),
            ticked: Instant::now(),
            lag_ns: 0,
        }
    }

    /// The rings, to wait on.
    pub fn rings(&self) -> &Rings {
        &self.rings
    }

    /// Makes a policy known by its number: verdicts under it are explained, and it judges again what
    /// the kernel saw as a string.
    pub fn explain(&mut self, policy: u32, compiled: Arc<Compiled>) {
        self.enricher.explain(policy, compiled.clone());
        self.policies.insert(policy, compiled);
    }

    /// A policy that is known.
    pub fn policy(&self, policy: u32) -> Option<Arc<Compiled>> {
        self.policies.get(&policy).cloned()
    }

    /// What has been asked for by name, and what people should know about it.
    pub fn names(&mut self, instance: u32, (answered, notes): (Vec<Answered>, Vec<String>)) {
        self.resolved(instance, answered);
        for note in notes {
            self.agent(instance, "names", &note);
        }
    }

    /// See [`Enricher::outside`].
    pub fn outside(&mut self, instance: u32, mnt_ns: u32, outside: Outside) {
        self.enricher.outside(instance, mnt_ns, outside);
    }

    /// A policy comes into force: it and its instance's name are in the stream from here on.
    pub fn begin(&mut self, policy: PolicyText, compiled: Arc<Compiled>) {
        self.explain(policy.policy, compiled);
        self.enricher.name(policy.instance, &policy.server);
        let event = self.enricher.policy("install", policy);
        self.events.push(event);
        self.deliver();
    }

    /// No record under a policy will come any more.
    pub fn retire(&mut self, policy: PolicyText) {
        let number = policy.policy;
        let event = self.enricher.policy("retire", PolicyText { sources: Vec::new(), ..policy });
        self.events.push(event);
        self.deliver();
        self.enricher.retire(number);
        self.policies.remove(&number);
    }

    /// Takes everything that is in the rings and passes it on, without waiting for earlier records.
    pub fn settle(&mut self, respond: &mut impl FnMut(&Record)) {
        while self.read(respond) {
            self.pass_on(clock::boot_ns(), respond);
        }
        self.pass_on(u64::MAX, respond);
    }

    /// Events that were lost on the way here.
    pub fn lost(&self) -> u64 {
        self.enricher.lost()
    }

    /// Nothing will be heard of an instance any more.
    pub fn forget(&mut self, instance: u32) {
        self.enricher.forget(instance);
    }

    /// The policies that headers of later segments name.
    pub fn set_policies(&mut self, policies: Vec<PolicyText>) {
        self.sinks.recording.set_policies(policies);
    }

    /// The sinks.
    pub fn sinks(&mut self) -> &mut Sinks<W, A> {
        &mut self.sinks
    }

    /// How old the latest record was when the sinks got it, in ns.
    pub fn lag_ns(&self) -> u64 {
        self.lag_ns
    }

    /// Something about the agent itself that belongs into the stream.
    pub fn agent(&mut self, instance: u32, action: &str, message: &str) {
        let event = self.enricher.agent(instance, action, message);
        self.events.push(event);
        self.deliver();
    }

    /// Rights for a while begin or end, see [`Enricher::grant`].
    pub fn grant(&mut self, action: &str, by: Option<Person>, grant: Grant) {
        let event = self.enricher.grant(action, by, grant);
        self.events.push(event);
        self.deliver();
    }

    /// Questions for hosts that the agent has answered.
    pub fn resolved(&mut self, instance: u32, answers: Vec<Answered>) {
        for answered in answers {
            let before = self.events.len();
            self.enricher.resolve(instance, answered, &mut self.events);
            self.owed.extend(self.events[before..].iter().filter_map(respond::of_finding));
        }
        self.deliver();
    }

    /// Something that the kernel programs have not seen.
    pub fn told(&mut self, record: Record, strings: [&[u8]; STRINGS]) {
        let bytes = decode::encode(record, strings);
        if let Ok(decoded) = decode::decode(&bytes) {
            self.enricher.record(&decoded, &mut self.events);
        }
        self.deliver();
    }

    /// Takes what is in the rings, `respond`s, and passes on what is old enough.
    pub fn pump(&mut self, respond: &mut impl FnMut(&Record)) -> Look {
        let before = self.delivered;
        let more = self.read(respond);
        self.pass_on(clock::boot_ns(), respond);
        Look { more, any: self.delivered != before, holds: !self.merge.is_empty() }
    }

    /// Goes on where another process has stopped: what it had recorded of each ring.
    pub fn go_on(self, (events, violations): (u64, u64)) -> Self {
        Self { delivered: Delivered { events, violations, ..self.delivered }, ..self }
    }

    fn read(&mut self, respond: &mut impl FnMut(&Record)) -> bool {
        let Self { rings, merge, policies, delivered, .. } = self;
        let mut more = true;
        for _ in 0..BATCH {
            if merge.is_full() {
                return true;
            }
            let Some(bytes) = rings.violations.next() else {
                more = false;
                break;
            };
            delivered.violations += 1;
            answer(Source::Violations, &bytes, merge, policies, respond);
        }
        for _ in 0..BATCH {
            if merge.is_full() {
                return true;
            }
            let Some(bytes) = rings.events.next() else { return more };
            delivered.events += 1;
            // Allowed by the kernel: only what it judged by a string can still be a violation.
            if decode::flags(&bytes).is_some_and(|bits| bits & flags::ARGUMENT != 0) {
                answer(Source::Events, &bytes, merge, policies, respond);
            } else {
                merge.push(Source::Events, &bytes);
            }
        }
        true
    }

    fn pass_on(&mut self, now_ns: u64, respond: &mut impl FnMut(&Record)) {
        self.owed.drain(..).for_each(|finding| respond(&finding));
        while let Some(bytes) = self.merge.pop(now_ns) {
            if let Some(time_ns) = decode::time_ns(bytes) {
                self.lag_ns = now_ns.saturating_sub(time_ns);
            }
            let before = self.events.len();
            match decode::decode(bytes) {
                Ok(decoded) => self.enricher.record(&decoded, &mut self.events),
                Err(DecodeError::UnknownKind(_)) => self.delivered.unknown += 1,
                Err(_) => self.delivered.undecodable += 1,
            }
            for finding in self.events[before..].iter().filter_map(respond::of_finding) {
                respond(&finding);
            }
            if self.events.len() >= EVENTS {
                self.deliver();
            }
        }
        self.deliver();
    }

    /// Hands the collected events to the sinks.
    fn deliver(&mut self) {
        if self.events.is_empty() && self.flushed.elapsed() < FLUSH {
            return;
        }
        let sinks = &mut self.sinks;
        let _identity = sinks.account.assume_for_files();
        let mut urgent = self.flushed.elapsed() >= FLUSH;
        for event in self.events.drain(..) {
            urgent |= event.is_alert();
            sinks.recording.write(&event);
            sinks.terminal.event(&event);
            sinks.audience.event(&event);
        }
        if urgent {
            sinks.recording.flush();
            self.flushed = Instant::now();
            let (events, violations) = self.merge.held();
            let Delivered { events: all, violations: all_violations, .. } = self.delivered;
            sinks.audience.flushed(all - events, all_violations - violations);
        }
    }

    /// About once a second: follows the wall clock, tells of runs of alerts and of losses.
    pub fn tick<E>(&mut self, counters: impl FnOnce() -> Result<Counters, E>) -> Result<(), E> {
        if self.ticked.elapsed() < TICK {
            return Ok(());
        }
        self.ticked = Instant::now();
        // A reader that was slow may take the rest now; alerts never wait for it.
        self.sinks.terminal.push();
        self.enricher.set_clock(Clock::measure());
        self.enricher.tick(clock::boot_ns(), &mut self.events);
        self.enricher.losses(&counters()?, self.delivered, &mut self.events);
        self.deliver();
        self.notices();
        Ok(())
    }

    /// Passes on what the recording has to say: into the stream, or to the sinks beside it.
    fn notices(&mut self) {
        for notice in self.sinks.recording.notices() {
            match notice {
                Notice::Agent { action, message } => self.agent(0, action, &message),
                notice => self.sinks.beside(&notice),
            }
        }
    }

    /// Takes everything that is left. The sinks are closed, and what became of the recording is
    /// returned with them. `counters` must not count what is produced after this was called.
    pub fn finish<E>(
        mut self,
        respond: &mut impl FnMut(&Record),
        counters: impl FnOnce() -> Result<Counters, E>,
    ) -> Result<(Sinks<W, A>, Totals), E> {
        self.settle(respond);
        self.enricher.end(&mut self.events);
        let counters = counters();
        if let Ok(counters) = &counters {
            self.enricher.close_losses(counters, self.delivered, &mut self.events);
        }
        self.deliver();
        self.notices();
        let totals = {
            let _identity = self.sinks.account.assume_for_files();
            self.sinks.recording.finish()
        };
        self.sinks.audience.flushed(self.delivered.events, self.delivered.violations);
        for notice in self.sinks.recording.notices() {
            self.sinks.beside(&notice);
        }
        counters.map(|_| (self.sinks, totals))
    }
}

/// Answers a record and puts it, as it was judged in the end, among those that wait.
fn answer(
    source: Source,
    bytes: &[u8],
    merge: &mut Merge,
    policies: &HashMap<u32, Arc<Compiled>>,
    respond: &mut impl FnMut(&Record),
) {
    // What cannot be decoded is counted when its turn comes.
    let Ok(decoded) = decode::decode(bytes) else { return merge.push(source, bytes) };
    let policy = policies.get(&decoded.record.policy);
    let Some(judged) = policy.and_then(|policy| argument::rejudge(&decoded, policy)) else {
        respond(&decoded.record);
        return merge.push(source, bytes);
    };
    respond(&judged.record);
    merge.push(source, &decode::amend(&decoded, &judged.record, judged.position, &judged.path));
}

/// The kernel's counters as enrichment takes them.
///
/// # Errors
/// When the kernel does not let them be read.
pub fn counters(kernel: &Kernel) -> Result<Counters, KernelError> {
    let counters = kernel.counters()?;
    Ok(std::array::from_fn(|number| counters[number as u32]))
}
