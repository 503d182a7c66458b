//! What the kernel counts of its programs: `/proc/self/fdinfo` of their descriptors, which needs no
//! right beyond the descriptor.

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// Counts of one program. Times and runs stand still unless `kernel.bpf_stats_enabled` is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Runs.
    pub runs: u64,
    /// Time of all runs, ns.
    pub time_ns: u64,
    /// Runs that were left out because the program was running already on that processor.
    pub misses: u64,
}

impl Statistics {
    /// Those of a program.
    pub fn of(program: &OwnedFd) -> Self {
        let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
        Self::parse(&fs::read_to_string(path).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Self {
            runs: value("run_cnt"),
            time_ns: value("run_time_ns"),
            misses: value("recursion_misses"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_their_whole_names() {
        let text = "prog_type:\t29\nrun_time_ns:\t1200\nrun_cnt:\t7\nrecursion_misses:\t2\n";
        assert_eq!(Statistics::parse(text), Statistics { runs: 7, time_ns: 1200, misses: 2 });
        assert_eq!(Statistics::parse("run_cntx:\t7\n"), Statistics::default());
    }
}
