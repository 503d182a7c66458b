//! Resolved paths from kernel objects: a walk over dentries and mounts up to the root of the mount
//! namespace, whatever the process's own root is.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};
use monitor_common::{
    limits::{PATH_DEPTH_MAX, PATH_MAX},
    offsets::ABSENT,
    record::flags,
};

use crate::{
    kernel_field::{Address, Span, current_task, field, offset, read},
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

    /// Whether this is beneath the private copy of a mount that a stacked file system keeps.
    #[inline(always)]
    pub fn is_beneath_stack(&self) -> bool {
        let mount = self.mount.wrapping_sub(offset!(mount_mnt) as u64);
        let namespace: Address = field!(mount, mount_mnt_ns);
        let parent: Address = field!(self.dentry, dentry_parent);
        namespace >= ERROR_POINTERS && parent != self.dentry
    }

    /// Whether there is no name at all, as for pipes and sockets.
    #[inline(always)]
    pub fn is_nameless(&self) -> bool {
        Dentry::of(self.dentry).name_len == 0
    }

    /// The inode, 0 for a name that does not exist yet.
    #[inline(always)]
    pub fn inode(&self) -> Address {
        field!(self.dentry, dentry_inode)
    }
}

/// What walks need of a `struct dentry`, by one read: its fields stand side by side.
pub struct Dentry {
    /// `d_parent`, itself at the root of a file system.
    pub parent: Address,
    /// `d_inode`, 0 for a name that does not exist yet.
    pub inode: Address,
    name: Address,
    name_len: u32,
}

impl Dentry {
    /// Reads it.
    #[inline(always)]
    pub fn of(dentry: Address) -> Self {
        let mut words = [0; 4];
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

#[repr(C)]
struct Walk {
    buffer: *mut u8,
    dentry: Address,
    mount: Address,
    mount_root: Address,
    at: u32,
    state: u32,
}

const GOING: u32 = 0;
const ROOT: u32 = 1;
const DETACHED: u32 = 2;
const FOREIGN: u32 = 3;

/// Lowest address that is an error number: what mounts that belong to no namespace have for one.
const ERROR_POINTERS: Address = -4095_i64 as Address;

/// What a walk that ends at the top of `mount` has arrived at.
#[inline(always)]
fn root_of(mount: Address) -> u32 {
    let namespace: Address = field!(mount, mount_mnt_ns);
    let namespaces: Address = field!(current_task(), task_nsproxy);
    let own: Address = field!(namespaces, nsproxy_mnt_ns);
    // The kernel's own mounts (memfd, pipes, sockets) are in no namespace, and name what they hold
    // in ways that no path has.
    if namespace == own || namespace >= ERROR_POINTERS { ROOT } else { FOREIGN }
}

/// One component, or one mount crossing.
#[inline(never)]
extern "C" fn climb(_index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `resolve` gave it.
    let walk = unsafe { &mut *walk };
    let dentry = walk.dentry;
    if dentry == walk.mount_root {
        let mount = walk.mount.wrapping_sub(offset!(mount_mnt) as u64);
        let parent: Address = field!(mount, mount_parent);
        if parent == mount {
            walk.state = root_of(mount);
            return 1;
        }
        walk.dentry = field!(mount, mount_mountpoint);
        walk.mount = parent.wrapping_add(offset!(mount_mnt) as u64);
        walk.mount_root = field!(walk.mount, vfsmount_root);
        return 0;
    }
    let Dentry { parent, name: text, name_len, .. } = Dentry::of(dentry);
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
            walk.buffer.add((at & 0xfff) as usize).cast::<c_void>(),
            length,
            text as *const c_void,
        );
    }
    at -= 1;
    // SAFETY: masked to the buffer.
    unsafe { *walk.buffer.add((at & 0xfff) as usize) = b'/' };
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
/// with it. A path beyond the bounds stays empty.
#[inline(always)]
pub fn resolve(scratch: &mut Scratch, position: usize, place: Place) {
    resolve_in_slot(scratch.lend(), position as u32, place.mount, place.dentry);
    scratch.settle();
}

/// [`resolve`] as a global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn resolve_in_slot(index: u32, position: u32, mount: Address, dentry: Address) -> u32 {
    let Some(slot) = SCRATCH.get_ptr_mut(index) else { return 0 };
    // SAFETY: the caller has claimed the slot and does not touch it meanwhile.
    let scratch = unsafe { &mut *slot };
    let mut walk = Walk {
        buffer: scratch.walk.as_mut_ptr(),
        dentry,
        mount,
        mount_root: field!(mount, vfsmount_root),
        at: PATH_MAX as u32 - 1,
        state: GOING,
    };
    // SAFETY: the callback and its context match.
    unsafe {
        bpf_loop(
            PATH_DEPTH_MAX,
            climb as *mut c_void,
            core::ptr::addr_of_mut!(walk).cast::<c_void>(),
            0,
        );
    }
    // SAFETY: a local; volatile because the compiler does not see the callback write.
    let (at, state) = unsafe {
        (
            core::ptr::read_volatile(core::ptr::addr_of!(walk.at)),
            core::ptr::read_volatile(core::ptr::addr_of!(walk.state)),
        )
    };
    if state == GOING {
        scratch.record.flags |= flags::TRUNCATED;
        return 0;
    }
    match state {
        DETACHED => scratch.record.flags |= flags::DETACHED,
        FOREIGN => scratch.record.flags |= flags::FOREIGN,
        _ => {}
    }
    let length = (PATH_MAX as u32 - 1).wrapping_sub(at) & 0xfff;
    set(scratch, position as usize & 3, length, at & 0xfff);
    1
}

/// Copies `length` bytes at `from` of the walk buffer to a string, NUL-padded to a whole word.
#[inline(always)]
fn set(scratch: &mut Scratch, position: usize, length: u32, from: u32) {
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
                scratch.walk.as_ptr().add((from & 0xfff) as usize).cast::<c_void>(),
            );
        }
        let length = if length == 0 { 1 } else { length & 0xfff };
        let end = strings.add(target).add(length as usize);
        let mut i = 0;
        while i < 8 {
            *end.add(i) = 0;
            i += 1;
        }
        scratch.record.lengths[position] = length as u16;
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
