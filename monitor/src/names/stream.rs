//! Questions by stream (RFC 1035, 4.2.2): what does not fit in a datagram. One question after the
//! other; each is asked on by a stream of its own.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
};

use super::{
    forward::random,
    message,
    questions::{Asked, Course, Questions, Under},
};

/// How long a stream may stand without an answer or a new question.
const PATIENCE_NS: u64 = 10_000_000_000;

/// One end of a stream, which never waits.
struct End {
    socket: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Somebody who asks by stream.
pub struct Stream {
    asker: End,
    resolver: Option<Resolver>,
    servers: Vec<SocketAddr>,
    /// When it is given up.
    pub until_ns: u64,
}

/// A resolver that has been asked.
struct Resolver {
    end: End,
    asked: Asked,
    id: u16,
    /// Its position among the resolvers.
    at: usize,
}

/// A stream has come to its end.
pub struct Closed;

impl Stream {
    /// A stream that has just been opened.
    pub fn new(socket: TcpStream, servers: &[SocketAddr], now_ns: u64) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let asker = End::of(socket);
        let until_ns = now_ns.saturating_add(PATIENCE_NS);
        Ok(Self { asker, resolver: None, servers: servers.to_vec(), until_ns })
    }

    /// The question that a resolver has been asked.
    pub fn asked(&self) -> Option<&Asked> {
        self.resolver.as_ref().map(|resolver| &resolver.asked)
    }

    /// The sockets to wait on.
    pub fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        [Some(&self.asker), self.resolver.as_ref().map(|resolver| &resolver.end)]
            .into_iter()
            .flatten()
            .map(|end| &end.socket)
    }

    /// Goes as far as possible without waiting; whether there is a new socket to wait on.
    pub fn go_on(
        &mut self,
        questions: &mut Questions,
        under: &mut Under<'_>,
    ) -> Result<bool, Closed> {
        if under.now_ns >= self.until_ns {
            // Nobody waits for it any more, but it has been asked.
            self.asked().and_then(|asked| questions.unanswered(asked, under));
            return Err(Closed);
        }
        let mut is_new = false;
        loop {
            self.asker.flush()?;
            if !self.asker.output.is_empty() {
                return Ok(is_new);
            }
            if let Some(Resolver { end, asked, id, at }) = &mut self.resolver {
                let answer = match end.flush().and_then(|()| end.message()) {
                    Ok(None) => return Ok(is_new),
                    Ok(Some(answer)) => questions.answer(asked, *id, &answer, under),
                    Err(Closed) => None,
                };
                let next = *at + 1;
                match (answer, self.resolver.take()) {
                    (Some(answer), _) => self.asker.put(&answer),
                    (None, Some(resolver)) => {
                        is_new |= self.ask(resolver.asked, next, questions, under)?;
                    }
                    (None, None) => return Err(Closed),
                }
                continue;
            }
            let Some(question) = self.asker.message()? else { return Ok(is_new) };
            self.until_ns = under.now_ns.saturating_add(PATIENCE_NS);
            match questions.ask(&question, "tcp", under) {
                Course::Drop => return Err(Closed),
                Course::Answer(answer) => self.asker.put(&answer),
                Course::Ask(asked) => is_new |= self.ask(asked, 0, questions, under)?,
            }
        }
    }

    /// Asks the first resolver from this one on that can be asked; whether there is one.
    fn ask(
        &mut self,
        asked: Asked,
        first: usize,
        questions: &mut Questions,
        under: &Under<'_>,
    ) -> Result<bool, Closed> {
        let servers = self.servers.iter().enumerate().skip(first);
        let opened = { servers }.find_map(|(at, server)| Some((at, open(*server).ok()?)));
        let Some((at, socket)) = opened else {
            self.asker.put(&questions.unanswered(&asked, under).ok_or(Closed)?);
            return Ok(false);
        };
        let (mut end, id) = (End::of(socket), random());
        end.put(&message::numbered(&asked.bytes, id));
        self.resolver = Some(Resolver { end, asked, id, at });
        Ok(true)
    }
}

impl End {
    fn of(socket: TcpStream) -> Self {
        Self { socket, input: Vec::new(), output: Vec::new() }
    }

    /// Puts a message behind what is to be written.
    fn put(&mut self, message: &[u8]) {
        // Longer than a stream can say: it came over one.
        let Ok(length) = u16::try_from(message.len()) else { return };
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(message);
    }

    fn flush(&mut self) -> Result<(), Closed> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(0) => return Err(Closed),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
        Ok(())
    }

    /// The next whole message, when it is there.
    fn message(&mut self) -> Result<Option<Vec<u8>>, Closed> {
        loop {
            if let Some((length, rest)) = self.input.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if let Some(message) = rest.get(..length) {
                    let message = message.to_vec();
                    self.input.drain(..2 + length);
                    return Ok(Some(message));
                }
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(Closed),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
    }
}

/// Opens a stream without waiting for it.
fn open(server: SocketAddr) -> Result<TcpStream, Errno> {
    let family = match server {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}
