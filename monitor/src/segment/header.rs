//! The first line of a segment.

use std::io;

use serde::{Deserialize, Serialize};

use super::ChainHash;
use crate::{
    enrich::clock,
    event::{JsonLine, Known, PolicyText, Privacy},
};

/// What a header says about the machine, the agent and the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`: `boot_ns` of lines can be compared within one boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the agent.
    pub agent: String,
    /// `lsm` or `tracepoint`.
    pub backend: String,
    /// Hooks that are attached.
    pub hooks: Vec<String>,
    /// CLOCK_BOOTTIME at which the agent began to record, ns: the same in all segments of a run.
    #[serde(default)]
    pub began_ns: u64,
    /// What of arguments and captured content is recorded.
    #[serde(default)]
    pub privacy: Privacy,
    /// The public key that checkpoints are made with, in hexadecimal; missing when there are none.
    #[serde(default)]
    pub key: Option<String>,
    /// Policies in force, with the text of their rules.
    pub policies: Vec<PolicyText>,
    /// Processes known from the segments before, parents first.
    #[serde(default)]
    pub processes: Vec<Known>,
}

/// A header line as it is read back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderLine {
    /// Version of the format.
    pub v: u32,
    /// Position of the segment in its stream, from 1.
    pub segment: u64,
    /// `seq` of the next event line.
    pub first_seq: u64,
    /// When the segment was begun.
    pub created: String,
    /// Chain of the last line of the segment before, in hexadecimal.
    pub previous: Option<String>,
    /// The rest.
    #[serde(skip)]
    pub header: Header,
}

impl HeaderLine {
    /// The header of a line. It is gone through twice: serde's way to flatten keeps a copy of
    /// everything, which is too much of a hostile line.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(line: &[u8]) -> serde_json::Result<Self> {
        let header = serde_json::from_slice(line)?;
        Ok(Self { header, ..serde_json::from_slice(line)? })
    }
}

/// Where in its stream a segment stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Position, from 1.
    pub segment: u64,
    /// `seq` of the next event line.
    pub first_seq: u64,
    /// When the segment was begun, ns since 1970.
    pub created_ns: u64,
    /// Chain of the last line of the segment before.
    pub previous: Option<ChainHash>,
}

impl Header {
    /// A header for this machine.
    ///
    /// # Errors
    /// When procfs cannot be read.
    pub fn of_host(backend: &str, hooks: &[String]) -> io::Result<Self> {
        let read = |name| {
            let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))?;
            Ok::<_, io::Error>(text.trim_end().to_owned())
        };
        Ok(Self {
            host: read("hostname")?,
            boot_id: read("random/boot_id")?,
            kernel: read("osrelease")?,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            backend: backend.to_owned(),
            hooks: hooks.to_vec(),
            began_ns: clock::boot_ns(),
            ..Self::default()
        })
    }

    /// Appends the line's object.
    pub fn write(&self, out: &mut Vec<u8>, place: &Place) {
        let mut line = JsonLine::begin(out, "header");
        line.number("segment", place.segment);
        line.number("first_seq", place.first_seq);
        line.time("created", place.created_ns);
        if let Some(previous) = &place.previous {
            line.text("previous", &previous.to_string());
        }
        line.text("host", &self.host);
        line.text("boot_id", &self.boot_id);
        line.text("kernel", &self.kernel);
        line.text("agent", &self.agent);
        line.text("backend", &self.backend);
        line.value("hooks", &self.hooks);
        line.number("began_ns", self.began_ns);
        line.text("privacy", &self.privacy.to_string());
        if let Some(key) = &self.key {
            line.text("key", key);
        }
        line.value("policies", &self.policies);
        if !self.processes.is_empty() {
            line.value("processes", &self.processes);
        }
        line.end();
    }
}
