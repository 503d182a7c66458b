//! Rights for a while: given by root, in force by themselves, and gone again by themselves.
//!
//! A grant is lines of rules. The policy in force of each instance that is meant is compiled again
//! with them and replaced in one step; when a grant ends the same happens without them. Rule files
//! are not read for it, so that a grant ends whatever stands in them by then. Where no agent runs
//! when the first grant of an instance ends, the kernel programs go on under its rules with nothing
//! granted, which stand by for it; the next agent gives back what is not over.

use std::{collections::BTreeSet, fs, sync::Arc};

use super::{
    instances,
    request::{Caller, Give, Given, Refusal},
    state::{SavedGrants, StateDirectory},
    watch::Watch,
};
use crate::{
    enrich::clock::{self, Clock},
    event::{Grant, Person, format_time},
    kernel::Backend,
    launch::account,
    rules::{self, SearchPath, Source, SourceKind},
};

/// Grants at one time.
const GRANTS_MAX: usize = 256;
/// Entries of one grant.
const ENTRIES_MAX: usize = 64;
/// Longest time, in seconds. What is needed for longer belongs into the rules.
const SECONDS_MAX: u64 = 7 * 24 * 60 * 60;
const SECOND_NS: u64 = 1_000_000_000;

/// What is looked at before a policy is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Whether what is granted is allowed by it.
    Effect,
    /// Nothing: something is to be taken away.
    Nothing,
}

/// The grants that are in force or not yet taken away.
pub struct Grants {
    saved: SavedGrants,
    /// With their lines as rules take them in, in the same order.
    sources: Vec<Arc<Source>>,
    /// Those whose end has failed, so that it is told once.
    overdue: BTreeSet<u32>,
}

impl Grants {
    /// Those of the agent before. What cannot be read was not given: its end is told in words.
    pub fn of_agent_before(state: &StateDirectory) -> (Self, Option<String>) {
        let (mut saved, wrong) = match state.grants() {
            Ok(saved) => (saved, None),
            Err(error) => {
                let wrong = format!("grants of the agent before are taken away: {error}");
                (SavedGrants::default(), Some(wrong))
            }
        };
        let mut sources = Vec::new();
        saved.given.retain(|grant| match rules::parse_grant(grant.id, &grant.rules) {
            Ok(source) => {
                sources.push(source);
                true
            }
            Err(_) => false,
        });
        (Self { saved, sources, overdue: BTreeSet::new() }, wrong)
    }

    /// All that are in force.
    pub fn list(&self) -> &[Grant] {
        &self.saved.given
    }

    /// What an instance of a server has now, with its lines; `None`: one that is about to begin.
    fn of(
        &self,
        server: &str,
        instance: Option<u32>,
    ) -> impl Iterator<Item = (&Grant, &Arc<Source>)> {
        let now_ns = clock::boot_ns();
        let both = self.saved.given.iter().zip(&self.sources);
        both.filter(move |(grant, _)| {
            grant.server == server
                && grant.until_ns > now_ns
                && (grant.instance.is_none() || grant.instance == instance)
        })
    }

    /// When the first of them ends that an instance has now, CLOCK_BOOTTIME, ns.
    pub(super) fn first_end(&self, server: &str, instance: u32) -> Option<u64> {
        self.of(server, Some(instance)).map(|(grant, _)| grant.until_ns).min()
    }

    fn add(&mut self, grant: Grant, source: Arc<Source>) {
        self.saved.last = grant.id;
        self.saved.given.push(grant);
        self.sources.push(source);
    }

    fn remove(&mut self, id: u32) -> Option<Grant> {
        let at = self.saved.given.iter().position(|grant| grant.id == id)?;
        self.sources.remove(at);
        self.overdue.remove(&id);
        Some(self.saved.given.remove(at))
    }
}

