//! The course that every hook takes, and how the kinds of objects are described and judged.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{EbpfContext, programs::LsmContext};
use monitor_common::{
    file::{PIDFS_MAGIC, PIPEFS_MAGIC, PROC_SUPER_MAGIC, S_IFDIR, S_IFMT},
    policy::{access, class, set, verdict},
    record::{Record, change, did, flags, kind},
};

use crate::{
    breadth,
    descriptors::has_open,
    emit,
    instance::{self, Current, Subject},
    kernel_field::{Address, Span, current_task, field, load, load_at, number, offset, read},
    label,
    path::{self, Dentry, Place},
    policy::{self, Means},
    scratch::{Claim, Scratch},
};

/// What a refusing LSM program returns. Volatile, because LLVM would otherwise compute it by a
/// negation whose range the verifier of 6.12 cannot see.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static MINUS_EPERM: i32 = -(EPERM as i32);
const EPERM: u8 = 1;

/// Result of a refusing LSM program.
#[inline(always)]
pub fn refused() -> i32 {
    // SAFETY: a static integer.
    unsafe { core::ptr::read_volatile(core::ptr::addr_of!(MINUS_EPERM)) }
}

/// A pointer argument of an LSM hook that goes into a [`Place`]: read as a number, because the
/// verifier does not let typed pointers into functions that it checks by themselves.
#[inline(always)]
pub fn address(ctx: &LsmContext, index: u32) -> Address {
    read(ctx.as_ptr() as Address, index * 8)
}

/// A pointer argument of an LSM hook that fields are read from.
#[inline(always)]
pub fn pointer(ctx: &LsmContext, index: usize) -> Address {
    ctx.arg::<*const c_void>(index) as Address
}

/// An LSM hook: `describe` fills the record in and judges; this carries the verdict out, records,
/// and gives the hook's result. Refuses when the process is sentenced or has no policy, and, in
/// enforce, when no scratch slot is free.
#[inline(always)]
pub fn lsm(kind: u8, describe: impl FnOnce(&mut Scratch, &Subject)) -> i32 {
    lsm_noting(kind, |scratch, subject| {
        describe(scratch, subject);
        Noted::Yes
    })
}

/// [`lsm`], where `describe` knows whether the event is to be recorded although it is allowed.
#[inline(always)]
pub fn lsm_noting(kind: u8, describe: impl FnOnce(&mut Scratch, &Subject) -> Noted) -> i32 {
    match instance::current() {
        Current::Untagged => 0,
        Current::Outlaw => refused(),
        Current::Tagged(subject) => result(run_noting(&subject, kind, Means::Refuse, describe)),
    }
}

/// [`lsm`] for a process that has been looked up.
#[inline(always)]
pub fn lsm_for(subject: &Subject, kind: u8, describe: impl FnOnce(&mut Scratch, &Subject)) -> i32 {
    result(run(subject, kind, Means::Refuse, describe))
}

/// What an LSM program returns.
#[inline(always)]
fn result(refuse: bool) -> i32 {
    if refuse { refused() } else { 0 }
}

/// Describes, judges, carries out, records; true when the call is to be refused.
#[inline(always)]
pub fn run(
    subject: &Subject,
    kind: u8,
    means: Means,
    describe: impl FnOnce(&mut Scratch, &Subject),
) -> bool {
    run_noting(subject, kind, means, |scratch, subject| {
        describe(scratch, subject);
        Noted::Yes
    })
}

/// Whether something that is allowed is to be recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// If the policy records events of this kind.
    Yes,
    /// No: another record is about the same, or nobody wants so many.
    No,
}

/// [`run`], where `describe` knows whether the event is to be recorded although it is allowed.
#[inline(always)]
pub fn run_noting(
    subject: &Subject,
    kind: u8,
    means: Means,
    describe: impl FnOnce(&mut Scratch, &Subject) -> Noted,
) -> bool {
    let Some(mut claim) = Claim::new() else { return subject.enforcing() };
    let scratch = claim.scratch();
    emit::begin(scratch, kind);
    let noted = describe(scratch, subject);
    let refuse = policy::enforce(&mut scratch.record, subject, means);
    if noted == Noted::Yes || scratch.record.decision.verdict > verdict::ALLOW {
        emit::send(scratch, subject);
    }
    refuse
}

