//! Harness of the end-to-end tests.
//!
//! One static executable, `end-to-end`, holds all of them, so that the same tests run on this
//! machine and, by `cargo xtask vm-test`, in virtual machines, on either backend:
//!
//! ```text
//! end-to-end --backend lsm|tracepoint [FILTER] [--list] [--exact]
//! ```
//!
//! It runs as root and finds `mcp-monitor` (or `$MCP_MONITOR`) and `actor` beside itself.
//!
//! # Writing a test
//!
//! One file a behaviour in `behaviour/`, named in `behaviour/mod.rs`. A test is a function of a
//! [`Lab`]: a fixture HOME and a rules directory of its own, on the backend under test. It
//! returns an error where the behaviour is not as stated; assertions may panic, too.
//!
//! ```
//! use anyhow::Result;
//! use end_to_end::{Lab, Mode};
//!
//! end_to_end::tests! {
//!     both: [reading_a_private_key_is_stopped],
//! }
//!
//! fn reading_a_private_key_is_stopped(lab: &Lab) -> Result<()> {
//!     let key = lab.file(".ssh/id_ed25519", "secret")?;
//!     let plain = lab.file("notes.txt", "plain")?;
//!     lab.policy(r#"
//!         [files]
//!         read = ["${HOME}/**"]
//!         [response]
//!         sets = { secrets = "kill-tree" }
//!     "#)?;
//!     let outcome = lab.run(Mode::Enforce).command(["/bin/cat".as_ref(), key.as_os_str()])?;
//!     outcome.events.violation("open", "secret", &key)?;
//!     assert!(!outcome.stdout.contains("secret"), "{outcome}");
//!
//!     let twin = lab.run(Mode::Enforce).command(["/bin/cat".as_ref(), plain.as_os_str()])?;
//!     twin.events.event("open", &plain)?;
//!     twin.events.assert_quiet()
//! }
//! ```
//!
//! Where the backends differ, ask [`Lab::backend`]. Where the machine lacks what a test needs,
//! return [`skip`] with the reason; CI fails if a test is skipped on every kernel.
//!
//! After each test that passes every recording beneath the fixture's folder is replayed in an empty
//! root directory, and must give the recorded alerts, byte for byte.
//!
//! After each test the runner checks that no process, cgroup, pin or BPF link of it remains, and
//! ends what is left, also when the test failed.

pub mod behaviour;
mod browser;
pub mod cases;
pub mod demo;
mod elsewhere;
pub mod endurance;
mod events;
pub mod guard;
mod host;
mod lab;
mod leftovers;
pub mod network;
mod podman;
mod registry;
mod run;

pub use events::{Event, Events};
pub use lab::{Lab, Mode, skip};
pub use registry::{Backend, Skip, Test, trials};
pub use run::{Outcome, Run, Running, eventually};
