//! Resolved paths from kernel objects: a walk over dentries and mounts up to the root of the mount
//! namespace, whatever the process's own root is.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};
use monitor_common::{
    limits::{PATH_DEPTH_MAX, PATH_MAX},
    offsets::ABSENT,
    record::flags,
};

use crate::{
    kernel_field::{Address, Span, current_task, field, load, offset, read},
    label,
    maps::SCRATCH,
    scratch::{STRING_BYTES, Scratch},
};

/// Where an object stands: a dentry, and the mount it was reached through.
#[derive(Clone, Copy)]
pub struct Place {
    /// `struct vfsmount *`.
    pub mount: Address,
    /// `struct dentry *`.
    pub dentry: Address,
}

impl Place {
    /// Reads a `struct path`.
    #[inline(always)]
    pub fn of_path(path: Address) -> Self {
        Self { mount: field!(path, path_mnt), dentry: field!(path, path_dentry) }
    }

    /// Place of an open file.
    #[inline(always)]
    pub fn of_file(file: Address) -> Self {
        Self::of_path(file.wrapping_add(offset!(file_path) as u64))
    }

    /// The inode, 0 for a name that does not exist yet.
    #[inline(always)]
    pub fn inode(&self) -> Address {
        field!(self.dentry, dentry_inode)
    }
}

/// What walks need of a `struct dentry`, by one read: its fields stand side by side.
#[derive(Clone, Copy)]
pub struct Dentry {
    /// `d_parent`, itself at the root of a file system.
    pub parent: Address,
    /// `d_inode`, 0 for a name that does not exist yet.
    pub inode: Address,
    /// Where its name is.
    pub name: Address,
    /// Bytes of the name; 0 for what has none, as pipes and sockets.
    pub name_len: u32,
}

impl Dentry {
    /// Reads it.
    #[inline(always)]
    pub fn of(dentry: Address) -> Self {
        let mut words = MaybeUninit::<[u64; 4]>::uninit();
        let span = Span::copy(&mut words, dentry, offset!(dentry_parent));
        let name = offset!(dentry_name);
        Self {
            parent: span.get(offset!(dentry_parent)),
            inode: span.get(offset!(dentry_inode)),
            name: span.get(name + offset!(qstr_name)),
            name_len: span.get(name + offset!(qstr_len)),
        }
    }
}

/// A walk, in the hook's scratch slot: of values in maps the verifier knows nothing, so that it
/// follows one component only, where it would follow each that it can tell from the others.
#[repr(C)]
pub struct Walk {
    dentry: Address,
    mount: Address,
    mount_root: Address,
    /// A dentry whose ancestors' labels the walk does not come by; 0 when there is none.
    rest: Address,
    /// Device of the file system that labels are taken from: the object's own.
    dev: u32,
    /// Whether the walk is still on that file system.
    at_home: u32,
    labels: u32,
    at: u32,
    state: u32,
    reserved: u32,
}

const GOING: u32 = 0;
const ROOT: u32 = 1;
const DETACHED: u32 = 2;
const FOREIGN: u32 = 3;
const PRIVATE: u32 = 4;

/// Lowest address that is an error number: what mounts that belong to no namespace have for one.
const ERROR_POINTERS: Address = -4095_i64 as Address;

/// What a walk that ends at the top of `mount` has arrived at.
#[inline(always)]
fn root_of(mount: Address) -> u32 {
    let namespace: Address = field!(mount, mount_mnt_ns);
    let namespaces: Address = load!(current_task(), task_nsproxy);
    let own: Address = load!(namespaces, nsproxy_mnt_ns);
    // Of the kernel's own mounts, which are in no namespace, only the copies that stacked file
    // systems keep have directories; what the others hold (memfd, pipes, sockets) is DETACHED.
    match namespace {
        _ if namespace == own => ROOT,
        ERROR_POINTERS.. => PRIVATE,
        _ => FOREIGN,
    }
}

/// One component, or one mount crossing.
#[inline(never)]
extern "C" fn climb(index: u64, slot: *mut *mut Scratch) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `resolve_in_slot` gave it: a claimed slot, to
    // which nobody else writes meanwhile.
    let scratch = unsafe { &mut **slot };
    let walk = &mut scratch.walk;
    let dentry = walk.dentry;
    let entry = Dentry::of(dentry);
    let Dentry { parent, name, name_len, inode } = entry;
    if index == 0 {
        scratch.entry = entry;
    }
    if walk.at_home != 0
        && let Some(label) = label::find(walk.dev, inode)
    {
        walk.labels |= if index == 0 { label.own } else { label.beneath };
    }
    if dentry == walk.mount_root {
        if walk.at_home != 0 && parent != dentry {
            // A bind mount: the chain of labels goes on beyond its root.
            walk.rest = dentry;
        }
        walk.at_home = 0;
        let mount = walk.mount.wrapping_sub(offset!(mount_mnt) as u64);
        let above: Address = field!(mount, mount_parent);
        if above == mount {
            walk.state = root_of(mount);
            return 1;
        }
        walk.dentry = field!(mount, mount_mountpoint);
        walk.mount = above.wrapping_add(offset!(mount_mnt) as u64);
        walk.mount_root = field!(walk.mount, vfsmount_root);
        return 0;
    }
    let length = name_len & 0xff;
    if parent == dentry && length <= 1 {
        // The root of a file system, which is called `/`.
        walk.state = DETACHED;
        return 1;
    }
    let mut at = walk.at & 0x1fff;
    if at <= length || at > PATH_MAX as u32 {
        return 1;
    }
    at -= length;
    // SAFETY: `at` is below PATH_MAX + 1 after the check above and the buffer has 512 bytes more.
    unsafe {
        bpf_probe_read_kernel(
            scratch.backwards.as_mut_ptr().add((at & 0xfff) as usize).cast::<c_void>(),
            length,
            name as *const c_void,
        );
    }
    at -= 1;
    // SAFETY: masked to the buffer.
    unsafe { *scratch.backwards.as_mut_ptr().add((at & 0xfff) as usize) = b'/' };
    walk.at = at;
    if parent == dentry {
        // Something without a directory, such as `memfd:name`.
        walk.state = DETACHED;
        return 1;
    }
    walk.dentry = parent;
    0
}

