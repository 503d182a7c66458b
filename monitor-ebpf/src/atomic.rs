//! The three atomic instructions that the programs need. The compiler's BPF target offers loads and
//! stores only, so they are written down here.

use core::arch::asm;

/// Adds to a word in a map.
///
/// # Safety
///
/// `word` points to an aligned `u64` in a map value.
#[inline(always)]
pub unsafe fn add(word: *mut u64, delta: u64) {
    // SAFETY: the caller's; the instruction writes nothing else.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) word, in(reg) delta) };
}

/// Sets bits of a word in a map.
///
/// # Safety
///
/// `word` points to an aligned `u64` in a map value.
#[inline(always)]
pub unsafe fn or(word: *mut u64, bits: u64) {
    // SAFETY: the caller's; the instruction writes nothing else.
    unsafe { asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) word, in(reg) bits) };
}

/// Exchanges a word in a map, a full barrier; gives the old value.
///
/// # Safety
///
/// `word` points to an aligned `u64` in a map value.
#[inline(always)]
pub unsafe fn swap(word: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: the caller's; the instruction writes nothing else.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) word, inout(reg) value) };
    value
}
