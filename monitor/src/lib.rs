//! `mcp-monitor`: watches and judges the process trees of MCP servers.
//!
//! Data flows one way: [`kernel`] hands over ring-buffer records, [`decode`] makes [`event`]s of
//! them, [`enrich`] adds what the record cannot hold, [`respond`] acts, [`sink`]s write.
//! [`segment`] reads back what they wrote.
//! [`rules`] feeds both ends: the kernel's policy maps and the explanations of its verdicts.
//! [`agent`] does this for a whole host.

pub mod agent;
pub mod cli;
pub mod collect;
pub mod decode;
pub mod detect;
pub mod enrich;
pub mod event;
pub mod judge;
pub mod kernel;
pub mod launch;
pub mod learn;
mod mountinfo;
pub mod names;
pub mod pipeline;
pub mod replay;
pub mod report;
pub mod respond;
pub mod rules;
pub mod segment;
pub mod sink;
mod waiter;
