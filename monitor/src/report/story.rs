//! An instance's incident as numbered steps: what HTML draws on the timeline and lists beneath it.

use super::model::{Effect, Instance, Step};

/// Steps that are told.
const STEPS_MAX: usize = 120;

/// What a step is to the incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A connection from before the first secret.
    Before,
    /// A file written that may hold a copy.
    Copy,
    /// A contact that stays on this machine.
    Near,
    /// A place from where something runs later.
    Placed,
    /// A contact with another machine.
    Far,
    /// A secret.
    Secret,
}

impl Kind {
    /// Its class in CSS.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Copy => "copy",
            Self::Near => "near",
            Self::Placed => "placed",
            Self::Far => "far",
            Self::Secret => "secret",
        }
    }
}

/// One step.
pub(super) struct Numbered<'a> {
    pub number: usize,
    pub kind: Kind,
    pub step: &'a Step,
    /// Time since the first step, ns.
    pub after_ns: u64,
}

impl Numbered<'_> {
    /// Whether nothing came of it.
    pub(super) fn is_refused(&self) -> bool {
        self.step.effect == Effect::Refused
    }

    /// Whether the process was killed for it, perhaps too late.
    pub(super) fn is_perhaps(&self) -> bool {
        self.step.effect == Effect::Perhaps
    }

    /// What was done, as a verb.
    pub(super) fn deed(&self) -> &'static str {
        match (self.step.what, self.step.effect) {
            ("read", Effect::Refused) => "is refused",
            ("read", _) => "reads",
            ("write", Effect::Refused) => "is refused writing",
            ("write", _) => "writes",
            ("connect" | "unix", Effect::Refused) => "is refused contact with",
            ("connect" | "unix", _) => "contacts",
            ("send", Effect::Refused) => "is refused sending to",
            ("send", _) => "sends to",
            (_, Effect::Refused) => "is refused",
            _ => "reaches",
        }
    }
}

/// The steps in their order, and how many more there are.
pub(super) fn of(instance: &Instance) -> (Vec<Numbered<'_>>, u64) {
    let trail = &instance.trail;
    let far = |step: &Step| match step.scope {
        Some(scope) if scope.is_elsewhere() => Kind::Far,
        _ => Kind::Near,
    };
    let mut steps: Vec<(Kind, &Step)> = Vec::new();
    steps.extend(trail.touched.items.iter().map(|step| (Kind::Secret, step)));
    steps.extend(trail.placed.items.iter().map(|step| (Kind::Placed, step)));
    steps.extend(trail.sent.items.iter().map(|step| (far(step), step)));
    if !trail.touched.is_empty() {
        steps.extend(trail.open_before.items.iter().map(|step| (Kind::Before, step)));
        steps.extend(trail.copies.items.iter().map(|step| (Kind::Copy, step)));
    }
    let all = steps.len()
        + [&trail.touched, &trail.placed, &trail.sent].map(|list| list.more).iter().sum::<u64>()
            as usize;
    // Of too many those that weigh least go first.
    steps.sort_by_key(|(kind, step)| (std::cmp::Reverse(*kind), step.boot_ns, step.seq));
    steps.truncate(STEPS_MAX);
    steps.sort_by_key(|(_, step)| (step.boot_ns, step.seq));
    let first = steps.first().map_or(0, |(_, step)| step.boot_ns);
    let more = (all - steps.len()) as u64;
    let numbered = steps.into_iter().enumerate().map(|(place, (kind, step))| Numbered {
        number: place + 1,
        kind,
        step,
        after_ns: step.boot_ns.saturating_sub(first),
    });
    (numbered.collect(), more)
}
