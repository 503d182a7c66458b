//! AF_UNIX sockets: judged by the path or abstract name that the peer is bound to, never by the
//! string that was given.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_probe_read_user_str,
};
use monitor_common::{
    policy::access,
    record::{Peer, flags},
    syscall::NO_ARGUMENT,
};

use crate::{
    argument::{self, Arguments},
    instance::Subject,
    judge,
    kernel_field::{Address, field, offset},
    network::AF_UNIX,
    path::Place,
    policy,
    scratch::{Scratch, masked},
};

/// Bytes of `struct sockaddr_un` before the name.
const NAME_AT: u32 = 2;
/// `UNIX_PATH_MAX`.
const NAME_MAX: u32 = 108;

/// Describes and judges the `struct sock` at the other end; an unnamed one is of this tree or was
/// handed over, and is not judged.
#[inline(always)]
pub fn judge_sock(scratch: &mut Scratch, subject: &Subject, sock: Address, asked: u8) -> bool {
    scratch.record.peer = Peer { family: AF_UNIX, ..Peer::default() };
    let bound = Place::of_path(sock.wrapping_add(offset!(unix_path) as u64));
    if bound.dentry != 0 {
        judge::describe_inode(scratch, bound.inode());
        judge::judge_place(scratch, subject, 0, bound, 0, asked);
        return true;
    }
    let address: Address = field!(sock, unix_addr);
    if address == 0 {
        return false;
    }
    let length: u32 = field!(address, unix_address_len);
    read_abstract(scratch, address, length);
    policy::judge_path(scratch, subject, 0, 0, asked);
    true
}

/// Writes an abstract name as string 0: `@` and the bytes behind the leading NUL.
#[inline(always)]
fn read_abstract(scratch: &mut Scratch, address: Address, length: u32) {
    scratch.record.flags |= flags::ABSTRACT;
    let name = address.wrapping_add((offset!(unix_address_name) + NAME_AT) as u64);
    let length = length.wrapping_sub(NAME_AT);
    let length = masked::<0x7f>(length.min(NAME_MAX));
    // SAFETY: string 0 has 4,104 bytes, of which at most 127 are written.
    unsafe {
        let measured = bpf_probe_read_kernel_str(
            scratch.backwards.as_mut_ptr().cast::<c_void>(),
            NAME_MAX,
            name.wrapping_add(1) as *const c_void,
        );
        if measured >= 0 && (measured as u32) < length {
            // A NUL inside the name would end the match early.
            scratch.record.flags |= flags::TRUNCATED;
        }
        let target = scratch.strings.as_mut_ptr();
        bpf_probe_read_kernel(target.cast::<c_void>(), length, name as *const c_void);
        *target = b'@';
    }
    scratch.record.lengths[0] = length as u16;
}

/// What connects and sends to AF_UNIX sockets ask.
pub const TO_SOCKET: u8 = access::UNIX;

/// An address in user memory.
pub struct Named {
    /// Where it begins, 0 when the call names none.
    pub address: u64,
    /// Its length as the caller says.
    pub length: u32,
}

/// Describes and judges an address given to a send, which the kernel keeps no trace of.
#[inline(always)]
pub fn judge_named(scratch: &mut Scratch, subject: &Subject, arguments: Arguments, named: Named) {
    scratch.record.peer = Peer { family: AF_UNIX, ..Peer::default() };
    let text = named.address.wrapping_add(NAME_AT as u64);
    let start = argument::user_word(text);
    let labels = if start as u8 == 0 {
        scratch.record.flags |= flags::ARGUMENT;
        read_abstract_argument(scratch, text, named.length);
        0
    } else {
        argument::join(scratch, 0, arguments, NO_ARGUMENT, text)
    };
    scratch.record.labels |= labels;
    policy::judge_path(scratch, subject, 0, labels, TO_SOCKET);
}

/// [`read_abstract`] from user memory, where no NUL ends the name.
#[inline(always)]
fn read_abstract_argument(scratch: &mut Scratch, name: u64, length: u32) {
    scratch.record.flags |= flags::ABSTRACT;
    let length = length.wrapping_sub(NAME_AT);
    let length = masked::<0x7f>(length.min(NAME_MAX));
    // SAFETY: string 0 has 4,104 bytes, of which at most 127 are written; the walk's buffer
    // has more than NAME_MAX.
    unsafe {
        let measured = bpf_probe_read_user_str(
            scratch.backwards.as_mut_ptr().cast::<c_void>(),
            length,
            name.wrapping_add(1) as *const c_void,
        );
        if measured >= 0 && (measured as u32) < length {
            // A NUL inside the name would end the match early.
            scratch.record.flags |= flags::TRUNCATED;
        }
        let target = scratch.strings.as_mut_ptr();
        bpf_probe_read_user(target.cast::<c_void>(), length, name as *const c_void);
        *target = b'@';
    }
    scratch.record.lengths[0] = length as u16;
}
