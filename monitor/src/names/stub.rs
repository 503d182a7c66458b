//! The agent's end of a server's DNS: sockets on loopback, of which the kernel programs know, and
//! everything on its way between them and the resolvers. It never waits: it is waited on.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    Answered,
    forward::{Forward, Progress},
    questions::{Course, Questions, Under},
    resolv_conf::ResolvConf,
    stream::Stream,
};

/// Questions by datagram, and askers by stream, at one time.
const FORWARDS_MAX: usize = 256;
const STREAMS_MAX: usize = 32;
/// Questions taken before the rest of the agent has its turn.
const BATCH: usize = 64;
/// Longest message.
const MESSAGE_MAX: usize = 65_535;
/// Ports that are tried until one is free for datagrams and streams of both families.
const TRIES: usize = 16;

/// See the module.
pub struct Stub {
    epoll: Epoll,
    port: u16,
    datagrams: Vec<UdpSocket>,
    streams: Vec<TcpListener>,
    resolv_conf: ResolvConf,
    questions: Questions,
    forwards: HashMap<u64, (usize, Forward)>,
    open: HashMap<u64, Stream>,
    next: u64,
    buffer: Vec<u8>,
}

impl Stub {
    /// Begins to listen; `resolv_conf` names the resolvers that are asked.
    ///
    /// # Errors
    /// When loopback cannot be listened on.
    pub fn open(resolv_conf: PathBuf) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut tries = 0;
        let (port, datagrams, streams) = loop {
            tries += 1;
            match listen() {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {}
                listening => break listening?,
            }
        };
        let stub = Self {
            epoll,
            port,
            datagrams,
            streams,
            resolv_conf: ResolvConf::new(resolv_conf),
            questions: Questions::default(),
            forwards: HashMap::new(),
            open: HashMap::new(),
            next: 0,
            buffer: vec![0; MESSAGE_MAX],
        };
        let level = EpollFlags::EPOLLIN;
        stub.datagrams.iter().try_for_each(|socket| wait_on(&stub.epoll, socket, level))?;
        stub.streams.iter().try_for_each(|socket| wait_on(&stub.epoll, socket, level))?;
        Ok(stub)
    }

    /// Port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes in what `/etc/hosts` says about hosts that rules name.
    pub fn hosts(&mut self, text: &str, under: &mut Under<'_>) {
        self.questions.hosts(text, under);
    }

    /// Lets the server connect to where another stub's answers led it.
    pub fn take_over(&mut self, other: &Self, under: &mut Under<'_>) {
        self.questions.take_over(&other.questions, under);
    }

    /// Goes as far as possible without waiting.
    ///
    /// # Errors
    /// When the kernel refuses what listening takes: nothing is answered any more.
    pub fn serve(&mut self, under: &mut Under<'_>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); BATCH];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        self.questions.expire(under);
        if ready == 0 && !self.is_due(under.now_ns) {
            return Ok(());
        }
        for at in 0..self.datagrams.len() {
            self.take_datagrams(at, under)?;
        }
        for at in 0..self.streams.len() {
            self.take_streams(at, under)?;
        }
        self.go_on(under);
        Ok(())
    }

    /// Gives up what is on its way.
    pub fn finish(&mut self, under: &mut Under<'_>) {
        let Self { questions, forwards, open, .. } = self;
        let streams = open.values().filter_map(Stream::asked);
        for asked in forwards.values().map(|(_, forward)| forward.asked()).chain(streams) {
            questions.unanswered(asked, under);
        }
        forwards.clear();
        open.clear();
    }

    /// Questions that have been answered, and what people should know, since the last call.
    pub fn told(&mut self) -> (Vec<Answered>, Vec<String>) {
        let Questions { answered, notes, .. } = &mut self.questions;
        (std::mem::take(answered), std::mem::take(notes))
    }

    fn is_due(&self, now_ns: u64) -> bool {
        let forwards = self.forwards.values().map(|(_, forward)| forward.until_ns);
        let mut dues = forwards.chain(self.open.values().map(|stream| stream.until_ns));
        dues.any(|until_ns| now_ns >= until_ns)
    }

    fn take_datagrams(&mut self, at: usize, under: &mut Under<'_>) -> io::Result<()> {
        for _ in 0..BATCH {
            let Self { datagrams, buffer, questions, .. } = self;
            let (length, asker) = match datagrams[at].recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Somebody who has asked is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            match questions.ask(&buffer[..length], "udp", under) {
                Course::Drop => {}
                Course::Answer(answer) => give(&datagrams[at], &answer, asker),
                Course::Ask(asked) => {
                    let servers = match self.forwards.len() < FORWARDS_MAX {
                        true => self.resolv_conf.servers(),
                        false => &[],
                    };
                    match Forward::start(asked, asker, servers, under.now_ns) {
                        Ok(forward) => self.keep(at, forward)?,
                        Err(asked) => {
                            let answer = self.questions.unanswered(&asked, under);
                            answer.iter().for_each(|it| give(&self.datagrams[at], it, asker));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, at: usize, forward: Forward) -> io::Result<()> {
        wait_on(&self.epoll, forward.socket(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET)?;
        self.forwards.insert(self.next, (at, forward));
        self.next += 1;
        Ok(())
    }

    fn take_streams(&mut self, at: usize, under: &Under<'_>) -> io::Result<()> {
        for _ in 0..BATCH {
            let socket = match self.streams[at].accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            if self.open.len() < STREAMS_MAX {
                let stream = Stream::new(socket, self.resolv_conf.servers(), under.now_ns)?;
                stream.sockets().try_for_each(|socket| wait_on(&self.epoll, socket, EDGES))?;
                self.open.insert(self.next, stream);
                self.next += 1;
            }
        }
        Ok(())
    }

    /// Everything that is on its way.
    fn go_on(&mut self, under: &mut Under<'_>) {
        let Self { epoll, datagrams, questions, forwards, open, buffer, .. } = self;
        forwards.retain(|_, (at, forward)| match forward.go_on(buffer, questions, under) {
            Progress::Waiting => true,
            // What cannot be waited on is looked at when its time is over.
            Progress::Again => wait_on(epoll, forward.socket(), EDGES).is_ok(),
            Progress::Done(answer) => {
                give(&datagrams[*at], &answer, forward.asker);
                false
            }
            Progress::Gone => false,
        });
        open.retain(|_, stream| match stream.go_on(questions, under) {
            Ok(true) => {
                stream.sockets().skip(1).all(|socket| wait_on(epoll, socket, EDGES).is_ok())
            }
            Ok(false) => true,
            Err(_) => false,
        });
    }
}

/// It is ready when there is something to do; what only time brings it does not tell.
impl AsFd for Stub {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Every change of what a socket can take or give.
const EDGES: EpollFlags =
    EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT).union(EpollFlags::EPOLLET);

fn wait_on(epoll: &Epoll, socket: &impl AsFd, flags: EpollFlags) -> io::Result<()> {
    Ok(epoll.add(socket, EpollEvent::new(flags, 0))?)
}

/// Whoever does not take an answer asks again.
fn give(socket: &UdpSocket, answer: &[u8], asker: SocketAddr) {
    let _ = socket.send_to(answer, asker);
}

/// One port for datagrams and streams, of IPv6 too where this machine has it.
fn listen() -> io::Result<(u16, Vec<UdpSocket>, Vec<TcpListener>)> {
    let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = first.local_addr()?.port();
    let mut datagrams = vec![first];
    let mut streams = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, port))?];
    let six = IpAddr::from(Ipv6Addr::LOCALHOST);
    match UdpSocket::bind((six, port)) {
        Ok(socket) => {
            datagrams.push(socket);
            streams.push(TcpListener::bind((six, port))?);
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(_) => {}
    }
    datagrams.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    streams.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    Ok((port, datagrams, streams))
}
