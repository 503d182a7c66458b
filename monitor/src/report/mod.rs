//! A report of recordings that people can read: what a server did, what was wrong with it, what
//! could have left, and what to do now.
//!
//! ```text
//! recordings -> read() -> Aggregator (bounded, one pass) -> Report -> html | markdown | json
//! ```
//!
//! The report depends on the recordings alone: the same lines give the same report, byte for byte.
//! What exceeds a bound is counted, and every list says how much is not in it. Names and arguments
//! of watched processes stay [`crate::event::Bytes`] in the model, lossless in JSON; HTML and
//! Markdown show them escaped twice, against their reader's eyes and against the format.

mod aggregate;
mod draw;
mod filters;
mod html;
mod impact;
mod markdown;
pub mod model;
mod read;
mod rotate;
mod story;
mod tree;
mod words;

#[cfg(test)]
pub(crate) mod tests;

pub use aggregate::Aggregator;
pub use html::html;
pub use markdown::markdown;
pub use model::Report;
pub use read::read;
