//! What root does about an instance or a server that is not to be trusted any more: it is cut off
//! from networks, or stopped and kept from starting.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    grants::{Check, person},
    request::{Caller, Isolated, Refusal},
    state,
    watch::Watch,
};
use crate::{
    enrich::Clock,
    event::{Person, format_time},
    rules,
};

/// Servers that can be in quarantine.
const QUARANTINED_MAX: usize = 1024;

/// Since when, and by whom.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Held {
    since: String,
    by: Person,
}

/// Servers that may not start. They are kept across restarts of the host.
pub struct Quarantine {
    file: PathBuf,
    servers: BTreeMap<String, Held>,
}

impl Quarantine {
    /// What a file says; nothing when there is none.
    ///
    /// # Errors
    /// When it cannot be read: whoever is in quarantine must not get out of it that way.
    pub fn read(file: &Path) -> io::Result<Self> {
        let servers = match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file: file.to_owned(), servers })
    }

    /// Names of the servers.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.servers.keys()
    }

    /// Refuses a server that is in quarantine.
    ///
    /// # Errors
    /// Says since when.
    pub fn check(&self, server: Option<&str>) -> Result<(), Refusal> {
        let server = server.unwrap_or(rules::DEFAULT);
        let Some(Held { since, by }) = self.servers.get(server) else { return Ok(()) };
        Err(Refusal::Forbidden(format!(
            "server {server} is in quarantine since {since}, by {}: root lets it start again with \
             `mcp-monitor quarantine {server} --release`",
            by.user
        )))
    }

    fn change(&mut self, server: &str, held: Option<Held>) -> io::Result<()> {
        let mut servers = self.servers.clone();
        match held {
            Some(held) => servers.insert(server.to_owned(), held),
            None => servers.remove(server),
        };
        state::replace(&self.file, &servers)?;
        self.servers = servers;
        Ok(())
    }
}

impl Watch {
    /// Cuts an instance off from IP networks, or connects it again; its rules then decide as before.
    ///
    /// # Errors
    /// When there is no such instance, it cannot be cut off at all, or the kernel refuses: then
    /// nothing has changed.
    pub(super) fn isolate(
        &mut self,
        caller: Caller,
        number: u32,
        isolated: bool,
    ) -> Result<Isolated, Refusal> {
        let Some(instance) = self.instances.get_mut(&number) else {
            return Err(Refusal::NotFound(format!("there is no instance {number}")));
        };
        let connections_go_on = isolated && instance.tree.place().is_none();
        if connections_go_on && !instance.policy.is_enforced() {
            return Err(Refusal::Failed(format!(
                "instance {number} was started by others and is in observe: nothing can be kept \
                 from it, and only `stop` ends what it does"
            )));
        }
        let before = std::mem::replace(&mut instance.isolated, isolated);
        if let Err(refusal) =
            self.cut_off(number).and_then(|()| self.settle(number, Check::Nothing))
        {
            if let Some(instance) = self.instances.get_mut(&number) {
                instance.isolated = before;
            }
            // As it was: the one of the two that was refused has changed nothing.
            let _ = self.cut_off(number).and_then(|()| self.settle(number, Check::Nothing));
            return Err(refusal);
        }
        self.save(number);
        self.name_policies();
        let Person { user, .. } = person(caller);
        let message = match isolated {
            true => format!("instance {number} is cut off from IP networks, by {user}"),
            false => format!("instance {number} reaches networks again, by {user}"),
        };
        self.pipeline.agent(number, "isolate", &message);
        Ok(Isolated { isolated, connections_go_on })
    }

    /// Has the kernel drop the packets of an isolated instance, and of no other.
    pub(super) fn cut_off(&mut self, number: u32) -> Result<(), Refusal> {
        let Some(instance) = self.instances.get(&number) else { return Ok(()) };
        let done = match (instance.isolated, instance.tree.place()) {
            (true, Some(cgroup)) => self.kernel.isolate(number, cgroup),
            _ => self.kernel.end_isolation(number),
        };
        done.map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// Stops all instances of a server and lets none begin, or lets them begin again; the instances
    /// that are stopped.
    ///
    /// # Errors
    /// When there is no such server, or it cannot be written down: then nothing has changed.
    pub(super) fn quarantine(
        &mut self,
        caller: Caller,
        server: &str,
        hold: bool,
    ) -> Result<Vec<u32>, Refusal> {
        let is_held = self.quarantine.servers.contains_key(server);
        if !hold && !is_held {
            return Err(Refusal::NotFound(format!("server {server} is not in quarantine")));
        }
        if hold && !is_held {
            self.check_server(server)?;
            if self.quarantine.servers.len() >= QUARANTINED_MAX {
                let message = format!("{QUARANTINED_MAX} servers are in quarantine: release some");
                return Err(Refusal::Wrong(message));
            }
        }
        let by = person(caller);
        let message = match hold {
            true => format!("server {server} is in quarantine, by {}", by.user),
            false => format!("server {server} may start again, by {}", by.user),
        };
        if hold != is_held {
            let now = Clock::measure();
            let since = format_time(now.wall_ns(crate::enrich::clock::boot_ns()));
            let held = hold.then_some(Held { since, by });
            self.quarantine.change(server, held).map_err(|error| {
                let file = self.quarantine.file.display();
                Refusal::Failed(format!("{file}: {error}: nothing has changed"))
            })?;
            self.pipeline.agent(0, "quarantine", &message);
        }
        let mut stopped = Vec::new();
        let own = self.instances.iter_mut().filter(|(_, one)| hold && one.policy.server == server);
        for (number, instance) in own {
            instance.end(None);
            stopped.push(*number);
        }
        Ok(stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        Held { since: "2026".to_owned(), by: Person { uid: 1000, user: "ada".to_owned() } }
    }

    #[test]
    fn quarantine_outlives_the_agent_until_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quarantine.json");
        let mut own = Quarantine::read(&file).unwrap();
        own.change("s", Some(held())).unwrap();
        let mut next = Quarantine::read(&file).unwrap();
        let refused = next.check(Some("s")).unwrap_err().to_string();
        assert!(refused.contains("2026") && refused.contains("ada"), "{refused}");
        next.check(Some("other")).unwrap();
        next.check(None).unwrap();
        next.change("s", None).unwrap();
        Quarantine::read(&file).unwrap().check(Some("s")).unwrap();
    }

    #[test]
    fn a_file_that_says_nothing_releases_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quarantine.json");
        fs::write(&file, "{\"s\":").unwrap();
        assert!(Quarantine::read(&file).is_err());
    }

    #[test]
    fn what_cannot_be_written_down_has_not_happened() {
        let folder = tempfile::tempdir().unwrap();
        let mut own = Quarantine::read(&folder.path().join("no/quarantine.json")).unwrap();
        assert!(own.change("s", Some(held())).is_err());
        own.check(Some("s")).unwrap();
    }
}
