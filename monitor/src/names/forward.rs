//! Questions by datagram on their way to a resolver and back. Each has a socket of its own, so that
//! the kernel chooses a port that is hard to guess and only the resolver that was asked is heard.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use super::{
    message,
    questions::{Asked, Questions, Under},
};

/// How long a resolver has for its answer.
const PATIENCE_NS: u64 = 2_000_000_000;

/// A question that a resolver has been asked.
pub struct Forward {
    asked: Asked,
    /// Who asked.
    pub asker: SocketAddr,
    /// Resolvers, and which of them has been asked.
    servers: Vec<SocketAddr>,
    at: usize,
    socket: UdpSocket,
    id: u16,
    /// When the next resolver is asked.
    pub until_ns: u64,
}

/// What came of looking for an answer.
pub enum Progress {
    /// Not yet.
    Waiting,
    /// This goes to who asked.
    Done(Vec<u8>),
    /// Another resolver has been asked, with another socket.
    Again,
    /// Nothing goes to who asked.
    Gone,
}

impl Forward {
    /// Asks the first resolver that can be asked.
    pub fn start(
        asked: Asked,
        asker: SocketAddr,
        servers: &[SocketAddr],
        now_ns: u64,
    ) -> Result<Self, Asked> {
        let id = random();
        let sockets = servers.iter().enumerate().filter_map(|(at, server)| {
            Some((at, send(*server, &message::numbered(&asked.bytes, id)).ok()?))
        });
        let Some((at, socket)) = { sockets }.next() else { return Err(asked) };
        let until_ns = now_ns.saturating_add(PATIENCE_NS);
        Ok(Self { asked, asker, servers: servers.to_vec(), at, socket, id, until_ns })
    }

    /// The question.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The socket to wait on.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Looks for the answer.
    pub fn go_on(
        &mut self,
        buffer: &mut [u8],
        questions: &mut Questions,
        under: &mut Under<'_>,
    ) -> Progress {
        loop {
            match self.socket.recv(buffer) {
                Ok(length) => {
                    let answer = questions.answer(&self.asked, self.id, &buffer[..length], under);
                    if let Some(answer) = answer {
                        return Progress::Done(answer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody listens there.
                Err(_) => return self.next(questions, under),
            }
        }
        if under.now_ns >= self.until_ns { self.next(questions, under) } else { Progress::Waiting }
    }

    /// Asks the next resolver.
    fn next(&mut self, questions: &mut Questions, under: &Under<'_>) -> Progress {
        while self.at + 1 < self.servers.len() {
            self.at += 1;
            self.id = random();
            let bytes = message::numbered(&self.asked.bytes, self.id);
            if let Ok(socket) = send(self.servers[self.at], &bytes) {
                self.socket = socket;
                self.until_ns = under.now_ns.saturating_add(PATIENCE_NS);
                return Progress::Again;
            }
        }
        match questions.unanswered(&self.asked, under) {
            Some(answer) => Progress::Done(answer),
            None => Progress::Gone,
        }
    }
}

fn send(server: SocketAddr, bytes: &[u8]) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(bytes)?;
    Ok(socket)
}

/// A message's number that nobody can guess.
pub fn random() -> u16 {
    RandomState::new().build_hasher().finish() as u16
}
