//! From which counts on a detector speaks, and what follows: `[limits]` and `response.detectors`
//! of a policy, with the defaults for what its rules do not say.

use monitor_common::policy::{ReadLimit, STEPS, detector, verdict};

use crate::event::Rule;

const MS: u64 = 1;
const SECOND: u64 = 1000 * MS;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Most that can be counted before a detector speaks: what bounds its memory.
pub const COUNT_MAX: u64 = 65_536;
/// Shortest and longest window, ms.
pub const WINDOW_MIN_MS: u64 = 100 * MS;
/// See [`WINDOW_MIN_MS`].
pub const WINDOW_MAX_MS: u64 = 7 * DAY;

/// What the value of a [`Parameter`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A time, in ms.
    Time,
}

/// One value of `[limits]`.
#[derive(Debug)]
pub struct Parameter {
    /// Its table.
    pub table: &'static str,
    /// Its key.
    pub key: &'static str,
    /// The value when no rule states one; 0: nothing is counted.
    pub default: u64,
    /// What it is.
    pub unit: Unit,
}

const fn count(table: &'static str, key: &'static str, default: u64) -> Parameter {
    Parameter { table, key, default, unit: Unit::Count }
}

const fn window(table: &'static str, default: u64) -> Parameter {
    Parameter { table, key: "window", default, unit: Unit::Time }
}

/// All of them, by the numbers of [`parameter`]. docs/detectors.md says what the defaults rest on.
pub static PARAMETERS: [Parameter; parameter::COUNT] = [
    count("mass_read", "files", 500),
    window("mass_read", 10 * SECOND),
    count("breadth", "files", 0),
    window("breadth", DAY),
    count("mass_write", "files", 50),
    window("mass_write", 10 * SECOND),
    count("exec_burst", "max", 100),
    window("exec_burst", 10 * SECOND),
    count("connect_burst", "hosts", 150),
    count("connect_burst", "private", 20),
    count("connect_burst", "ports", 20),
    window("connect_burst", MINUTE),
    window("exfiltration", 10 * MINUTE),
    count("dns_burst", "bytes", 1000),
    window("dns_burst", MINUTE),
];

/// Numbers of the [`PARAMETERS`].
#[expect(missing_docs, reason = "each is the table and key of the same name")]
pub mod parameter {
    pub const MASS_READ_FILES: usize = 0;
    pub const MASS_READ_WINDOW: usize = 1;
    pub const BREADTH_FILES: usize = 2;
    pub const BREADTH_WINDOW: usize = 3;
    pub const MASS_WRITE_FILES: usize = 4;
    pub const MASS_WRITE_WINDOW: usize = 5;
    pub const EXEC_BURST_MAX: usize = 6;
    pub const EXEC_BURST_WINDOW: usize = 7;
    pub const CONNECT_BURST_HOSTS: usize = 8;
    pub const CONNECT_BURST_PRIVATE: usize = 9;
    pub const CONNECT_BURST_PORTS: usize = 10;
    pub const CONNECT_BURST_WINDOW: usize = 11;
    pub const EXFILTRATION_WINDOW: usize = 12;
    pub const DNS_BURST_BYTES: usize = 13;
    pub const DNS_BURST_WINDOW: usize = 14;
    /// How many there are.
    pub const COUNT: usize = 15;
}

/// The limits of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// By the numbers of [`parameter`].
    pub values: [u64; parameter::COUNT],
    /// Verdicts by the numbers of [`detector`].
    pub verdicts: [u8; detector::COUNT],
    /// Whether verdicts are carried out.
    pub enforce: bool,
    /// Where the tables stand that are stated, by name.
    pub rules: Vec<(&'static str, Rule)>,
    /// The server's own file, to which defaults belong.
    pub file: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            values: std::array::from_fn(|number| PARAMETERS[number].default),
            verdicts: [verdict::ALERT; detector::COUNT],
            enforce: false,
            rules: Vec::new(),
            file: String::new(),
        }
    }
}

