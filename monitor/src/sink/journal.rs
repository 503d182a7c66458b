//! systemd's journal, where it takes what is written to standard error: messages go there by its
//! native protocol, since lines of standard error carry no fields.
//!
//! As with [`super::stderr`], nobody waits: what the journal does not take at once is held, what
//! finds no room is dropped, and their number said.
//!
//! The protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>. It is a datagram a message, so little
//! that the crates that speak it, all of which wait for the journal, would be the longer way.

use std::{
    collections::VecDeque,
    env, io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes held for a journal that is slow.
const HELD_MAX: usize = 256 << 10;

/// Importance of a message, as syslog(3) numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Something was refused or killed.
    Error = 3,
    /// Something is not as it should be.
    Warning = 4,
    /// What the agent does.
    Notice = 5,
    /// For the record.
    Info = 6,
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    place: PathBuf,
    held: VecDeque<Vec<u8>>,
    held_bytes: usize,
    dropped: u64,
}

impl Journal {
    /// The journal, when standard error goes there: `JOURNAL_STREAM` names the device and inode of
    /// the socket that systemd gave to a service, which its children may have replaced.
    pub fn behind_stderr() -> Option<Self> {
        let named = env::var("JOURNAL_STREAM").ok()?;
        let stderr = nix::sys::stat::fstat(io::stderr()).ok()?;
        if named != format!("{}:{}", stderr.st_dev, stderr.st_ino) {
            return None;
        }
        Self::at(Path::new(SOCKET)).ok()
    }

    fn at(place: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let place = place.to_owned();
        Ok(Self { socket, place, held: VecDeque::new(), held_bytes: 0, dropped: 0 })
    }

    /// Sends a message with fields, whose names are capital letters and underscores.
    pub fn send(&mut self, priority: Priority, message: &str, fields: &[(&str, &str)]) {
        let text = entry(priority, message, fields);
        if self.held_bytes + text.len() > HELD_MAX {
            self.dropped += 1;
        } else {
            self.held_bytes += text.len();
            self.held.push_back(text);
        }
        self.push();
    }

    /// Hands on what the journal takes now.
    pub fn push(&mut self) {
        while let Some(text) = self.held.front() {
            match self.socket.send_to(text, &self.place) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(_) => {}
                // There is no journal, or it never takes this.
                Err(_) => self.dropped += 1,
            }
            self.held_bytes -= text.len();
            self.held.pop_front();
        }
        if self.dropped != 0 {
            let message =
                format!("{} messages were dropped: the journal did not take them", self.dropped);
            let text = entry(Priority::Warning, &message, &[]);
            if self.socket.send_to(&text, &self.place).is_ok() {
                self.dropped = 0;
            }
        }
    }
}

/// A message as the protocol has it.
fn entry(priority: Priority, message: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let priority = (priority as u8).to_string();
    let common = [
        ("PRIORITY", priority.as_str()),
        ("SYSLOG_IDENTIFIER", "mcp-monitor"),
        ("MESSAGE", message),
    ];
    let mut text = Vec::new();
    for (name, value) in common.iter().chain(fields) {
        text.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            text.push(b'\n');
            text.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            text.push(b'=');
        }
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, UnixDatagram, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("socket");
        let reader = UnixDatagram::bind(&place).unwrap();
        reader.set_nonblocking(true).unwrap();
        let journal = Journal::at(&place).unwrap();
        (folder, reader, journal)
    }

    fn read(reader: &UnixDatagram) -> Option<Vec<u8>> {
        let mut text = vec![0; 1 << 16];
        let length = reader.recv(&mut text).ok()?;
        text.truncate(length);
        Some(text)
    }

    #[test]
    fn a_message_has_its_fields_and_no_value_makes_another() {
        let (_folder, reader, mut journal) = journal();
        journal.send(Priority::Error, "two\nPRIORITY=7", &[("MCP_SERVER", "git hub")]);
        assert_eq!(
            read(&reader).unwrap(),
            b"PRIORITY=3\nSYSLOG_IDENTIFIER=mcp-monitor\nMESSAGE\n\x0e\0\0\0\0\0\0\0two\n\
              PRIORITY=7\nMCP_SERVER=git hub\n"
        );
    }

    #[test]
    fn a_journal_that_does_not_read_costs_messages_and_no_time() {
        let (_folder, reader, mut journal) = journal();
        let message = "x".repeat(1000);
        (0..2000).for_each(|_| journal.send(Priority::Notice, &message, &[]));
        assert!(journal.dropped > 1000 && journal.held_bytes <= HELD_MAX);
        let mut last = Vec::new();
        while let Some(text) = read(&reader) {
            last = text;
            journal.push();
        }
        let last = String::from_utf8(last).unwrap();
        assert!(last.contains(" messages were dropped"), "{last}");
        assert!(journal.held.is_empty() && journal.dropped == 0);
    }

    #[test]
    fn without_a_journal_nothing_waits() {
        let (folder, _, mut journal) = journal();
        drop(folder);
        journal.send(Priority::Info, "nobody hears", &[]);
        assert!(journal.held.is_empty() && journal.dropped == 1);
    }
}