impl Watch {
    /// Where rules of a server are, with what is granted to it.
    pub(super) fn search_of(&self, server: Option<&str>, instance: Option<u32>) -> SearchPath {
        let server = server.unwrap_or(rules::DEFAULT);
        self.search.clone().with_grants(self.layers(server, instance))
    }

    /// What stands behind the rules of an instance, or of one that is about to begin.
    fn layers(&self, server: &str, instance: Option<u32>) -> Vec<Arc<Source>> {
        let granted = self.grants.of(server, instance).map(|(_, source)| source.clone());
        granted
            .chain(instance.into_iter().flat_map(|number| self.layers_without_grants(number)))
            .collect()
    }

    /// What stands there though nothing is granted.
    pub(super) fn layers_without_grants(&self, number: u32) -> Vec<Arc<Source>> {
        let isolated = self.instances.get(&number).is_some_and(|instance| instance.isolated);
        // A refusal of theirs is a kill on the other one, and isolation is to end no server.
        let sockets = self.kernel.backend() == Backend::Lsm;
        isolated.then(|| rules::isolation(sockets)).into_iter().collect()
    }

    /// Gives rights for a while.
    ///
    /// # Errors
    /// Says what is wrong with them, or why they would allow nothing. Then nothing is given.
    pub(super) fn give(&mut self, caller: Caller, give: &Give) -> Result<Given, Refusal> {
        check(give)?;
        if self.grants.list().len() >= GRANTS_MAX {
            return Err(Refusal::Wrong(format!(
                "there are {GRANTS_MAX} grants: revoke some first"
            )));
        }
        let server = self.server_of(give)?;
        let now_ns = clock::boot_ns();
        let until_ns = now_ns + give.seconds * SECOND_NS;
        let grant = Grant {
            id: self.grants.saved.last + 1,
            server,
            instance: give.instance,
            rules: lines(give),
            by: person(caller),
            until_ns,
            until: format_time(Clock::measure().wall_ns(until_ns)),
        };
        let source = rules::parse_grant(grant.id, &grant.rules);
        let source = source.map_err(|error| Refusal::Wrong(error.to_string()))?;
        self.grants.add(grant.clone(), source);
        match self.settle_all(&grant, Check::Effect) {
            Ok(instances) => {
                self.pipeline.grant("give", Some(grant.by.clone()), grant.clone());
                self.save_grants();
                Ok(Given { grant, instances })
            }
            Err(refusal) => {
                self.grants.remove(grant.id);
                // They had it not a moment ago, and can do without.
                let _ = self.settle_all(&grant, Check::Nothing);
                Err(refusal)
            }
        }
    }

    /// Takes rights away before their time.
    ///
    /// # Errors
    /// When there is no such grant, or the kernel refuses: then they are still there.
    pub(super) fn revoke(&mut self, caller: Caller, id: u32) -> Result<Given, Refusal> {
        let missing = || Refusal::NotFound(format!("there is no grant {id}"));
        let at = self.grants.list().iter().position(|grant| grant.id == id).ok_or_else(missing)?;
        // What cannot be taken away at once is tried again, as with what is over.
        let until_ns = std::mem::take(&mut self.grants.saved.given[at].until_ns);
        let mut grant = self.grants.saved.given[at].clone();
        let instances = self.settle_all(&grant, Check::Nothing)?;
        grant.until_ns = until_ns;
        self.grants.remove(id);
        self.pipeline.grant("revoke", Some(person(caller)), grant.clone());
        self.save_grants();
        Ok(Given { grant, instances })
    }

    /// Takes away what is over; called about once a second.
    pub(super) fn expire_grants(&mut self) {
        let now_ns = clock::boot_ns();
        let is_over = |grant: &&Grant| grant.until_ns <= now_ns;
        let over: Vec<Grant> = self.grants.list().iter().filter(is_over).cloned().collect();
        for grant in over {
            match self.settle_all(&grant, Check::Nothing) {
                Ok(_) => {
                    self.grants.remove(grant.id);
                    self.pipeline.grant("expire", None, grant);
                    self.save_grants();
                }
                Err(refusal) => self.still_granted(&grant, &refusal),
            }
        }
    }

