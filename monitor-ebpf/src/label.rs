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
    path::{Dentry, Place},
};

/// Identity of an inode.
#[inline(always)]
pub fn key_of(inode: Address) -> InodeKey {
    key_on(field!(field!(inode, inode_sb), sb_dev), inode)
}

/// Identity of an inode of the file system on `dev`.
#[inline(always)]
fn key_on(dev: u32, inode: Address) -> InodeKey {
    InodeKey { ino: field!(inode, inode_ino), dev, generation: field!(inode, inode_generation) }
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
    /// The last one that was looked at.
    dentry: Address,
    /// The one above it.
    parent: Address,
    dev: u32,
    bits: u32,
}

#[inline(never)]
extern "C" fn ascend(_index: u64, ancestors: *mut Ancestors) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `beneath` gave it.
    let ancestors = unsafe { &mut *ancestors };
    if ancestors.parent == ancestors.dentry {
        return 1;
    }
    let Dentry { parent, inode, .. } = Dentry::of(ancestors.parent);
    let key = key_on(ancestors.dev, inode);
    if let Some(label) = of_key(&key) {
        ancestors.bits |= label.beneath;
    }
    ancestors.dentry = ancestors.parent;
    ancestors.parent = parent;
    0
}

/// Set bits of the directories above a dentry (`beneath`), followed to the root of its file system
/// and not of its mount: bind mounts and chroots do not cut the chain. In the upper half those of
/// the dentry's inode itself (`own`).
///
/// A global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bits_of_dentry(dentry: Address) -> u64 {
    let sb: Address = field!(dentry, dentry_sb);
    let Dentry { parent, inode, .. } = Dentry::of(dentry);
    let mut ancestors = Ancestors { dentry, parent, dev: field!(sb, sb_dev), bits: 0 };
    let own = match of_key(&key_on(ancestors.dev, inode)) {
        Some(label) if inode != 0 => label.own,
        _ => 0,
    };
    // SAFETY: the callback and its context match.
    let beneath = unsafe {
        bpf_loop(
            PATH_DEPTH_MAX,
            ascend as *mut c_void,
            core::ptr::addr_of_mut!(ancestors).cast::<c_void>(),
            0,
        );
        core::ptr::read_volatile(core::ptr::addr_of!(ancestors.bits))
    };
    (own as u64) << 32 | beneath as u64
}

/// Set bits that a dentry has from the directories above it.
#[inline(always)]
pub fn from_ancestors(dentry: Address) -> u32 {
    bits_of_dentry(dentry) as u32
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
    let bits = bits_of_dentry(place.dentry);
    (bits >> 32) as u32 | bits as u32
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
