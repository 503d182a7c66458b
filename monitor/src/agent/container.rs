//! Servers in containers: other files under the same names, users of whom the host does not know.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::watch::Watch;
use crate::{
    enrich::Outside,
    rules::{ByOthers, Root},
};

/// The machine's first process, which sees the host's own mounts whatever the agent's sandbox does.
const HOST: u32 = 1;

/// How a process that others have started sees the machine.
pub fn of_process(tgid: u32) -> ByOthers {
    ByOthers { root: Root::of_process(tgid) }
}

impl Watch {
    /// The same of an instance; `None` when it was not started by others.
    pub(super) fn by_others(&self, number: u32) -> Option<ByOthers> {
        let instance = self.instances.get(&number)?;
        if !instance.tree.is_scattered() {
            return None;
        }
        let members = self.tags.members(number);
        let root = members.into_iter().find_map(Root::of_process);
        Some(ByOthers { root })
    }

    /// Has the events of an instance say what the files of its container are called on the host, as
    /// a process of it has them mounted now.
    pub(super) fn look_outside(&mut self, number: u32, tgid: u32) {
        if Root::of_process(tgid).is_none() {
            return;
        }
        let table = |tgid: u32| fs::read(format!("/proc/{tgid}/mountinfo"));
        let namespace = fs::metadata(format!("/proc/{tgid}/ns/mnt"));
        // Whoever has ended meanwhile opens nothing any more.
        let (Ok(container), Ok(host), Ok(namespace)) = (table(tgid), table(HOST), namespace) else {
            return;
        };
        let outside = Outside::of(&container, &host);
        self.pipeline.outside(number, namespace.ino() as u32, outside);
    }

    /// The same for instances of the agent before.
    pub(super) fn look_outside_adopted(&mut self) {
        let scattered = self.instances.iter().filter(|(_, instance)| instance.tree.is_scattered());
        for number in scattered.map(|(number, _)| *number).collect::<Vec<_>>() {
            for tgid in self.tags.members(number) {
                self.look_outside(number, tgid);
            }
        }
    }
}
