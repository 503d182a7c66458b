//! Where events go: the recording ([`segment`]), people's alerts ([`terminal`]) and the summary
//! at the end ([`summary`]). A sink takes [`crate::event::Event`]s and never reaches back.

pub mod segment;
pub mod stderr;
pub mod summary;
pub mod terminal;
