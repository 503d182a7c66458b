//! The two clocks of an event: CLOCK_BOOTTIME, which the kernel stamps, and the wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far the wall clock stands from CLOCK_BOOTTIME. It moves when the wall clock is set, so it
/// is measured anew from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    offset_ns: i128,
}

impl Clock {
    /// Measures the distance now.
    pub fn measure() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::between(boot_ns(), u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX))
    }

    /// A clock by which `boot_ns` is `time_ns`.
    pub fn between(boot_ns: u64, time_ns: u64) -> Self {
        Self { offset_ns: i128::from(time_ns) - i128::from(boot_ns) }
    }

    /// Wall clock, ns since 1970, at `boot_ns`.
    pub fn wall_ns(self, boot_ns: u64) -> u64 {
        u64::try_from(i128::from(boot_ns) + self.offset_ns).unwrap_or(0)
    }
}

/// CLOCK_BOOTTIME now, ns.
pub fn boot_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to; CLOCK_BOOTTIME exists since Linux 2.6.39, so
    // the call does not fail.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_follows_boot_time() {
        let clock = Clock::between(100, 1_000_000);
        assert_eq!(clock.wall_ns(150), 1_000_050);
        assert_eq!(Clock::between(100, 50).wall_ns(10), 0);
    }

    #[test]
    fn the_measured_clock_agrees_with_the_system() {
        let wall = UNIX_EPOCH + Duration::from_nanos(Clock::measure().wall_ns(boot_ns()));
        let apart = SystemTime::now().duration_since(wall).unwrap_or_else(|early| early.duration());
        assert!(apart < Duration::from_secs(5), "{apart:?}");
    }
}
