//! Servers that others start: the table by which the kernel programs know them, and the processes
//! that they hold for the agent.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, RingBuf},
};
use monitor_common::{
    limits::MATCH_POSITION,
    policy::{Policy, tag_flags},
};

use super::{
    Kernel, KernelError, Pins, Ring, Slot,
    policies::{self, MATCHER, Parts},
};
use crate::rules::Automaton;

/// A process that is stopped, and gets nothing, until it is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Thread group.
    pub tgid: u32,
    /// Since when, CLOCK_BOOTTIME, ns.
    pub since_ns: u64,
}

/// The processes that are held, and what tells of a new one.
pub(super) struct Waiting {
    held: HashMap<MapData, u32, u64>,
    bell: Ring,
    /// The table in force.
    table: Option<Slot>,
}

impl Waiting {
    /// Takes the maps.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let bell = RingBuf::try_from(policies::take(ebpf, "BELL")?).map_err(KernelError::Map)?;
        let held = policies::take(ebpf, "HELD")?.try_into().map_err(KernelError::Map)?;
        Ok(Self { held, bell: Ring(bell), table: None })
    }
}

/// Processes that the programs pinned in a directory hold.
pub fn held_at(pins: &Pins) -> Vec<u32> {
    let map = MapData::from_pin(pins.maps().join("HELD")).map(Map::HashMap);
    let held: Option<HashMap<MapData, u32, u64>> = map.ok().and_then(|map| map.try_into().ok());
    held.iter().flat_map(|held| held.keys().filter_map(Result::ok)).collect()
}

impl Kernel {
    /// From here on every process that nobody watches and that a table accepts
    /// ([`crate::rules::Matcher::table`]) is held when it executes its program; none without a
    /// table.
    ///
    /// # Errors
    /// When a map is full; the table before stays in force then.
    pub fn match_by(&mut self, table: Option<&Automaton>) -> Result<(), KernelError> {
        let fresh = match table {
            Some(table) => {
                let slot = self.policies.install(MATCHER, &parts(table))?;
                self.policies.bind(MATCHER, slot)?;
                Some(slot)
            }
            None => {
                self.policies.unbind(MATCHER);
                None
            }
        };
        match std::mem::replace(&mut self.held.table, fresh) {
            Some(before) => self.policies.retire(before),
            None => Ok(()),
        }
    }

    /// Goes on with the table of an earlier process if it is this one; without any if not. To be
    /// called before [`Kernel::sweep`].
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn adopt_match(&mut self, table: Option<&Automaton>) -> Result<(), KernelError> {
        let adopted = table
            .map(|table| self.policies.adopt(MATCHER, MATCH_POSITION, &parts(table)))
            .transpose()?;
        self.held.table = adopted.flatten();
        if self.held.table.is_none() {
            self.policies.unbind(MATCHER);
        }
        Ok(())
    }

    /// Whether a table is in force.
    pub fn is_matching(&self) -> bool {
        self.held.table.is_some()
    }

    /// Becomes readable when there is one more in [`Kernel::held`].
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.held.bell.as_fd()
    }

    /// The processes that are held.
    pub fn held(&mut self) -> Vec<Held> {
        while self.held.bell.next().is_some() {}
        // What changes while it is read rings again.
        let entries = self.held.held.iter().filter_map(Result::ok);
        entries.map(|(tgid, since_ns)| Held { tgid, since_ns }).collect()
    }

    /// Puts a process that runs under the policy of a bound instance: one that was held, or one
    /// that has run without us.
    ///
    /// # Errors
    /// When the instance is not bound or the tag table is full.
    pub fn take_in(
        &mut self,
        tgid: u32,
        instance: u32,
        is_loader: bool,
    ) -> Result<(), KernelError> {
        self.tag_as(tgid, instance, if is_loader { tag_flags::LOADER } else { 0 })
    }

    /// When a process began, CLOCK_BOOTTIME, ns, as records carry it; `None` when it has ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start_of(&mut self, pidfd: BorrowedFd<'_>) -> Result<Option<u64>, KernelError> {
        let mut half = |half| {
            let descriptor = pidfd.as_raw_fd() as u64;
            Ok::<_, KernelError>(u64::from(self.control("control_start", &[descriptor, half])?))
        };
        let start_ns = half(1)? << 32 | half(0)?;
        Ok((start_ns != 0).then_some(start_ns))
    }

    /// Takes the tag of a process that was held and is no server.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn untag(&mut self, tgid: u32) -> Result<(), KernelError> {
        self.control("control_untag", &[u64::from(tgid)]).map(drop)
    }

    /// Forgets that a process is held; its tag must be another one by now. Whether it was: then it
    /// is stopped, and goes on once it is sent SIGCONT.
    pub fn forget_held(&mut self, tgid: u32) -> bool {
        // Fails for one that was not, or has ended.
        self.held.held.remove(&tgid).is_ok()
    }
}

fn parts(table: &Automaton) -> Parts<'_> {
    Parts { policy: &Policy::EMPTY, tables: &[], arguments: Some(table), addresses: &[] }
}
