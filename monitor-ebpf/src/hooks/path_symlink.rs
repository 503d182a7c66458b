//! Symbolic links: a write to the new name; the text is recorded, what it leads to is judged when
//! it is used.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, macros::lsm, programs::LsmContext};
use monitor_common::{
    limits::PATH_MAX,
    policy::access,
    record::{SECOND, change, kind},
};

use crate::{judge, kernel_field::field, path::Place, scratch::STRING_AT};

/// `int path_symlink(const struct path *dir, struct dentry *dentry, const char *old_name)`
#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    let directory = judge::pointer(&ctx, 0);
    let dentry = judge::address(&ctx, 1);
    let text = judge::pointer(&ctx, 2);
    judge::lsm(kind::CHANGE, |scratch, subject| {
        scratch.record.op = change::SYMLINK;
        let place = Place { mount: field!(directory, path_mnt), dentry };
        judge::judge_place(scratch, subject, 0, place, 0, access::WRITE);
        // SAFETY: string 1 has 4,104 bytes.
        let length = unsafe {
            bpf_probe_read_kernel_str(
                scratch.strings.as_mut_ptr().add(STRING_AT[SECOND] as usize).cast::<c_void>(),
                PATH_MAX as u32,
                text as *const c_void,
            )
        };
        if length > 0 {
            scratch.record.lengths[SECOND] = (length as u16 - 1) & 0xfff;
        }
    })
}
