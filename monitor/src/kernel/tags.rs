//! Who is tagged, wherever it has gone.

use std::collections::HashSet;

use aya::maps::{HashMap, MapData};
use monitor_common::policy::Tag;

/// The kernel's table of tagged processes, to be read.
#[derive(Debug)]
pub struct Tags(pub(super) HashMap<MapData, u32, Tag>);

impl Tags {
    /// Whether a thread group is tagged.
    pub fn contains(&self, tgid: u32) -> bool {
        self.0.get(&tgid, 0).is_ok()
    }

    /// The instance of a thread group, `None` when it has none.
    pub fn instance_of(&self, tgid: u32) -> Option<u32> {
        self.0.get(&tgid, 0).ok().map(|tag| tag.instance)
    }

    /// Instances of which thread groups are alive.
    pub fn instances(&self) -> HashSet<u32> {
        self.0.iter().filter_map(Result::ok).map(|(_, tag)| tag.instance).collect()
    }

    /// Thread groups of an instance that are alive.
    pub fn members(&self, instance: u32) -> Vec<u32> {
        // A table that changes while it is read may show an entry twice or end early; whoever
        // wants all of them asks until there is none.
        let entries = self.0.iter().filter_map(Result::ok);
        entries.filter(|(_, tag)| tag.instance == instance).map(|(tgid, _)| tgid).collect()
    }
}
