//! Where events go: the recording ([`recording`]), people's alerts ([`terminal`], [`journal`]) and the
//! summary at the end ([`summary`]). A sink takes [`crate::event::Event`]s and never reaches back.

pub mod journal;
pub mod recording;
pub mod stderr;
pub mod summary;
pub mod terminal;

/// Looks at every event of a stream, in its order.
pub trait Audience {
    /// Takes an event.
    fn event(&mut self, event: &crate::event::Event);

    /// All that came before is in the recording's file: so many records of the ring of events, and
    /// of the ring of violations.
    fn flushed(&mut self, _events: u64, _violations: u64) {}
}
