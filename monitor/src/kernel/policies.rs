//! Policies in the maps: room for their tables, shared by content, and the one store that puts a
//! policy in force.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use aya::{
    Ebpf,
    maps::{Array, LpmTrie, Map, MapData, lpm_trie::Key},
};
use monitor_common::{
    automaton::{Cell, NOTHING},
    limits::{CELLS_MAX, HELD_POSITION, MATCH_POSITION, POLICIES_MAX},
    network::{AddressKey, AddressRules, TABLE_BITS},
    policy::{InstanceState, Policy, Reads},
};

use super::{KernelError, shared::Shared};
use crate::rules::{Automaton, Compiled};

/// A policy in the maps; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    /// As the programs are told.
    pub(super) fn number(self) -> u64 {
        u64::from(self.0)
    }
}

/// The first of the instance numbers that are no server's: those of the matcher, of processes that
/// are held, and of the proof.
pub const FIRST_RESERVED: u32 = u32::MAX - 2;
/// Stands for all processes that nobody watches.
pub const MATCHER: u32 = FIRST_RESERVED;

/// Word of [`InstanceState`] that holds the policy's slot.
const POLICY_WORD: usize = 0;
/// Word of [`InstanceState`] that holds the sentence.
const DOOMED_WORD: usize = 1;

/// Word of [`InstanceState`] that holds the port at which its DNS is answered.
const RESOLVER_WORD: usize = 2;

/// What the maps hold of one policy.
pub struct Parts<'a> {
    /// Verdicts, sets, mode.
    pub policy: &'a Policy,
    /// At most [`monitor_common::policy::TABLES`] automata; those without cells are absent.
    pub tables: &'a [Arc<Automaton>],
    /// Programs with their arguments.
    pub arguments: Option<&'a Automaton>,
    /// Bits of the address prefix, address, port rules.
    pub addresses: &'a [(u8, [u8; 16], AddressRules)],
}

impl<'a> Parts<'a> {
    /// Those of compiled rules.
    pub fn of(compiled: &'a Compiled) -> Self {
        Self {
            policy: &compiled.policy,
            tables: &compiled.tables,
            arguments: Some(&compiled.arguments),
            addresses: &compiled.addresses,
        }
    }
}

/// Where the first table of patterns stands: behind that of none.
const FIRST_TABLE: u32 = NOTHING.len() as u32;

struct Table {
    base: u32,
    cells: u32,
    users: u32,
}

struct Installed {
    id: u32,
    digests: Vec<[u8; 32]>,
    /// Address prefixes: bits with those of the table, address.
    keys: HashSet<(u32, [u8; 16])>,
}

impl Installed {
    fn key(&self, (bits, address): (u32, [u8; 16])) -> Key<AddressKey> {
        Key::new(bits, AddressKey { table: self.id, address })
    }
}

/// The maps that hold policies, and what is free in them.
pub struct Policies {
    policies: Array<MapData, Policy>,
    addresses: LpmTrie<MapData, AddressKey, AddressRules>,
    reads: Array<MapData, Reads>,
    cells: Shared<Cell>,
    instances: Shared<InstanceState>,
    free_cells: Vec<(u32, u32)>,
    free_slots: Vec<u32>,
    free_instances: Vec<u32>,
    tables: HashMap<[u8; 32], Table>,
    installed: HashMap<u32, Installed>,
    positions: HashMap<u32, u32>,
}

