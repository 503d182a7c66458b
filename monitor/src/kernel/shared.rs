//! Array maps mapped into this process, so that an element is written with one store.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Pod,
    maps::{MapData, MapInfo},
};

use super::KernelError;

/// An array map (created with BPF_F_MMAPABLE) in this process's memory.
pub struct Shared<T> {
    memory: NonNull<T>,
    elements: usize,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is shared memory that any thread may use;
// writes go through `&mut self` or atomics.
unsafe impl<T: Pod> Send for Shared<T> {}

impl<T: Pod> Shared<T> {
    /// Maps the whole array, whose values are elements or runs of them.
    ///
    /// # Errors
    /// When the kernel refuses the mapping.
    pub fn map(map: &MapData) -> Result<Self, KernelError> {
        let info: MapInfo = map.info().map_err(KernelError::Map)?;
        let elements = info.max_entries() as usize * info.value_size() as usize / size_of::<T>();
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = (elements * size_of::<T>()).next_multiple_of(page);
        // SAFETY: a fresh shared mapping of a descriptor that we hold; nothing is overwritten.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(KernelError::Mmap(io::Error::last_os_error()));
        }
        let memory = NonNull::new(memory.cast::<T>()).ok_or(KernelError::MissingMap("mapping"))?;
        Ok(Self { memory, elements, bytes })
    }

    /// Copies elements to `at` and the following positions, where no program reads yet.
    pub fn write(&mut self, at: u32, elements: &[T]) {
        let at = at as usize;
        assert!(at + elements.len() <= self.elements, "the allocator stays within the map");
        // SAFETY: within the mapping, as asserted.
        unsafe {
            let target = self.memory.as_ptr().add(at);
            std::ptr::copy_nonoverlapping(elements.as_ptr(), target, elements.len());
        }
    }

    /// Whether the elements at `at` and the following positions have these very bytes.
    pub fn holds(&self, at: u32, elements: &[T]) -> bool {
        let at = at as usize;
        if at.checked_add(elements.len()).is_none_or(|end| end > self.elements) {
            return false;
        }
        let bytes = size_of_val(elements);
        // SAFETY: both ranges are live and of that size; `Pod` types are plain bytes, and nobody
        // writes to tables in use.
        unsafe {
            let own = self.memory.as_ptr().add(at).cast::<u8>();
            std::slice::from_raw_parts(own, bytes)
                == std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), bytes)
        }
    }

    /// The 32-bit word number `word` of the element at `at`.
    pub fn word(&self, at: u32, word: usize) -> &AtomicU32 {
        let at = at as usize;
        assert!(at < self.elements && (word + 1) * 4 <= size_of::<T>(), "within the element");
        // SAFETY: within the mapping and aligned, as elements are multiples of 8 bytes; the
        // kernel's side uses whole-word accesses.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(at).cast::<u32>().add(word)) }
    }

    /// Stores a word, after everything written before.
    pub fn store(&self, at: u32, word: usize, value: u32) {
        self.word(at, word).store(value, Ordering::Release);
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, used by nobody after this.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}
