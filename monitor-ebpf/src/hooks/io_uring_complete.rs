//! Opens through io_uring on the tracepoint backend: they pass no system call of their own.

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use monitor_common::record::flags;

use crate::{
    hooks::sys_exit::open,
    instance::{self, Current},
    kernel_field::{Address, field, read},
};

// include/uapi/linux/io_uring.h
const IORING_OP_OPENAT: u8 = 18;
const IORING_OP_OPENAT2: u8 = 28;
/// Offset of `res` in `struct io_uring_cqe`.
const CQE_RESULT_AT: u32 = 8;

/// `io_uring_complete(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe)`, since 6.12
#[btf_tracepoint(function = "io_uring_complete")]
pub fn io_uring_complete(ctx: BtfTracePointContext) -> i32 {
    let cqe = ctx.arg::<*const c_void>(2) as Address;
    completed(ctx.arg::<*const c_void>(1) as Address, read(cqe, CQE_RESULT_AT))
}

/// `io_uring_complete(void *ctx, void *req, u64 user_data, int res, unsigned cflags, u64 extra1,
/// u64 extra2)`, before
#[btf_tracepoint(function = "io_uring_complete")]
pub fn io_uring_complete_with_result(ctx: BtfTracePointContext) -> i32 {
    completed(ctx.arg::<*const c_void>(1) as Address, ctx.arg::<i32>(3))
}

#[inline(always)]
fn completed(request: Address, result: i32) -> i32 {
    let Current::Tagged(subject) = instance::current() else { return 0 };
    let opcode: u8 = field!(request, io_kiocb_opcode);
    if result >= 0 && matches!(opcode, IORING_OP_OPENAT | IORING_OP_OPENAT2) {
        open(&subject, result as u64, flags::IO_URING);
    }
    0
}