/// Fills in what the record says about an inode.
#[inline(always)]
pub fn describe_inode(scratch: &mut Scratch, inode: Address) {
    if inode == 0 {
        return;
    }
    let Scratch { record, words, .. } = scratch;
    let span = Span::copy(words, inode, offset!(inode_mode));
    let mode: u16 = span.get(offset!(inode_mode));
    let sb: Address = span.get(offset!(inode_sb));
    record.inode.ino = span.get(offset!(inode_ino));
    record.inode.generation = span.get(offset!(inode_generation));
    record.nlink = span.get(offset!(inode_nlink));
    let span = Span::copy(words, sb, offset!(sb_dev));
    record.inode.dev = span.get(offset!(sb_dev));
    describe_kind(record, mode, span.get(offset!(sb_magic)));
}

/// [`describe_inode`] through a pointer of a known type.
#[inline(always)]
fn describe_loaded_inode(record: &mut Record, inode: Address) {
    let sb: Address = load!(inode, inode_sb);
    record.inode.ino = load!(inode, inode_ino);
    record.inode.generation = load!(inode, inode_generation);
    record.nlink = load!(inode, inode_nlink);
    record.inode.dev = load!(sb, sb_dev);
    describe_kind(record, load!(inode, inode_mode), load!(sb, sb_magic));
}

#[inline(always)]
fn describe_kind(record: &mut Record, mode: u16, magic: u64) {
    record.inode_mode = mode as u32;
    record.fs_magic = magic as u32;
    if mode as u32 & S_IFMT == S_IFDIR {
        record.flags |= flags::DIRECTORY;
    }
}

/// Describes and judges the object at `place`, as string `position` of the record.
#[inline(always)]
pub fn judge_place(
    scratch: &mut Scratch,
    subject: &Subject,
    position: usize,
    place: Place,
    extra: u32,
    asked: u8,
) {
    let labels = path::resolve(scratch, position, place);
    scratch.record.labels |= labels;
    policy::judge_path(scratch, subject, position, labels | extra, asked);
}

// include/linux/fs.h; the same on every architecture and since 6.1.
const FMODE_READ: u32 = 0x1;
const FMODE_WRITE: u32 = 0x2;
const FMODE_PATH: u32 = 0x4000;
/// The open made the file.
pub const FMODE_CREATED: u32 = 0x10_0000;
// include/uapi/asm-generic/fcntl.h, as on x86-64.
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;
const O_TMPFILE: u32 = 0o20_000_000;

/// An open file, and what it was opened for.
pub struct Opened {
    /// The `struct file`.
    file: Address,
    place: Place,
    inode: Address,
    mode: u32,
    flags: u32,
}

impl Opened {
    /// Reads a `struct file`, and describes its inode.
    #[inline(always)]
    pub fn of(scratch: &mut Scratch, file: Address) -> Self {
        let mut words = MaybeUninit::<[u64; 10]>::uninit();
        let (mode, path) = (offset!(file_mode), offset!(file_path));
        let span = Span::copy(&mut words, file, if mode < path { mode } else { path });
        let mount = span.get(path + offset!(path_mnt));
        let opened = Self {
            file,
            place: Place { mount, dentry: span.get(path + offset!(path_dentry)) },
            inode: span.get(offset!(file_inode)),
            mode: span.get(mode),
            flags: span.get(offset!(file_flags)),
        };
        describe_inode(scratch, opened.inode);
        opened
    }

    /// The same through a pointer of a known type: what every open of a tagged process pays for.
    #[inline(always)]
    pub fn of_argument(scratch: &mut Scratch, file: Address) -> Self {
        let inode: Address = load!(file, file_inode);
        describe_loaded_inode(&mut scratch.record, inode);
        let path = offset!(file_path);
        let mount: Address = load_at(file, path + offset!(path_mnt));
        let dentry: Address = load_at(file, path + offset!(path_dentry));
        let memory = &mut scratch.unseen;
        Self {
            file: number(memory, file),
            place: Place { mount: number(memory, mount), dentry: number(memory, dentry) },
            inode: number(memory, inode),
            mode: load!(file, file_mode),
            flags: load!(file, file_flags),
        }
    }

