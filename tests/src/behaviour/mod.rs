//! The behaviours, one file each.

use crate::registry::Test;

/// Names the behaviour files, in alphabetical order.
macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*

        /// Every test of every file.
        pub fn all() -> impl Iterator<Item = Test> {
            [$($name::TESTS),*].into_iter().flatten().copied()
        }
    };
}

behaviours! {
    addresses,
    agent,
    arguments,
    automaton,
    changes,
    containers,
    detectors,
    disk,
    endurance,
    execs,
    fleet,
    floods,
    grants,
    host_names,
    inside,
    launching,
    learning,
    lineage,
    machine,
    matching,
    measures,
    metrics,
    names,
    opens,
    processes,
    real_server,
    recording,
    replacement,
    reports,
    running,
    unix_sockets,
    verdicts,
}
