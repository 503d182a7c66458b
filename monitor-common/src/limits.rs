//! Bounds of everything the kernel side holds. What exceeds one takes the deny default and is
//! flagged or refused; nothing is matched in a shortened form.

/// Longest resolved path, in bytes, that is matched; Linux's own `PATH_MAX`.
pub const PATH_MAX: usize = 4096;
/// Most path components (and mount crossings) that are walked.
pub const PATH_DEPTH_MAX: u32 = 2048;
/// Longest argument vector, in bytes (with its NULs), that is recorded and matched.
pub const ARGV_MAX: usize = 16384;
/// Space for all byte strings of one record: path, second path, interpreter, arguments.
pub const STRINGS_MAX: usize = 32768;
/// Tagged processes at one time, over all instances.
pub const TAGS_MAX: u32 = 65536;
/// Tags in use from which forks of tagged processes are refused, so that the table never overflows.
pub const TAGS_REFUSE: u64 = TAGS_MAX as u64 - 1024;
/// Tags in use from which a tree that got to fork all the same is killed, while every process of it
/// still has its tag.
pub const TAGS_SENTENCE: u64 = TAGS_MAX as u64 - 512;
/// Positions in the table of instances. The last two are no instance's.
pub const INSTANCES_MAX: u32 = 4096;
/// Position whose policy is the table that processes which nobody watches are held against when
/// they execute a program; 0 there: no rules ask for it.
pub const MATCH_POSITION: u32 = INSTANCES_MAX - 1;
/// Position of processes that are held for the agent: no policy ever stands there.
pub const HELD_POSITION: u32 = INSTANCES_MAX - 2;
/// Processes that are held for the agent at one time.
pub const HELD_MAX: u32 = 4096;
/// Bytes of the ring that tells the agent of them; what finds no room has been told already.
pub const BELL_BYTES: u32 = 4096;
/// Policies in the kernel at one time; slot 0 is never used.
pub const POLICIES_MAX: u32 = 4096;
/// Cells of all automata together; a power of two.
pub const CELLS_MAX: u32 = 1 << 20;
/// Sockets whose DNS goes to the agent, and which remember whom they meant to ask.
pub const REDIRECTED_MAX: u32 = 8192;
/// Entries of all address tables together.
pub const ADDRESSES_MAX: u32 = 65536;
/// Labelled inodes.
pub const LABELS_MAX: u32 = 32768;
/// Words of the filter before the look-up of labels; 64 bits each.
pub const LABEL_FILTER_WORDS: u32 = 4096;
/// Files that are remembered as read where reads are limited, over all instances.
pub const READ_FILES_MAX: u32 = 16384;
/// Bytes of the ring buffer for ordinary events.
pub const EVENTS_RING_BYTES: u32 = 16 << 20;
/// Bytes of the ring buffer for violations.
pub const VIOLATIONS_RING_BYTES: u32 = 4 << 20;
/// Hooks that can be in progress at one time, at least; the loader makes it two for each processor
/// where that is more. Under `preempt=full` every runnable task can be in the middle of one.
pub const SCRATCH_SLOTS: u32 = 64;
