//! From ring-buffer records to [`crate::event`]s.
