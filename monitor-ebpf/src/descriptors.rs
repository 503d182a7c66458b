//! What the running process has open.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use crate::kernel_field::{Address, current_task, field, read};

/// Descriptors that are looked at.
const DESCRIPTORS_MAX: u32 = 1024;

#[repr(C)]
struct Search {
    entries: Address,
    inode: Address,
    apart: Address,
    found: u32,
}

#[inline(never)]
extern "C" fn look(descriptor: u64, search: *mut Search) -> i64 {
    // SAFETY: `bpf_loop` hands over the context that `has_open` gave it.
    let search = unsafe { &mut *search };
    let file: Address = read(search.entries.wrapping_add(descriptor * 8), 0);
    if file == 0 || file == search.apart {
        return 0;
    }
    let inode: Address = field!(file, file_inode);
    search.found = (inode == search.inode) as u32;
    search.found as i64
}

/// Whether the process has an inode open by another `struct file` than `apart`; of very many
/// descriptors the first are looked at.
///
/// A global function, which the verifier checks once for all its callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn has_open(inode: Address, apart: Address) -> u32 {
    let files: Address = field!(current_task(), task_files);
    let table: Address = field!(files, files_fdt);
    let size: u32 = field!(table, fdt_max);
    let entries: Address = field!(table, fdt_fd);
    let mut search = Search { entries, inode, apart, found: 0 };
    // SAFETY: the callback and its context match; volatile because the compiler does not see the
    // callback write.
    unsafe {
        bpf_loop(
            if size < DESCRIPTORS_MAX { size } else { DESCRIPTORS_MAX },
            look as *mut c_void,
            core::ptr::addr_of_mut!(search).cast::<c_void>(),
            0,
        );
        core::ptr::read_volatile(core::ptr::addr_of!(search.found))
    }
}
