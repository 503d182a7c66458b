//! The agent's one configuration file. Every key has a default, so that an empty file, or none, is
//! a working agent; keys that are not known are refused with file and line.

mod text;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    event::Privacy,
    segment::key,
    sink::recording::{Limits, RecordingOptions, Sync},
};

/// Where it is looked for.
pub const PATH: &str = "/etc/mcp-monitor/agent.toml";

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The control socket.
    pub control: Control,
    /// The kernel programs.
    pub kernel: Kernel,
    /// Where rules are.
    pub rules: Rules,
    /// What is recorded.
    pub recording: Recording,
    /// What Prometheus scrapes.
    pub metrics: Metrics,
    /// What is run for each alert.
    pub on_alert: OnAlert,
}

/// `[control]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// The socket.
    pub socket: PathBuf,
    /// Members of this group may launch servers and read their own instances. When there is no such
    /// group, only root gets in.
    pub group: String,
}

/// `[kernel]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// How the kernel is asked.
    pub backend: Backend,
    /// Where programs and maps are pinned, beneath a BPF file system.
    pub pins: PathBuf,
}

/// A choice of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The best that works.
    Auto,
    /// BPF LSM.
    Lsm,
    /// Tracepoints and cgroup hooks.
    Tracepoint,
}

/// `[rules]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// A directory that is looked at before `/etc/mcp-monitor/rules.d`.
    pub directory: Option<PathBuf>,
}

/// `[recording]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    /// Directory of the segments.
    pub directory: PathBuf,
    /// Size at which a segment is closed, in bytes.
    pub segment_bytes: u64,
    /// Age at which a segment is closed, in seconds.
    pub segment_seconds: u64,
    /// Bytes of all segments; the oldest are deleted.
    pub total_bytes: u64,
    /// Days that closed segments are kept; 0 is for ever, within `total_bytes`.
    pub keep_days: u64,
    /// Longest time without a signed checkpoint, in seconds.
    pub checkpoint_seconds: u64,
    /// When the disk is waited for.
    pub sync: Sync,
    /// What of the arguments of programs is recorded.
    pub privacy: Privacy,
    /// The key that signs checkpoints; made when missing.
    pub key: PathBuf,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where `/metrics` is served.
    pub listen: SocketAddr,
    /// Whether it is served at all.
    pub enabled: bool,
}

/// `[on_alert]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnAlert {
    /// A program with its arguments, run as root without a shell; nothing when empty.
    pub command: Vec<String>,
    /// How many run at one time.
    pub at_once: u32,
    /// How long each may take, in seconds.
    pub seconds: u64,
}

impl Default for OnAlert {
    fn default() -> Self {
        Self { command: Vec::new(), at_once: 4, seconds: 30 }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: "/run/mcp-monitor/agent.sock".into(), group: "mcp-monitor".to_owned() }
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self { backend: Backend::Auto, pins: crate::kernel::pins::DIRECTORY.into() }
    }
}

impl Default for Recording {
    fn default() -> Self {
        let Limits { segment_bytes, segment_age, total_bytes, .. } = Limits::default();
        let RecordingOptions { sync, checkpoint_every, privacy, .. } = RecordingOptions::default();
        Self {
            directory: "/var/lib/mcp-monitor/events".into(),
            segment_bytes,
            segment_seconds: segment_age.as_secs(),
            total_bytes,
            keep_days: 0,
            checkpoint_seconds: checkpoint_every.as_secs(),
            sync,
            privacy,
            key: key::HOST_KEY.into(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9469)), enabled: true }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file says something else than a configuration.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// What is wrong and where.
        message: String,
    },
    /// A value that cannot be used.
    #[error("{path}: {key}: {problem}")]
    Value {
        /// The file.
        path: String,
        /// The key.
        key: &'static str,
        /// What is wrong, and what to write instead.
        problem: &'static str,
    },
}

impl Config {
    /// Reads a file. Without `path` the usual one is read, and its absence is the defaults.
    ///
    /// # Errors
    /// Names file, line and key.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(PATH));
        let name = file.display().to_string();
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, &name),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read { path: name, source }),
        }
    }

    /// Reads the text of a file called `name`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let path = || name.to_owned();
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        match config.problem() {
            Some((key, problem)) => Err(ConfigError::Value { path: path(), key, problem }),
            None => Ok(config),
        }
    }

    fn problem(&self) -> Option<(&'static str, &'static str)> {
        const ABSOLUTE: &str = "must begin with /";
        let paths = [
            ("control.socket", &self.control.socket),
            ("kernel.pins", &self.kernel.pins),
            ("recording.directory", &self.recording.directory),
            ("recording.key", &self.recording.key),
        ];
        if let Some((key, _)) = paths.into_iter().find(|(_, path)| !path.is_absolute()) {
            return Some((key, ABSOLUTE));
        }
        if self.rules.directory.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Some(("rules.directory", ABSOLUTE));
        }
        if self.on_alert.command.first().is_some_and(|program| !program.starts_with('/')) {
            return Some(("on_alert.command", ABSOLUTE));
        }
        if !(1..=64).contains(&self.on_alert.at_once) {
            return Some(("on_alert.at_once", "must be 1 to 64"));
        }
        if !(1..=3600).contains(&self.on_alert.seconds) {
            return Some(("on_alert.seconds", "must be 1 to 3600"));
        }
        if !self.metrics.listen.ip().is_loopback() {
            return Some((
                "metrics.listen",
                "must be a loopback address: who scrapes from elsewhere goes through a proxy that asks who it is",
            ));
        }
        let Recording { segment_bytes, segment_seconds, total_bytes, checkpoint_seconds, .. } =
            self.recording;
        if segment_bytes < 64 << 10 {
            return Some(("recording.segment_bytes", "must be 65536 or more"));
        }
        if total_bytes < 2 * segment_bytes {
            return Some(("recording.total_bytes", "must be room for two segments or more"));
        }
        if segment_seconds < 60 {
            return Some(("recording.segment_seconds", "must be 60 or more"));
        }
        (checkpoint_seconds == 0).then_some(("recording.checkpoint_seconds", "must be 1 or more"))
    }
}

