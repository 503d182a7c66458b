//! Arguments of a system call, read at its exit. They are the user's and may have changed since
//! the kernel used them: records that rest on them say so.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use monitor_common::{limits::PATH_MAX, policy::access, record::flags, syscall::NO_ARGUMENT};

use crate::{
    hooks::control::file_of,
    instance::Subject,
    kernel_field::{Address, current_task, field, offset},
    label,
    path::{self, Place},
    policy,
    scratch::{STRING_AT, Scratch},
};

/// include/uapi/linux/fcntl.h
const AT_FDCWD: i32 = -100;

/// Registers of a call.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// `struct pt_regs *`.
    pub registers: Address,
    /// A 32-bit call.
    pub compat: bool,
}

impl Arguments {
    /// Argument number `index`.
    #[inline(always)]
    pub fn get(self, index: u8) -> u64 {
        let registers = self.registers;
        if self.compat {
            let value: u64 = match index {
                0 => field!(registers, regs_bx),
                1 => field!(registers, regs_cx),
                2 => field!(registers, regs_dx),
                3 => field!(registers, regs_si),
                4 => field!(registers, regs_di),
                _ => field!(registers, regs_bp),
            };
            return value & 0xffff_ffff;
        }
        match index {
            0 => field!(registers, regs_di),
            1 => field!(registers, regs_si),
            2 => field!(registers, regs_dx),
            3 => field!(registers, regs_r10),
            4 => field!(registers, regs_r8),
            _ => field!(registers, regs_r9),
        }
    }

    /// The file behind the descriptor in argument `index`, 0 when there is none.
    #[inline(always)]
    pub fn file(self, index: u8) -> Address {
        file_of(current_task(), self.get(index) as u32 as u64)
    }
}

/// A word of user memory, 0 when it cannot be read.
#[inline(always)]
pub fn user_word(address: u64) -> u64 {
    let mut word = 0u64;
    // SAFETY: the helper writes 8 bytes and checks the source itself.
    unsafe {
        bpf_probe_read_user(
            core::ptr::addr_of_mut!(word).cast::<c_void>(),
            8,
            address as *const c_void,
        );
    }
    word
}

/// Where a relative path starts.
#[inline(always)]
fn base(arguments: Arguments, directory: u8) -> Place {
    let descriptor =
        if directory == NO_ARGUMENT { AT_FDCWD } else { arguments.get(directory) as i32 };
    if descriptor == AT_FDCWD {
        let fs: Address = field!(current_task(), task_fs);
        return Place::of_path(fs.wrapping_add(offset!(fs_pwd) as u64));
    }
    Place::of_file(file_of(current_task(), descriptor as u32 as u64))
}

/// Writes the path in user memory at `text` as string `position`, behind that of the directory it
/// is relative to; gives the set bits that the directory hands down.
#[inline(always)]
pub fn join(
    scratch: &mut Scratch,
    position: usize,
    arguments: Arguments,
    directory: u8,
    text: u64,
) -> u32 {
    scratch.record.flags |= flags::ARGUMENT;
    let first = user_word(text) as u8;
    let mut length = 0;
    let mut labels = 0;
    if first != b'/' {
        let place = base(arguments, directory);
        path::resolve(scratch, position, place);
        labels = label::of_inode(place.inode()).beneath | label::from_ancestors(place.dentry);
        length = scratch.record.lengths[position] as u32 & 0xfff;
        if first == 0 {
            return labels;
        }
        // The root's own slash is the separator.
        length = if length == 1 { 0 } else { length };
    }
    // SAFETY: `length` is below 4,096 and strings have 4,104 bytes, with more strings behind.
    let read = unsafe {
        let target = scratch.strings.as_mut_ptr().add(STRING_AT[position] as usize);
        let mut at = target.add(length as usize);
        if first != b'/' {
            *at = b'/';
            at = at.add(1);
            length += 1;
        }
        bpf_probe_read_user_str(
            at.cast::<c_void>(),
            (PATH_MAX as u32).wrapping_sub(length) & 0x1fff,
            text as *const c_void,
        )
    };
    let total = length as i64 + read - 1;
    if read <= 0 || total >= PATH_MAX as i64 - 1 {
        scratch.record.flags |= flags::TRUNCATED;
        scratch.record.lengths[position] = 0;
        return labels;
    }
    scratch.record.lengths[position] = total as u16 & 0xfff;
    labels
}

/// Describes and judges a path argument as a write.
#[inline(always)]
pub fn judge_write(
    scratch: &mut Scratch,
    subject: &Subject,
    position: usize,
    arguments: Arguments,
    directory: u8,
    path: u8,
) {
    let labels = join(scratch, position, arguments, directory, arguments.get(path));
    scratch.record.labels |= labels;
    policy::judge_path(scratch, subject, position, labels, access::WRITE);
}
