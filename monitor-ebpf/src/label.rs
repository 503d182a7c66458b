//! Labels by inode: what a file is, whatever name it goes by.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use aya_log_ebpf::warn;
use monitor_common::{
    limits::PATH_DEPTH_MAX,
    policy::{InodeKey, Label},
    record::counter,
};

use crate::{
    emit,
    kernel_field::{Address, field, offset},
    maps::LABELS,
    path::Place,
};

/// Identity of an inode.
#[inline(always)]
pub fn key_of(inode: Address) -> InodeKey {
    InodeKey {
        ino: field!(inode, inode_ino),
        dev: field!(field!(inode, inode_sb), sb_dev),
        generation: field!(inode, inode_generation),
    }
}

#[inline(always)]
fn of_key(key: &InodeKey) -> Option<&'static Label> {
    // SAFETY: labels are added and changed, never removed while programs run.
    unsafe { LABELS.get(key) }
}

/// Label of an inode.
#[inline(always)]
pub fn of_inode(inode: Address) -> Label {
    if inode == 0 {
        return Label::default();
    }
    of_key(&key_of(inode)).copied().unwrap_or_default()
}

#[repr(C)]
struct Ancestors {
    dentry: Address,
    dev: u32,
    bits: u32,
}

#[inline(never)]
extern "C" fn ascend(_index: u64, ancestors: *mut Ancestors) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `beneath` gave it.
    let ancestors = unsafe { &mut *ancestors };
    let parent: Address = field!(ancestors.dentry, dentry_parent);
    if parent == ancestors.dentry {
        return 1;
    }
    let inode: Address = field!(parent, dentry_inode);
    let key = InodeKey {
        ino: field!(inode, inode_ino),
        dev: ancestors.dev,
        generation: field!(inode, inode_generation),
    };
    if let Some(label) = of_key(&key) {
        ancestors.bits |= label.beneath;
    }
    ancestors.dentry = parent;
    0
}

/// Set bits that a dentry has from the directories above it, followed to the root of its file
/// system and not of its mount: bind mounts and chroots do not cut the chain.
///
/// A global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn from_ancestors(dentry: Address) -> u32 {
    let sb: Address = field!(dentry, dentry_sb);
    let mut ancestors = Ancestors { dentry, dev: field!(sb, sb_dev), bits: 0 };
    // SAFETY: the callback and its context match.
    unsafe {
        bpf_loop(
            PATH_DEPTH_MAX,
            ascend as *mut c_void,
            core::ptr::addr_of_mut!(ancestors).cast::<c_void>(),
            0,
        );
        core::ptr::read_volatile(core::ptr::addr_of!(ancestors.bits))
    }
}

/// Set bits that an inode has from the directories above a name that the kernel has cached for it:
/// for hooks that are not told the name, such as opens behind an overlay before 6.5.
#[inline(always)]
pub fn of_any_name(inode: Address) -> u32 {
    let first: Address = field!(inode, inode_names);
    if first == 0 {
        return 0;
    }
    from_ancestors(first.wrapping_sub(offset!(dentry_alias) as u64))
}

/// Set bits of what stands at `place`: its own and those of the directories above it.
#[inline(always)]
pub fn of_place(place: &Place) -> u32 {
    of_inode(place.inode()).own | from_ancestors(place.dentry)
}

/// Adds bits to the label of an inode.
#[inline(always)]
pub fn add(inode: Address, label: &Label) -> bool {
    let key = key_of(inode);
    let mut merged = of_key(&key).copied().unwrap_or_default();
    merged.own |= label.own;
    merged.beneath |= label.beneath;
    merged.above |= label.above;
    let Err(errno) = LABELS.insert(key, merged, 0) else { return true };
    emit::count(counter::LABEL_FAILED);
    warn!((), "cannot label inode {} of device {}: {}", key.ino, key.dev, errno);
    false
}

/// Lets an inode that now stands at `place` inherit from the directory it is in, so that it keeps
/// the label under any later name.
#[inline(always)]
pub fn inherit(inode: Address, place: &Place) {
    let bits = from_ancestors(place.dentry);
    if bits != 0 && inode != 0 {
        add(inode, &Label { own: bits, beneath: bits, ..Label::default() });
    }
}
