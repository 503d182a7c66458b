//! Labels by inode: what a file is, whatever name it goes by.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use aya_log_ebpf::warn;
use monitor_common::{
    limits::{LABEL_FILTER_WORDS, PATH_DEPTH_MAX},
    policy::{InodeKey, Label},
    record::counter,
};

use crate::{
    atomic, emit,
    kernel_field::{Address, field, offset},
    maps::{LABEL_FILTER, LABELS},
    path::{Dentry, Place},
};

/// Word and bit of an inode in the filter.
#[inline(always)]
fn filter_place(dev: u32, ino: u64) -> (u32, u64) {
    // Fibonacci hashing: numbers that follow each other spread.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = ((ino ^ (dev as u64) << 32).wrapping_mul(GOLDEN) >> 32) as u32;
    (hash >> 6 & (LABEL_FILTER_WORDS - 1), 1 << (hash & 63))
}

/// Label of an inode of the file system on `dev`, if it says something of the inode itself or of
/// what lies beneath.
#[inline(always)]
pub fn find(dev: u32, inode: Address) -> Option<&'static Label> {
    let ino = field!(inode, inode_ino);
    let (word, bit) = filter_place(dev, ino);
    // SAFETY: a map value; volatile because other CPUs set bits.
    let bits = unsafe { core::ptr::read_volatile(LABEL_FILTER.get_ptr(word)?) };
    if bits & bit == 0 {
        return None;
    }
    of_key(&InodeKey { ino, dev, generation: field!(inode, inode_generation) })
}

#[inline(always)]
fn of_key(key: &InodeKey) -> Option<&'static Label> {
    // SAFETY: labels are added and changed, never removed while programs run.
    unsafe { LABELS.get(key) }
}

/// Label of an inode.
#[inline(always)]
pub fn of_inode(inode: Address) -> Label {
    of_key(&key_of(inode)).copied().unwrap_or_default()
}

/// Identity of an inode.
#[inline(always)]
fn key_of(inode: Address) -> InodeKey {
    InodeKey {
        ino: field!(inode, inode_ino),
        dev: field!(field!(inode, inode_sb), sb_dev),
        generation: field!(inode, inode_generation),
    }
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
    // SAFETY: `bpf_loop` hands over the context that `from_ancestors` gave it.
    let ancestors = unsafe { &mut *ancestors };
    if ancestors.parent == ancestors.dentry {
        return 1;
    }
    let Dentry { parent, inode, .. } = Dentry::of(ancestors.parent);
    if let Some(label) = find(ancestors.dev, inode) {
        ancestors.bits |= label.beneath;
    }
    ancestors.dentry = ancestors.parent;
    ancestors.parent = parent;
    0
}

/// Set bits of the directories above a dentry (`beneath`), followed to the root of its file system
/// and not of its mount: bind mounts and chroots do not cut the chain.
///
/// A global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn from_ancestors(dentry: Address) -> u32 {
    let sb: Address = field!(dentry, dentry_sb);
    let Dentry { parent, .. } = Dentry::of(dentry);
    let mut ancestors = Ancestors { dentry, parent, dev: field!(sb, sb_dev), bits: 0 };
    // SAFETY: the callback and its context match; volatile because the compiler does not see the
    // callback write.
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

/// Adds bits to the label of an inode.
#[inline(always)]
pub fn add(inode: Address, label: &Label) -> bool {
    let key = key_of(inode);
    let mut merged = of_key(&key).copied().unwrap_or_default();
    merged.own |= label.own;
    merged.beneath |= label.beneath;
    merged.above |= label.above;
    // The filter first: a label that is found is never filtered out.
    let (word, bit) = filter_place(key.dev, key.ino);
    if merged.own | merged.beneath != 0
        && let Some(bits) = LABEL_FILTER.get_ptr_mut(word)
    {
        // SAFETY: a map value that is only written atomically.
        unsafe { atomic::or(bits, bit) };
    }
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