    /// What the open asks for; bits of the mode are bits of [`access`]. Without branches, as is
    /// [`Self::did`]: each would double what the verifier has to follow.
    #[inline(always)]
    fn asked(&self) -> u8 {
        const { assert!(FMODE_READ as u8 == access::READ && FMODE_WRITE as u8 == access::WRITE) };
        let truncates = (self.flags & O_TRUNC) / O_TRUNC * FMODE_WRITE;
        let asked = (self.mode & (FMODE_READ | FMODE_WRITE) | truncates) as u8;
        if asked == 0 { access::READ } else { asked }
    }

    #[inline(always)]
    fn did(&self) -> u32 {
        const { assert!(FMODE_READ == did::READ && FMODE_WRITE == did::WRITE) };
        self.mode & (FMODE_READ | FMODE_WRITE)
            | (self.mode & FMODE_CREATED) / FMODE_CREATED * did::CREATE
            | (self.flags & O_TRUNC) / O_TRUNC * did::TRUNCATE
            | (self.flags & O_APPEND) / O_APPEND * did::APPEND
            | (self.mode & FMODE_PATH) / FMODE_PATH * did::PATH
            | (self.flags & O_TMPFILE) / O_TMPFILE * did::TEMPORARY
    }
}

/// Judges an open file. The second open that a stacked file system makes for one of its own is not
/// noted.
#[inline(always)]
pub fn judge_file(scratch: &mut Scratch, subject: &Subject, opened: &Opened) -> Noted {
    let Opened { place, inode, .. } = *opened;
    scratch.record.did = opened.did();
    let mut labels = path::resolve(scratch, 0, place);
    let entry = scratch.entry;
    let mut asked = opened.asked();
    // A pidfd is no file of anybody's: what is done through it is judged by itself.
    let is_pidfd = scratch.record.fs_magic == PIDFS_MAGIC;
    if opened.mode & FMODE_PATH != 0 || entry.name_len == 0 || is_pidfd {
        asked = 0;
    }
    if inode != entry.inode || scratch.is_private != 0 {
        // The stacked file has been judged by its own path: here only the sets have a say.
        labels = label::of_inode(inode).own | label::of_any_name(inode);
        scratch.record.labels |= labels;
        let classes = labels | class::READ | class::WRITE;
        policy::judge_classes(&mut scratch.record, subject, classes, asked);
        scratch.record.classes = labels;
        return Noted::No;
    }
    scratch.record.labels |= labels;
    if scratch.record.fs_magic == PIPEFS_MAGIC && has_open(inode, opened.file) == 0 {
        // By procfs, a pipe of a process that has not handed it over.
        let classes = class::of_set(set::PROCESSES) | class::READ | class::WRITE;
        policy::judge_classes(&mut scratch.record, subject, classes, opened.asked());
        scratch.record.classes = class::of_set(set::PROCESSES);
        return Noted::Yes;
    }
    if scratch.record.fs_magic == PROC_SUPER_MAGIC {
        labels |= describe_owner(scratch, subject, inode, &entry);
    }
    policy::judge_path(scratch, subject, 0, labels, asked);
    breadth::judge(scratch, subject);
    Noted::Yes
}

const ENVIRON: u64 = u64::from_le_bytes(*b"environ\0");
const MEM: u64 = u64::from_le_bytes(*b"mem\0\0\0\0\0");
const AUXV: u64 = u64::from_le_bytes(*b"auxv\0\0\0\0");
const CMDLINE: u64 = u64::from_le_bytes(*b"cmdline\0");

/// The class of a procfs file that holds the environment, memory or arguments of a process outside
/// the tree; told by file system and name of the dentry, wherever procfs is mounted. Arguments are
/// read by every `ps`, so they are sensitive and no more.
#[inline(always)]
fn describe_owner(scratch: &mut Scratch, subject: &Subject, inode: Address, entry: &Dentry) -> u32 {
    let kept = if entry.name_len >= 8 { return 0 } else { entry.name_len };
    let word: u64 = read::<u64>(entry.name, 0) & ((1 << (8 * (kept & 7))) - 1);
    let held = match word {
        ENVIRON | MEM | AUXV => class::of_set(set::PROCESSES),
        CMDLINE => class::of_set(set::SENSITIVE),
        _ => return 0,
    };
    let proc = inode.wrapping_sub(offset!(proc_inode_vfs) as u64);
    let pid: Address = field!(proc, proc_inode_pid);
    // The machine's own, `/proc/cmdline`.
    if pid == 0 {
        return 0;
    }
    describe_target(scratch, task_of_pid(pid));
    if scratch.record.target.instance == subject.tag.instance {
        return 0;
    }
    held
}