/// Writes the path of `place` as the record's string number `position` and flags what is wrong
/// with it; a path beyond the bounds stays empty. Gives the set bits of what stands there: of its
/// own label and of those of the directories above it.
#[inline(always)]
pub fn resolve(scratch: &mut Scratch, position: usize, place: Place) -> u32 {
    let labels = resolve_in_slot(scratch.lend(), position as u32, place.mount, place.dentry);
    scratch.settle();
    // Not from inside of that function: the stacks of all that call each other are limited.
    match scratch.unseen {
        0 => labels,
        dentry => labels | label::from_ancestors(dentry),
    }
}

/// [`resolve`] as a global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn resolve_in_slot(index: u32, position: u32, mount: Address, dentry: Address) -> u32 {
    let Some(slot) = SCRATCH.get_ptr_mut(index) else { return 0 };
    // SAFETY: the caller has claimed the slot and does not touch it meanwhile.
    let scratch = unsafe { &mut *slot };
    let sb: Address = field!(dentry, dentry_sb);
    scratch.walk = Walk {
        dentry,
        mount,
        mount_root: field!(mount, vfsmount_root),
        rest: 0,
        dev: field!(sb, sb_dev),
        at_home: 1,
        labels: 0,
        at: PATH_MAX as u32 - 1,
        state: GOING,
        reserved: 0,
    };
    scratch.settle();
    let mut context = slot;
    // SAFETY: the callback and its context match.
    unsafe {
        bpf_loop(
            PATH_DEPTH_MAX,
            climb as *mut c_void,
            core::ptr::addr_of_mut!(context).cast::<c_void>(),
            0,
        );
    }
    scratch.settle();
    let Walk { at, state, labels, at_home, dentry, rest, .. } = scratch.walk;
    scratch.is_private = (state == PRIVATE) as u64;
    scratch.unseen = if state == GOING && at_home != 0 { dentry } else { rest };
    if state == GOING {
        scratch.record.flags |= flags::TRUNCATED;
        return labels;
    }
    match state {
        DETACHED | PRIVATE => scratch.record.flags |= flags::DETACHED,
        FOREIGN => scratch.record.flags |= flags::FOREIGN,
        _ => {}
    }
    let length = (PATH_MAX as u32 - 1).wrapping_sub(at) & 0xfff;
    set(scratch, position as usize & 3, length, at & 0xfff);
    labels
}

/// Copies `length` bytes at `from` of what a walk has written to a string.
#[inline(always)]
pub fn set(scratch: &mut Scratch, position: usize, length: u32, from: u32) {
    let target = position * STRING_BYTES;
    let strings = scratch.strings.as_mut_ptr();
    // SAFETY: strings have 4,104 bytes each, of which at most 4,095 + 8 are written.
    unsafe {
        if length == 0 {
            *strings.add(target) = b'/';
        } else {
            bpf_probe_read_kernel(
                strings.add(target).cast::<c_void>(),
                length & 0xfff,
                scratch.backwards.as_ptr().add((from & 0xfff) as usize).cast::<c_void>(),
            );
        }
        scratch.record.lengths[position] = if length == 0 { 1 } else { length as u16 & 0xfff };
    }
}

/// A mount through which a dentry can be named when the hook gives none: the one the process is
/// in, or the first of the file system.
#[inline(always)]
pub fn some_mount(task: Address, dentry: Address) -> Address {
    let sb: Address = field!(dentry, dentry_sb);
    let fs: Address = field!(task, task_fs);
    let pwd: Address = read(fs, offset!(fs_pwd) + offset!(path_mnt));
    let pwd_sb: Address = field!(pwd, vfsmount_sb);
    if pwd_sb == sb {
        return pwd;
    }
    let root: Address = read(fs, offset!(fs_root) + offset!(path_mnt));
    let root_sb: Address = field!(root, vfsmount_sb);
    if root_sb == sb || offset!(mount_instance) == ABSENT {
        return root;
    }
    let first: Address = field!(sb, sb_mounts);
    first.wrapping_sub(offset!(mount_instance) as u64).wrapping_add(offset!(mount_mnt) as u64)
}