    /// At the start of an agent: instances have what is granted to them now, and nothing else.
    pub(super) fn settle_grants(&mut self) {
        let own = self.grants.list().iter().filter_map(|grant| grant.instance);
        for number in own.collect::<BTreeSet<u32>>() {
            if !self.instances.contains_key(&number) {
                self.end_grants(number);
            }
        }
        self.expire_grants();
        let numbers: Vec<u32> = self.instances.keys().copied().collect();
        for number in numbers {
            let settled = self.cut_off(number).and_then(|()| self.settle(number, Check::Nothing));
            if let Err(refusal) = settled {
                let message = format!("what was granted is still in force: {refusal}");
                self.pipeline.agent(number, "grant", &message);
            }
        }
    }

    /// An instance has ended, and what was granted to it alone.
    pub(super) fn end_grants(&mut self, number: u32) {
        let own = |grant: &&Grant| grant.instance == Some(number);
        let ended: Vec<u32> = self.grants.list().iter().filter(own).map(|grant| grant.id).collect();
        for grant in ended.iter().filter_map(|id| self.grants.remove(*id)).collect::<Vec<_>>() {
            self.pipeline.grant("end", None, grant);
        }
        if !ended.is_empty() {
            self.save_grants();
        }
    }

    fn still_granted(&mut self, grant: &Grant, refusal: &Refusal) {
        if self.grants.overdue.insert(grant.id) {
            let message = format!("{grant}: it is over, and cannot be taken away yet: {refusal}");
            self.pipeline.agent(grant.instance.unwrap_or(0), "grant", &message);
        }
    }

    /// Brings what is granted into force for all instances that a grant is about.
    fn settle_all(&mut self, grant: &Grant, check: Check) -> Result<Vec<u32>, Refusal> {
        let is_meant = |number: u32, server: &str| {
            grant.instance.map_or(server == grant.server, |instance| instance == number)
        };
        let all = self.instances.iter().filter(|(_, instance)| instance.ending.is_none());
        let meant = all.filter(|(number, one)| is_meant(**number, &one.policy.server));
        let numbers: Vec<u32> = meant.map(|(number, _)| *number).collect();
        numbers.iter().try_for_each(|number| self.settle(*number, check))?;
        self.name_policies();
        Ok(numbers)
    }

    /// Puts an instance under its rules with what is granted to it now.
    pub(super) fn settle(&mut self, number: u32, check: Check) -> Result<(), Refusal> {
        let Some(instance) = self.instances.get(&number) else { return Ok(()) };
        let grants = self.layers(&instance.policy.server, Some(number));
        let texts = grants.iter().map(|source| &source.text);
        let ends = self.grants.first_end(&instance.policy.server, number);
        if instance.standby.as_ref().map(|standby| standby.until_ns) == ends
            && rules::granted(&instance.policy).map(|source| &source.text).eq(texts)
        {
            return Ok(());
        }
        let root = self.by_others(number).and_then(|others| others.root);
        let loaded = rules::load_granted(&instance.policy, &grants, &self.search, root.as_ref())
            .map_err(|error| Refusal::Wrong(error.to_string()))?
            .ok_or_else(|| Refusal::Failed("its rules are not known in full".to_owned()))?;
        let compiled = instances::compile(&mut self.tables, &loaded)?;
        if check == Check::Effect {
            let pointless = rules::without_effect(&loaded, &compiled);
            if !pointless.is_empty() {
                return Err(Refusal::Wrong(pointless.join("\n")));
            }
        }
        self.replace(number, &loaded, &compiled)?;
        self.save(number);
        Ok(())
    }