/// The `struct pid` of a pidfd. Since 6.9 pidfds are files of pidfs, which keeps it in the inode.
#[inline(always)]
pub fn pid_of_file(file: Address) -> Address {
    let inode: Address = field!(file, file_inode);
    let sb: Address = field!(inode, inode_sb);
    let magic: u64 = field!(sb, sb_magic);
    if magic == PIDFS_MAGIC as u64 {
        field!(inode, inode_private)
    } else {
        field!(file, file_private)
    }
}

/// A task of a `struct pid`.
#[inline(always)]
pub fn task_of_pid(pid: Address) -> Address {
    let first: Address = field!(pid, pid_tasks);
    first.wrapping_sub(offset!(task_pid_links) as u64)
}

/// Fills in the other process.
#[inline(always)]
pub fn describe_target(scratch: &mut Scratch, task: Address) {
    let tgid = instance::tgid_of(task);
    let target = &mut scratch.record.target;
    target.tgid = tgid;
    target.start_ns = instance::start_of(task);
    target.instance = instance::tag_of(tgid).map_or(0, |tag| tag.instance);
}

/// Describes and judges a reach into another process by the processes set; what stays inside the
/// tree is allowed.
#[inline(always)]
pub fn judge_target(scratch: &mut Scratch, subject: &Subject, task: Address, op: u8, detail: u32) {
    scratch.record.op = op;
    scratch.record.detail = detail;
    describe_target(scratch, task);
    if scratch.record.target.instance != subject.tag.instance {
        judge_set(scratch, subject, set::PROCESSES);
    }
}

/// Judges something that no rule can allow, by a set alone.
#[inline(always)]
pub fn judge_set(scratch: &mut Scratch, subject: &Subject, set: usize) {
    let classes = class::of_set(set) | class::READ | class::WRITE;
    policy::judge_classes(&mut scratch.record, subject, classes, access::WRITE);
    scratch.record.classes = class::of_set(set);
}

/// An LSM hook on a change to one file that stands at `place`.
#[inline(always)]
pub fn change_at(op: u8, place: Place) -> i32 {
    lsm(kind::CHANGE, |scratch, subject| {
        scratch.record.op = op;
        describe_inode(scratch, place.inode());
        judge_place(scratch, subject, 0, place, 0, access::WRITE);
    })
}

/// An LSM hook on a change to the entry `dentry` of the directory at `directory`.
#[inline(always)]
pub fn change_entry(op: u8, directory: Address, dentry: Address) -> i32 {
    change_at(op, Place { mount: field!(directory, path_mnt), dentry })
}

/// An LSM hook on a change that names only the dentry.
#[inline(always)]
pub fn change_dentry(op: u8, dentry: Address) -> i32 {
    change_at(op, Place { mount: path::some_mount(current_task(), dentry), dentry })
}

/// An LSM hook on a rename or hard link, both ends judged as writes. A rename also moves what lies
/// beneath: `above` bits count as the object's own.
#[inline(always)]
pub fn change_two(op: u8, old: Place, new: Place) -> i32 {
    lsm(kind::CHANGE, |scratch, subject| {
        let inode = old.inode();
        scratch.record.op = op;
        describe_inode(scratch, inode);
        let (moved, exchanged) = if op == change::RENAME {
            let other = new.inode();
            scratch.record.flags |= (other != 0) as u32 * flags::REPLACED;
            (label::of_inode(inode).above, label::of_inode(other).above)
        } else {
            (0, 0)
        };
        scratch.record.labels |= moved | exchanged;
        judge_place(scratch, subject, 0, old, moved, access::WRITE);
        judge_place(scratch, subject, 1, new, exchanged, access::WRITE);
        if scratch.record.decision.verdict < verdict::DENY || !subject.enforcing() {
            label::inherit(inode, &new);
        }
    })
}