impl Limits {
    /// The kernel programs count reads themselves, and judge the open that is too many.
    pub fn kernel_counts_reads(&self) -> bool {
        self.enforce && self.verdicts[detector::MASS_READ] >= verdict::DENY
    }

    /// Reads as the kernel programs count them. Values have been checked when they were read.
    pub fn reads(&self) -> ReadLimit {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        ReadLimit {
            files: number(self.values[parameter::MASS_READ_FILES]),
            step_ms: number(self.values[parameter::MASS_READ_WINDOW].div_ceil(STEPS as u64 - 1)),
            verdict: u32::from(self.verdicts[detector::MASS_READ]),
            reserved: 0,
        }
    }

    /// Whether a detector has anything to say.
    pub fn wants(&self, detector: usize) -> bool {
        self.verdicts[detector] > verdict::ALLOW
    }

    /// A window in ns.
    pub fn window_ns(&self, parameter: usize) -> u64 {
        self.values[parameter].saturating_mul(1_000_000)
    }

    /// The rule behind a finding: the table that is stated, else the default.
    pub fn rule(&self, table: &str) -> Rule {
        let stated = self.rules.iter().find(|(name, _)| *name == table).map(|(_, rule)| rule);
        stated.cloned().unwrap_or_else(|| Rule {
            file: self.file.clone(),
            line: 0,
            list: format!("limits.{table}"),
            text: self.text(table),
        })
    }

    /// A table as one writes it.
    pub fn text(&self, table: &str) -> String {
        let own = PARAMETERS.iter().zip(self.values).filter(|(it, _)| it.table == table);
        let pairs = own.map(|(it, value)| match it.unit {
            Unit::Count => format!("{} = {value}", it.key),
            Unit::Time => format!("{} = \"{}\"", it.key, duration(value)),
        });
        format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
    }
}

/// A time as rules write it.
pub fn duration(ms: u64) -> String {
    let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (MS, "ms")];
    let unit = units.iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    let (unit, name) = unit.copied().unwrap_or((MS, "ms"));
    format!("{}{name}", ms / unit)
}

/// The inverse of [`duration`]: ms of `500ms`, `10s`, `5m`, `2h` or `1d`.
pub fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, name) = text.split_at(digits);
    let unit = match name {
        "ms" => MS,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for text in ["100ms", "10s", "90s", "1m", "2h", "1d", "7d"] {
            assert_eq!(duration(parse_duration(text).unwrap()), text);
        }
        for wrong in ["", "10", "s", "-1s", "1.5s", "1 s", "1w", "99999999999999999999s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn parameters_stand_at_their_own_number() {
        let at = |number: usize| (PARAMETERS[number].table, PARAMETERS[number].key);
        assert_eq!(at(parameter::MASS_READ_FILES), ("mass_read", "files"));
        assert_eq!(at(parameter::BREADTH_WINDOW), ("breadth", "window"));
        assert_eq!(at(parameter::MASS_WRITE_FILES), ("mass_write", "files"));
        assert_eq!(at(parameter::EXEC_BURST_MAX), ("exec_burst", "max"));
        assert_eq!(at(parameter::CONNECT_BURST_PORTS), ("connect_burst", "ports"));
        assert_eq!(at(parameter::EXFILTRATION_WINDOW), ("exfiltration", "window"));
        assert_eq!(at(parameter::DNS_BURST_BYTES), ("dns_burst", "bytes"));
    }

    #[test]
    fn a_default_is_named_with_its_value() {
        let limits = Limits { file: "default.toml".to_owned(), ..Limits::default() };
        let rule = limits.rule("mass_read");
        assert_eq!((rule.line, rule.list.as_str()), (0, "limits.mass_read"));
        assert_eq!(rule.text, r#"{ files = 500, window = "10s" }"#);
    }
}
