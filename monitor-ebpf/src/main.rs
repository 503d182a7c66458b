//! The kernel programs of `mcp-monitor`.
//!
//! Every hook is thin: it asks [`instance`] whether the process is tagged, fills a record in a
//! claimed [`scratch`] slot from kernel objects ([`path`], [`label`]), lets [`policy`] decide and
//! carry out the verdict, and hands the record to [`emit`]. An untagged process pays one look-up.
//! A hook that fails on a tagged process refuses and counts.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod argument;
mod atomic;
mod breadth;
mod descriptors;
mod emit;
mod hooks;
mod instance;
mod judge;
mod kernel_field;
mod label;
mod maps;
mod matching;
mod network;
mod path;
mod policy;
mod scratch;
mod unix_socket;
mod vector;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no panic is reachable; the linker wants the symbol.
    loop {}
}

/// The kernel lets only GPL-compatible programs read kernel memory.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
