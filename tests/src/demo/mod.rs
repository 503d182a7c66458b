//! The demonstration: what a person sees with `cargo xtask demo`, and what the tests of
//! `behaviour/real_server.rs` assert.
//!
//! [`Scene`] is the stage: a HOME with things worth stealing, a process with a token in its
//! environment, a listener. [`honest`] drives the real filesystem server through a task;
//! [`turncoat`] starts a server that turns bad, with and without the monitor. All of it is made
//! up, and nothing is contacted but loopback.

mod client;
pub mod honest;
mod listener;
mod scene;
pub mod turncoat;

pub use client::{Ended, Session};
pub use scene::{SERVER, SERVER_PACKAGE, Scene};
