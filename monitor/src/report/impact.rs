//! What to do now: which secrets were reached and how far they could have got, what to rotate,
//! what to restore, what runs later, and who else touched the same things.

use std::collections::{BTreeMap, HashMap};

use monitor_common::policy::set;

use super::{
    model::{
        Affected, Capped, ChangedFile, Effect, Fate, Impact, Instance, OriginText, Reach, Scope,
        Secret, Shared, SharedBy, Step,
    },
    rotate,
};
use crate::event::Bytes;

/// Entries of each list.
const LIST_MAX: usize = 1000;
const SHARED_MAX: usize = 300;

const PERSISTENCE: &str = set::NAMES[set::PERSISTENCE];
const MCP_CONFIG: &str = set::NAMES[set::MCP_CONFIG];

impl Impact {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rotate.is_empty()
            && self.persistence.is_empty()
            && self.restore.is_empty()
            && self.shared.is_empty()
    }
}

/// The impact of all instances.
pub(super) fn of(origins: &[OriginText], instances: &[Instance]) -> Impact {
    let mut secrets = Capped::default();
    let (mut restore, mut persistence) = (Capped::default(), Capped::default());
    for instance in instances {
        secrets.more += instance.trail.touched.more;
        for step in &instance.trail.touched.items {
            secrets.items.push(secret(instance, step));
        }
        restore.more += instance.changed.more;
        for file in &instance.changed.items {
            let list = if is_persistent(file) { &mut persistence } else { &mut restore };
            if let Some(affected) = affected(instance, file) {
                list.items.push(affected);
            }
        }
    }
    let secrets = once(secrets);
    let order = |a: &Affected, b: &Affected| {
        (a.fate, a.instance, &a.path).cmp(&(b.fate, b.instance, &b.path))
    };
    Impact {
        reach: instances.iter().map(|instance| instance.trail.reach).max().unwrap_or_default(),
        rotate: rotate::of(&secrets.items),
        secrets: secrets
            .sorted(LIST_MAX, |a, b| (b.effect, b.reach, a.time).cmp(&(a.effect, a.reach, b.time))),
        restore: restore.sorted(LIST_MAX, order),
        persistence: persistence.sorted(LIST_MAX, order),
        shared: shared(origins, instances),
    }
}

fn secret(instance: &Instance, step: &Step) -> Secret {
    let reach = step.reach.unwrap_or_default();
    let mut later = instance.trail.sent.items.iter().filter(|sent| {
        let is_elsewhere = sent.scope.is_some_and(Scope::is_elsewhere);
        (sent.boot_ns, sent.seq) > (step.boot_ns, step.seq)
            && sent.effect != Effect::Refused
            && is_elsewhere == (reach == Reach::Network)
    });
    Secret {
        subject: step.subject.clone(),
        sets: step.sets.clone(),
        instance: instance.instance,
        effect: step.effect,
        reach,
        then: later.next().filter(|_| reach > Reach::Process).map(|sent| sent.subject.clone()),
        time: step.time,
    }
}

/// Each secret once for each instance, as far as it got at worst.
fn once(secrets: Capped<Secret>) -> Capped<Secret> {
    let mut known: HashMap<(u32, Bytes), usize> = HashMap::new();
    let mut items: Vec<Secret> = Vec::new();
    for secret in secrets.items {
        match known.get(&(secret.instance, secret.subject.clone())) {
            Some(&at) if (items[at].effect, items[at].reach) >= (secret.effect, secret.reach) => {}
            Some(&at) => items[at] = secret,
            None => {
                known.insert((secret.instance, secret.subject.clone()), items.len());
                items.push(secret);
            }
        }
    }
    Capped { items, more: secrets.more }
}

fn is_persistent(file: &ChangedFile) -> bool {
    file.sets.iter().any(|set| [PERSISTENCE, MCP_CONFIG].contains(set))
}

fn affected(instance: &Instance, file: &ChangedFile) -> Option<Affected> {
    let advice = match (is_persistent(file), file.fate) {
        (_, Fate::Untouched) => return None,
        (false, Fate::Temporary) => return None,
        (true, Fate::Temporary) => "look whether it was used while it was there",
        (true, Fate::Created) => "remove it",
        (true, Fate::Changed) => "compare with a good copy and restore",
        (true, Fate::Attributes) => "compare mode, owner and attributes with a good copy",
        (false, Fate::Created) => "look at it, or remove it",
        (false, Fate::Changed) => "restore from a backup, or compare",
        (false, Fate::Attributes) => "compare mode, owner, attributes and times",
        (_, Fate::Deleted) => match &file.other {
            Some(_) => "it has another name now; move it back",
            None => "restore from a backup",
        },
    };
    Some(Affected {
        path: file.path.clone(),
        instance: instance.instance,
        fate: file.fate,
        other: file.other.clone(),
        sets: file.sets.clone(),
        advice,
        time: file.span.to,
    })
}

/// What one instance changed, reached as a secret or contacted elsewhere, and another one touched
/// on the same host.
fn shared(origins: &[OriginText], instances: &[Instance]) -> Capped<Shared> {
    type Touches<'a> = BTreeMap<(&'a str, &'a Bytes), Vec<(usize, &'static str)>>;
    let mut touches: Touches<'_> = BTreeMap::new();
    for (number, instance) in instances.iter().enumerate() {
        let host = origins.get(instance.origin).map_or("", |origin| origin.host.as_str());
        let mut touch = |subject, how| {
            let by = touches.entry((host, subject)).or_default();
            if !by.contains(&(number, how)) {
                by.push((number, how));
            }
        };
        let changed = instance.changed.items.iter();
        changed
            .filter(|file| file.fate != Fate::Untouched)
            .for_each(|file| touch(&file.path, "changed"));
        let secrets = instance.trail.touched.items.iter();
        secrets
            .filter(|step| step.effect != Effect::Refused)
            .for_each(|step| touch(&step.subject, "secret"));
        for directory in &instance.read.items {
            directory.names.items.iter().for_each(|path| touch(path, "read"));
        }
        let contacts =
            instance.contacts.items.iter().filter(|contact| contact.scope.is_elsewhere());
        contacts.for_each(|contact| touch(&contact.subject, "contacted"));
    }
    let mut list = Capped::default();
    for ((host, subject), by) in touches {
        let is_shared = by.iter().any(|(number, _)| *number != by[0].0);
        if !is_shared || by.iter().all(|(_, how)| *how == "read") {
            continue;
        }
        let by = by.into_iter().map(|(number, how)| SharedBy {
            instance: instances[number].instance,
            server: instances[number].server.clone(),
            how,
        });
        let shared = Shared { subject: subject.clone(), host: host.to_owned(), by: by.collect() };
        list.push(shared, SHARED_MAX);
    }
    list
}
