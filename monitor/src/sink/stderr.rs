//! Standard error that never makes the monitor wait. It is shared with the server and read by the
//! client: one that does not read it must not hold up the reading of events.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes held for a reader that is slow.
const HELD_MAX: usize = 256 << 10;
/// How long the end waits for the reader.
const PATIENCE: Duration = Duration::from_millis(500);

/// See the module. What finds no room is dropped, whole texts at a time, and their number said.
#[derive(Debug)]
pub struct Stderr {
    way: Way,
    held: Vec<u8>,
    dropped: u64,
}

/// How to write without waiting and without changing what the server shares.
#[derive(Debug)]
enum Way {
    /// A descriptor of our own to the same pipe or terminal.
    Own(File),
    /// A socket, asked not to wait each time.
    Socket,
    /// A file, or whatever else cannot be opened again.
    Shared,
}

impl Stderr {
    /// Looks at what standard error is.
    pub fn new() -> Self {
        let own = |path: &str| {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
            OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
        };
        let path = "/proc/self/fd/2";
        let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
        let way = match kind {
            Ok(kind) if kind.is_socket() => Way::Socket,
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
                own(path).map_or(Way::Shared, Way::Own)
            }
            _ => Way::Shared,
        };
        Self { way, held: Vec::new(), dropped: 0 }
    }

    /// Hands on what the reader takes now.
    pub fn push(&mut self) {
        let mut done = 0;
        while done < self.held.len() {
            match self.way.write(&self.held[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => done = self.held.len(),
            }
        }
        self.held.drain(..done);
        if self.held.is_empty() && self.dropped != 0 {
            let text = format!(
                "mcp-monitor: {} messages were dropped because nobody read them in time\n",
                self.dropped
            );
            self.dropped = 0;
            self.held.extend_from_slice(text.as_bytes());
        }
    }

    /// Gives the reader a last chance.
    pub fn finish(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.push();
            let left = end.saturating_duration_since(Instant::now());
            if self.held.is_empty() || left.is_zero() {
                return;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let stderr = io::stderr();
            let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut ready, timeout).is_err() {
                return;
            }
        }
    }
}

impl Default for Stderr {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.held.len() + text.len() > HELD_MAX {
            self.dropped += 1;
        } else {
            self.held.extend_from_slice(text);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push();
        Ok(())
    }
}

impl Way {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(file) => (&*file).write(bytes),
            Self::Socket => send(io::stderr().as_fd(), bytes),
            Self::Shared => io::stderr().write(bytes),
        }
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer is live and as long as it is said to be.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_read_costs_messages_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let own = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        let mut stderr = Stderr { way: Way::Own(own), held: Vec::new(), dropped: 0 };
        for _ in 0..2000 {
            stderr.write_all(&[b'x'; 1000]).unwrap();
            stderr.flush().unwrap();
        }
        assert!(stderr.dropped > 1000 && stderr.held.len() <= HELD_MAX);
        drop(writer);
        let mut text = Vec::new();
        let reading = std::thread::spawn(move || {
            let mut reader = reader;
            io::Read::read_to_end(&mut reader, &mut text).unwrap();
            text
        });
        while !stderr.held.is_empty() || stderr.dropped != 0 {
            stderr.push();
        }
        drop(stderr);
        let text = String::from_utf8(reading.join().unwrap()).unwrap();
        assert!(text.ends_with(" messages were dropped because nobody read them in time\n"));
    }
}
