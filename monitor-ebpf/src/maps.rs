//! All maps. Their names are what userspace opens them by.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use monitor_common::{
    automaton::{CLASS_CELLS, Cell},
    limits,
    network::{AddressKey, AddressRules},
    policy::{InodeKey, InstanceState, Label, Policy, ReadKey, Reads, Tag},
    record::{Peer, counter},
    syscall::{self, Call},
};

use crate::scratch::Scratch;

/// What the exit of each system call means, on the tracepoint backend.
#[map]
pub static CALLS: Array<Call> = Array::with_max_entries(syscall::CALLS, 0);

/// Programs that `sys_exit` goes on in.
#[map]
pub static HANDLERS: ProgramArray = ProgramArray::with_max_entries(syscall::HANDLERS, 0);

/// Tag by tgid. A hash rather than task storage: it covers io_uring workers and every program type.
#[map]
pub static TAGS: HashMap<u32, Tag> = HashMap::with_max_entries(limits::TAGS_MAX, 0);

/// Tags in use.
#[map]
pub static TAG_COUNT: Array<u64> = Array::with_max_entries(1, 0);

/// Processes that are held for the agent, by tgid: since when, CLOCK_BOOTTIME, ns.
#[map]
pub static HELD: HashMap<u32, u64> = HashMap::with_max_entries(limits::HELD_MAX, 0);

/// Wakes the agent when there is one more of them.
#[map]
pub static BELL: RingBuf = RingBuf::with_byte_size(limits::BELL_BYTES, 0);

/// Policy and sentence by instance slot; userspace maps it into its memory, so that a policy is
/// replaced by one store.
#[map]
pub static INSTANCES: Array<InstanceState> =
    Array::with_max_entries(limits::INSTANCES_MAX, BPF_F_MMAPABLE);

/// Policies by slot; slot 0 is empty.
#[map]
pub static POLICIES: Array<Policy> = Array::with_max_entries(limits::POLICIES_MAX, 0);

/// Cells of all automata; mapped too. One value, so that a cell is found by adding, without a
/// look-up; the bytes' classes of a table at the very end would still be inside.
#[map]
pub static CELLS: Array<[Cell; (limits::CELLS_MAX + CLASS_CELLS) as usize]> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Port rules by policy and address prefix.
#[map]
pub static ADDRESSES: LpmTrie<AddressKey, AddressRules> =
    LpmTrie::with_max_entries(limits::ADDRESSES_MAX, 0);

/// Set membership by inode.
#[map]
pub static LABELS: HashMap<InodeKey, Label> = HashMap::with_max_entries(limits::LABELS_MAX, 0);

/// Which inodes may have a label of their own or for what lies beneath: a bit for each value of a
/// hash of device and number, so that the many that have none cost no look-up.
#[map]
pub static LABEL_FILTER: Array<u64> = Array::with_max_entries(limits::LABEL_FILTER_WORDS, 0);

/// Whom a socket (by its cookie) meant to ask when its DNS was sent to the agent. What is evicted
/// gets answers from a stranger, which resolvers drop.
#[map]
pub static REDIRECTED: LruHashMap<u64, Peer> =
    LruHashMap::with_max_entries(limits::REDIRECTED_MAX, 0);

/// What each instance has read, by its slot, where that is limited.
#[map]
pub static READS: Array<Reads> = Array::with_max_entries(limits::INSTANCES_MAX, 0);

/// Files that count there, with the step in which they were counted.
#[map]
pub static READ_FILES: LruHashMap<ReadKey, u32> =
    LruHashMap::with_max_entries(limits::READ_FILES_MAX, 0);

/// Ordinary events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(limits::EVENTS_RING_BYTES, 0);

/// Violations, which ordinary events must not crowd out.
#[map]
pub static VIOLATIONS: RingBuf = RingBuf::with_byte_size(limits::VIOLATIONS_RING_BYTES, 0);

/// Counters, see [`counter`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// Scratch slots; the loader adds some on machines with many processors.
#[map]
pub static SCRATCH: Array<Scratch> = Array::with_max_entries(limits::SCRATCH_SLOTS, 0);