impl Policies {
    /// Takes the maps.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut cells = Shared::map(array_data(ebpf, "CELLS")?)?;
        cells.write(0, &NOTHING);
        let instances = Shared::map(array_data(ebpf, "INSTANCES")?)?;
        Ok(Self {
            policies: take(ebpf, "POLICIES")?.try_into().map_err(KernelError::Map)?,
            addresses: take(ebpf, "ADDRESSES")?.try_into().map_err(KernelError::Map)?,
            reads: take(ebpf, "READS")?.try_into().map_err(KernelError::Map)?,
            cells,
            instances,
            free_cells: between(&[]),
            free_slots: (1..POLICIES_MAX).rev().collect(),
            free_instances: (0..HELD_POSITION).rev().collect(),
            tables: HashMap::new(),
            installed: HashMap::new(),
            positions: HashMap::from([(MATCHER, MATCH_POSITION)]),
        })
    }

    /// Puts a policy into the maps under a number that no policy had before; it is not in force
    /// until an instance is bound to it.
    ///
    /// # Errors
    /// When a map is full. Nothing of the policy stays behind then.
    pub fn install(&mut self, id: u32, parts: &Parts<'_>) -> Result<Slot, KernelError> {
        let slot = self.free_slots.pop().ok_or(KernelError::Full("policies"))?;
        let mut installed = Installed { id, digests: Vec::new(), keys: HashSet::new() };
        let written = self.write(slot, id, parts, &mut installed);
        self.installed.insert(slot, installed);
        match written {
            Ok(()) => Ok(Slot(slot)),
            Err(error) => {
                self.remove(Slot(slot))?;
                Err(error)
            }
        }
    }

    fn write(
        &mut self,
        slot: u32,
        id: u32,
        parts: &Parts<'_>,
        installed: &mut Installed,
    ) -> Result<(), KernelError> {
        let mut policy = Policy { id, network: id, ..*parts.policy };
        let arguments = parts.arguments.map(|table| (&mut policy.arguments, table));
        let tables = parts.tables.iter().map(|table| &**table);
        for (base, table) in policy.tables.iter_mut().zip(tables).chain(arguments) {
            *base = self.table(table)?;
            if *base != 0 {
                installed.digests.push(table.digest);
            }
        }
        for (bits, address, rules) in parts.addresses {
            let place = (TABLE_BITS + u32::from(*bits), *address);
            self.addresses.insert(&installed.key(place), rules, 0).map_err(KernelError::Map)?;
            installed.keys.insert(place);
        }
        self.policies.set(slot, policy, 0).map_err(KernelError::Map)
    }

    fn table(&mut self, automaton: &Automaton) -> Result<u32, KernelError> {
        let cells = automaton.cells.len() as u32;
        if cells == 0 {
            return Ok(0);
        }
        if let Some(table) = self.tables.get_mut(&automaton.digest) {
            table.users += 1;
            return Ok(table.base);
        }
        let free = self.free_cells.iter_mut().find(|(_, free)| *free >= cells);
        let (start, length) = free.ok_or(KernelError::Full("automaton cells"))?;
        let base = *start;
        *start += cells;
        *length -= cells;
        self.tables.insert(automaton.digest, Table { base, cells, users: 1 });
        self.cells.write(base, &automaton.cells);
        Ok(base)
    }

    /// Goes on with the policy that is bound at `position`, whose tables must be those of `parts`.
    /// [`Policies::sweep`] makes what is between the adopted ones free again.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn adopt(
        &mut self,
        instance: u32,
        position: u32,
        parts: &Parts<'_>,
    ) -> Result<Option<Slot>, KernelError> {
        if position > MATCH_POSITION {
            return Ok(None);
        }
        let slot = self.instances.word(position, POLICY_WORD).load(Ordering::Acquire);
        let adopted = self.adopt_slot(slot, parts)?;
        if adopted.is_some() {
            self.positions.insert(instance, position);
        }
        Ok(adopted)
    }

    /// Goes on with the policy that comes into force when an adopted one lapses.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn adopt_after(
        &mut self,
        slot: Slot,
        parts: &Parts<'_>,
    ) -> Result<Option<Slot>, KernelError> {
        let policy = self.policies.get(&slot.0, 0).map_err(KernelError::Map)?;
        self.adopt_slot(policy.after, parts)
    }

    fn adopt_slot(&mut self, slot: u32, parts: &Parts<'_>) -> Result<Option<Slot>, KernelError> {
        if slot == 0 || slot >= POLICIES_MAX {
            return Ok(None);
        }
        let policy = self.policies.get(&slot, 0).map_err(KernelError::Map)?;
        let arguments = parts.arguments.map(|table| (&policy.arguments, table));
        let paths = || parts.tables.iter().map(|table| &**table);
        let tables = || policy.tables.iter().zip(paths()).chain(arguments);
        let same = |(base, table): (&u32, &Automaton)| match table.cells.len() {
            0 => *base == 0,
            _ => *base != 0 && self.cells.holds(*base, &table.cells),
        };
        if !tables().all(same) {
            return Ok(None);
        }
        let id = policy.id;
        let mut installed = Installed { id, digests: Vec::new(), keys: HashSet::new() };
        for (base, table) in tables().filter(|(base, _)| **base != 0) {
            let known = Table { base: *base, cells: table.cells.len() as u32, users: 0 };
            self.tables.entry(table.digest).or_insert(known).users += 1;
            installed.digests.push(table.digest);
        }
        for (bits, address, _) in parts.addresses {
            installed.keys.insert((TABLE_BITS + u32::from(*bits), *address));
        }
        self.installed.insert(slot, installed);
        Ok(Some(Slot(slot)))
    }

    /// Makes everything free that no adopted policy or instance uses.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(&mut self) -> Result<(), KernelError> {
        let (positions, slots): (HashSet<u32>, HashSet<u32>) =
            (self.positions.values().copied().collect(), self.installed.keys().copied().collect());
        self.free_instances =
            (0..HELD_POSITION).rev().filter(|at| !positions.contains(at)).collect();
        for &position in &self.free_instances {
            self.instances.store(position, POLICY_WORD, 0);
        }
        self.free_slots = (1..POLICIES_MAX).rev().filter(|slot| !slots.contains(slot)).collect();
        let mut taken: Vec<(u32, u32)> =
            self.tables.values().map(|table| (table.base, table.cells)).collect();
        taken.sort_unstable();
        self.free_cells = between(&taken);
        // Addresses that names had led to are not adopted: their names are asked for again.
        let adopted: HashSet<(u32, u32, [u8; 16])> = self
            .installed
            .values()
            .flat_map(|policy| {
                policy.keys.iter().map(|(bits, address)| (policy.id, *bits, *address))
            })
            .collect();
        let keys: Vec<_> = self.addresses.keys().filter_map(Result::ok).collect();
        for key in keys {
            let AddressKey { table, address } = key.data();
            if !adopted.contains(&(table, key.prefix_len(), address)) {
                self.addresses.remove(&key).map_err(KernelError::Map)?;
            }
        }
        Ok(())
    }

    /// Puts a policy in force for an instance by one store; the instance's first policy makes it
    /// known to the kernel.
    ///
    /// # Errors
    /// When too many instances run.
    pub fn bind(&mut self, instance: u32, slot: Slot) -> Result<u32, KernelError> {
        let position = match self.positions.get(&instance) {
            Some(position) => *position,
            None => {
                let free = self.free_instances.pop();
                let position = free.ok_or(KernelError::Full("instances"))?;
                self.instances.store(position, DOOMED_WORD, 0);
                // Those of an instance that has been here before.
                self.reads.set(position, Reads::default(), 0).map_err(KernelError::Map)?;
                self.instances.store(position, RESOLVER_WORD, 0);
                self.positions.insert(instance, position);
                position
            }
        };
        self.instances.store(position, POLICY_WORD, slot.0);
        Ok(position)
    }

    /// Tables: name, entries in use, room.
    pub fn usage(&self) -> [(&'static str, u64, u64); 3] {
        let free_cells: u32 = self.free_cells.iter().map(|(_, length)| length).sum();
        let used =
            |name, room: u32, free: usize| (name, u64::from(room) - free as u64, u64::from(room));
        [
            used("instances", HELD_POSITION, self.free_instances.len()),
            used("policies", POLICIES_MAX - 1, self.free_slots.len()),
            used("cells", CELLS_MAX - FIRST_TABLE, free_cells as usize),
        ]
    }

    /// Replaces the rules of one address of an installed policy; `None` leaves it to the prefix
    /// around it.
    ///
    /// # Errors
    /// When the table is full.
    pub fn set_address(
        &mut self,
        slot: Slot,
        address: [u8; 16],
        rules: Option<&AddressRules>,
    ) -> Result<(), KernelError> {
        let Some(installed) = self.installed.get_mut(&slot.0) else { return Ok(()) };
        let place = (TABLE_BITS + 128, address);
        let key = installed.key(place);
        match rules {
            Some(rules) => {
                self.addresses.insert(&key, rules, 0).map_err(KernelError::Map)?;
                installed.keys.insert(place);
            }
            None if installed.keys.remove(&place) => {
                self.addresses.remove(&key).map_err(KernelError::Map)?;
            }
            None => {}
        }
        Ok(())
    }

    /// Says at which port of loopback the DNS of an instance is answered, 0 for nowhere.
    pub fn set_resolver(&mut self, instance: u32, port: u16) {
        if let Some(position) = self.position(instance) {
            self.instances.store(position, RESOLVER_WORD, u32::from(port));
        }
    }

    /// Takes the policy of an instance out of force and leaves it its position.
    pub fn unbind(&mut self, instance: u32) {
        if let Some(position) = self.position(instance) {
            self.instances.store(position, POLICY_WORD, 0);
        }
    }

    /// Where an instance stands in its map.
    pub fn position(&self, instance: u32) -> Option<u32> {
        self.positions.get(&instance).copied()
    }

    /// Forgets an instance that has no process left.
    pub fn release(&mut self, instance: u32) {
        if let Some(position) = self.positions.remove(&instance) {
            self.instances.store(position, POLICY_WORD, 0);
            self.free_instances.push(position);
        }
    }

    /// Removes a policy that is no longer in force, once no hook can still be reading it.
    ///
    /// # Errors
    /// When the kernel refuses a map update.
    pub fn retire(&mut self, slot: Slot) -> Result<(), KernelError> {
        // SAFETY: membarrier touches no memory. MEMBARRIER_CMD_GLOBAL is synchronize_rcu (kernel/
        // sched/membarrier.c), and hooks run inside an RCU read-side section.
        let waited =
            unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
        if waited != 0 {
            return Err(KernelError::Grace(std::io::Error::last_os_error()));
        }
        self.remove(slot)
    }

    /// Removes a policy that no hook can be reading.
    ///
    /// # Errors
    /// When the kernel refuses a map update.
    pub fn remove(&mut self, slot: Slot) -> Result<(), KernelError> {
        let Some(installed) = self.installed.remove(&slot.0) else { return Ok(()) };
        for digest in &installed.digests {
            self.release_table(*digest);
        }
        for place in &installed.keys {
            self.addresses.remove(&installed.key(*place)).map_err(KernelError::Map)?;
        }
        self.free_slots.push(slot.0);
        Ok(())
    }

    fn release_table(&mut self, digest: [u8; 32]) {
        let Some(table) = self.tables.get_mut(&digest) else { return };
        table.users -= 1;
        if table.users > 0 {
            return;
        }
        let place = (table.base, table.cells);
        self.tables.remove(&digest);
        self.free_cells.push(place);
        self.free_cells.sort_unstable();
        self.free_cells.dedup_by(|next, previous| {
            let adjacent = previous.0 + previous.1 == next.0;
            if adjacent {
                previous.1 += next.1;
            }
            adjacent
        });
    }
}

/// Cells that are free between those that are taken, which are in order.
fn between(taken: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut free = Vec::new();
    let mut at = FIRST_TABLE;
    for &(start, length) in taken.iter().chain([&(CELLS_MAX, 0)]) {
        if start > at {
            free.push((at, start - at));
        }
        at = at.max(start + length);
    }
    free
}

/// Takes a map out of the object.
pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::MissingMap(name))
}

fn array_data<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, KernelError> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(KernelError::MissingMap(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_between_tables_are_free() {
        let first = FIRST_TABLE;
        assert_eq!(between(&[]), [(first, CELLS_MAX - first)]);
        let taken = [(first, 9), (first + 9, 5), (first + 20, 10)];
        assert_eq!(between(&taken), [(first + 14, 6), (first + 30, CELLS_MAX - first - 30)]);
        assert_eq!(between(&[(first, CELLS_MAX - first)]), []);
    }
}