impl Recording {
    /// As the recording takes it.
    pub fn options(&self) -> RecordingOptions {
        let days = Duration::from_secs(24 * 60 * 60);
        RecordingOptions {
            limits: Limits {
                segment_bytes: self.segment_bytes,
                segment_age: Duration::from_secs(self.segment_seconds),
                total_bytes: self.total_bytes,
                age: u32::try_from(self.keep_days)
                    .ok()
                    .filter(|keep| *keep > 0)
                    .and_then(|keep| days.checked_mul(keep)),
                ..Limits::default()
            },
            sync: self.sync,
            checkpoint_every: Duration::from_secs(self.checkpoint_seconds),
            key: self.key.clone(),
            privacy: self.privacy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        Config::parse(text, "agent.toml").unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_a_working_configuration() {
        assert_eq!(Config::parse("", "agent.toml").unwrap(), Config::default());
    }

    #[test]
    fn what_is_written_out_is_read_back() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(Config::parse(&text, "agent.toml").unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_documented_with_its_default() {
        let documentation = include_str!("../../../docs/agent.md");
        let text = toml::to_string(&Config::default()).unwrap();
        let (mut section, mut keys) = (String::new(), 0);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
            } else if let Some((key, value)) = line.split_once(" = ") {
                let row = format!("| `{section}.{key}` | ");
                let found = documentation.lines().find_map(|line| line.strip_prefix(&row));
                let default = found.and_then(|rest| rest.split(" | ").next());
                let default = default.unwrap_or_else(|| panic!("{row} is missing"));
                assert_eq!(default.trim_matches('`'), value.trim_matches('"'), "{row}");
                keys += 1;
            }
        }
        assert!(keys >= 15, "{keys}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_known_ones() {
        let message = message("[control]\nsockt = \"/x\"\n");
        for part in ["agent.toml", "line 2", "sockt", "socket"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn whatever_is_no_configuration_is_refused_with_its_place() {
        for (text, parts) in [
            ("sockets = 1\n", &["line 1", "sockets", "control"][..]),
            ("control = 5\n", &["line 1", "control"]),
            ("[control]\nsocket = 5\n", &["line 2", "string"]),
            ("[control]\nsocket = \"/a\"\nsocket = \"/b\"\n", &["line 3", "duplicate"]),
            ("[kernel]\nbackend = \"ebpf\"\n", &["line 2", "tracepoint"]),
            ("[recording]\nsegment_bytes = \"big\"\n", &["line 2", "segment_bytes"]),
            ("[recording]\nsegment_bytes = 99999999999999999999\n", &["line 2"]),
            ("[recording]\nsync = \"never\"\n", &["line 2", "flush"]),
            ("[metrics]\nlisten = \"localhost\"\n", &["line 2", "socket address"]),
            ("[on_alert]\ncommand = \"/bin/sh -c x\"\n", &["line 2", "sequence"]),
            ("[on_alert]\nseconds = 0\n", &["on_alert.seconds", "1 to 3600"]),
            ("[control\n", &["line 1"]),
            ("\u{0}\n", &["line 1"]),
        ] {
            let message = message(text);
            for part in parts.iter().chain(&["agent.toml"]) {
                assert!(message.contains(part), "{text:?}: {part}: {message}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        fs::write(&file, b"\xff\xfe").unwrap();
        let error = Config::read(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("agent.toml") && error.contains("UTF-8"), "{error}");
    }

    #[test]
    fn metrics_are_for_this_machine_only() {
        assert!(message("[metrics]\nlisten = \"0.0.0.0:9469\"\n").contains("loopback"));
        Config::parse("[metrics]\nlisten = \"[::1]:9469\"\n", "agent.toml").unwrap();
    }

    #[test]
    fn bounds_and_paths_are_checked() {
        assert!(message("[control]\nsocket = \"agent.sock\"\n").contains("control.socket"));
        assert!(message("[recording]\nsegment_bytes = 10\n").contains("65536"));
        assert!(message("[recording]\nkeep_days = -1\n").contains("keep_days"));
        assert!(message("[on_alert]\ncommand = [\"rotate\"]\n").contains("must begin with /"));
        assert!(message("[on_alert]\nat_once = 0\n").contains("on_alert.at_once"));
        Config::parse("[on_alert]\ncommand = [\"/bin/rotate\"]\n", "agent.toml").unwrap();
        let days = Config::parse("[recording]\nkeep_days = 7\n", "agent.toml").unwrap();
        let age = days.recording.options().limits.age;
        assert_eq!(age, Some(Duration::from_secs(7 * 24 * 60 * 60)));
    }
}
