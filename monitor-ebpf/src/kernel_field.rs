//! The only reads of kernel structs.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_kernel};
use monitor_common::offsets::Offsets;

/// Filled in by the loader from the running kernel's BTF.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
pub static OFFSETS: Offsets = Offsets::ZERO;

/// Offset of a field of [`OFFSETS`], as the loader has set it.
macro_rules! offset {
    ($field:ident) => {{
        // SAFETY: a static of plain integers; volatile because the loader changes it behind the
        // compiler's back.
        unsafe {
            core::ptr::read_volatile(core::ptr::addr_of!($crate::kernel_field::OFFSETS.$field))
        }
    }};
}

/// Reads a field of a kernel struct; 0 when the address is bad, as a kernel pointer read fails.
macro_rules! field {
    ($base:expr, $field:ident) => {
        $crate::kernel_field::read($base, $crate::kernel_field::offset!($field))
    };
}
/// Reads a field through a pointer whose type the verifier knows: an argument of the hook, the
/// running task, and what such a load gives. A plain load, where a checked copy would be a call.
macro_rules! load {
    ($base:expr, $field:ident) => {
        $crate::kernel_field::load_at($base, $crate::kernel_field::offset!($field))
    };
}
pub(crate) use {field, load, offset};

/// Address of a kernel object. Never dereferenced: reads go through the kernel's checked copy.
pub type Address = u64;

/// Types that any bit pattern is a value of.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u64 {}
impl Plain for [u8; 16] {}
impl Plain for [u8; 32] {}
impl Plain for [u64; 2] {}
impl Plain for [u64; 3] {}

/// Copies a value from kernel memory; zeros when the address is bad.
#[inline(always)]
pub fn read<T: Plain>(base: Address, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the source itself and writes `size_of::<T>()` bytes to `value` in
    // any case; `T: Plain` makes every outcome a value.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast::<c_void>(),
            size_of::<T>() as u32,
            base.wrapping_add(offset as u64) as *const c_void,
        );
        value.assume_init()
    }
}

/// See [`load!`].
#[inline(always)]
pub fn load_at<T: Plain>(base: Address, offset: u32) -> T {
    let address = base.wrapping_add(offset as u64) as *const T;
    // SAFETY: the verifier lets only pointers of known types through, and the kernel makes a load
    // from a stale one give 0.
    unsafe { address.read_volatile() }
}

/// The same address as a number, by way of `memory` in a map: the verifier does not let pointers of
/// known types into functions that it checks by themselves.
#[inline(always)]
pub fn number(memory: &mut u64, pointer: Address) -> Address {
    // SAFETY: a reference. Volatile, because the compiler knows that nothing changes.
    unsafe {
        core::ptr::write_volatile(memory, pointer);
        core::ptr::read_volatile(memory)
    }
}

/// A piece of a kernel struct, copied at once into `WORDS` words of the caller's: the kernel's
/// checked copy costs more by the call than by the byte.
pub struct Span<'a, const WORDS: usize> {
    words: &'a [u64; WORDS],
    base: Address,
    from: u32,
}

impl<'a, const WORDS: usize> Span<'a, WORDS> {
    /// Copies from the word that holds the field at `first`; zeros when the address is bad.
    #[inline(always)]
    pub fn copy(words: &'a mut MaybeUninit<[u64; WORDS]>, base: Address, first: u32) -> Self {
        let from = first & !7;
        // SAFETY: the helper checks the source and writes as many bytes as the array has in any
        // case.
        let words = unsafe {
            bpf_probe_read_kernel(
                words.as_mut_ptr().cast::<c_void>(),
                (WORDS * 8) as u32,
                base.wrapping_add(from as u64) as *const c_void,
            );
            words.assume_init_ref()
        };
        Self { words, base, from }
    }

    /// A field by its offset in the struct: from the copy, or read by itself on a kernel that
    /// keeps it elsewhere. Offsets are constants to the verifier, so only one way is left.
    #[inline(always)]
    pub fn get<T: Plain>(&self, offset: u32) -> T {
        let at = (offset as usize).wrapping_sub(self.from as usize);
        if at > WORDS * 8 - size_of::<T>() {
            return read(self.base, offset);
        }
        // SAFETY: within the words after the check. Fields lie at multiples of their alignment,
        // and the words begin at a multiple of 8.
        unsafe { self.words.as_ptr().cast::<u8>().add(at).cast::<T>().read() }
    }
}

/// The running task's `task_struct`, for [`load!`]s.
#[inline(always)]
pub fn current_task() -> Address {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf() as Address }
}