    /// The server that a grant is for, if there is such a one.
    fn server_of(&self, give: &Give) -> Result<String, Refusal> {
        match (&give.server, give.instance) {
            (None, Some(number)) => match self.instances.get(&number) {
                Some(instance) => Ok(instance.policy.server.clone()),
                None => Err(Refusal::NotFound(format!("there is no instance {number}"))),
            },
            (Some(server), None) => self.check_server(server).map(|()| server.clone()),
            _ => Err(Refusal::Wrong("a grant is for a server or for an instance".to_owned())),
        }
    }

    /// Refuses a name that no server has.
    pub(super) fn check_server(&self, server: &str) -> Result<(), Refusal> {
        let runs = self.instances.values().any(|one| one.policy.server == server);
        let names = self.search.names(SourceKind::Server);
        if runs || names.is_ok_and(|names| names.iter().any(|name| name == server)) {
            return Ok(());
        }
        Err(Refusal::NotFound(format!(
            "there is no server {server}: none runs, and no rules are for it"
        )))
    }

    fn save_grants(&mut self) {
        if let Err(error) = self.state.save_grants(&self.grants.saved) {
            let message = format!(
                "grants cannot be saved: {error}: the next agent would take away what it does not \
                 know"
            );
            self.pipeline.agent(0, "state", &message);
        }
    }
}

fn check(give: &Give) -> Result<(), Refusal> {
    let entries: usize = give.lists().iter().map(|(_, list)| list.len()).sum();
    let wrong = match () {
        () if entries == 0 => "a grant names something to read, write, execute or connect to",
        () if entries > ENTRIES_MAX => "a grant has 64 entries at most",
        () if !(1..=SECONDS_MAX).contains(&give.seconds) => {
            "a grant is for a second or more, and 7 days at most: what is needed for longer \
             belongs into the rules"
        }
        () => return Ok(()),
    };
    Err(Refusal::Wrong(wrong.to_owned()))
}

/// A grant as lines of a rule file.
fn lines(give: &Give) -> String {
    let mut text = String::new();
    for (list, entries) in give.lists().into_iter().filter(|(_, entries)| !entries.is_empty()) {
        let entries = entries.iter().map(|entry| entry.as_str().into()).collect();
        text += &format!("{list} = {}\n", toml::Value::Array(entries));
    }
    text
}

/// Who asks, as far as can be known.
pub(super) fn person(caller: Caller) -> Person {
    let login = fs::read_to_string(format!("/proc/{}/loginuid", caller.pid)).ok();
    let login = login.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != u32::MAX);
    let uid = login.unwrap_or(caller.uid);
    let user = account::name_of(uid).unwrap_or_else(|| uid.to_string());
    Person { uid, user }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(read: &[&str], seconds: u64) -> Give {
        Give { read: read.iter().map(ToString::to_string).collect(), seconds, ..Give::default() }
    }

    #[test]
    fn entries_cannot_leave_their_list() {
        let mut give = give(&["/srv/a", "/x\"]\nresponse.mode = \"observe\"\n#"], 60);
        give.connect = vec!["10.0.0.1:443".to_owned()];
        let table: toml::Table = lines(&give).parse().unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["files", "network"]);
        assert_eq!(table["files"]["read"].as_array().unwrap().len(), 2);
        assert!(rules::parse_grant(1, &lines(&self::give(&["/srv/a"], 60))).is_ok());
    }

    #[test]
    fn what_is_nothing_or_for_ever_is_refused() {
        assert!(check(&give(&[], 60)).is_err());
        assert!(check(&give(&["/a"], 0)).is_err());
        assert!(check(&give(&["/a"], SECONDS_MAX + 1)).is_err());
        assert!(check(&give(&["/a"; ENTRIES_MAX + 1], 60)).is_err());
        assert!(check(&give(&["/a"], SECONDS_MAX)).is_ok());
    }

    #[test]
    fn variables_and_what_is_no_pattern_are_refused() {
        for entry in ["relative", "${HOME}/x", "/a/"] {
            let parsed = rules::parse_grant(1, &lines(&give(&[entry], 60)));
            assert!(parsed.is_err(), "{entry}");
        }
    }
}
