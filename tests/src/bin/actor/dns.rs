//! Questions for names, asked by hand, so that nothing stands between them and the kernel.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    steps::{Step, Words, done, step},
    sys::Failure,
};

pub const STEPS: &[Step] = &[
    // HOW: connect, sendto or tcp.
    step("dns", "HOW SERVER NAME RECORD", |words| done(ask(words)?.facts())),
    // Connects to the first address as soon as the answer is there.
    step("dns-connect", "HOW SERVER NAME RECORD PORT", |words| {
        let answer = ask(words)?;
        let failed = |errno| Failure::call("resolve", errno).with(answer.facts());
        let address = *answer.addresses.first().ok_or_else(|| failed(libc::ENOENT))?;
        let target = SocketAddr::new(address, words.number(4)?);
        TcpStream::connect(target).map_err(|error| failure("connect", &error))?;
        done(answer.facts())
    }),
];

const PORT: u16 = 53;
const NUMBER: u16 = 0x4d43;
const PATIENCE: Duration = Duration::from_secs(20);

struct Answer {
    rcode: u8,
    is_truncated: bool,
    /// Who it seems to come from.
    from: IpAddr,
    addresses: Vec<IpAddr>,
}

impl Answer {
    fn facts(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let Self { rcode, is_truncated, from, .. } = self;
        let truncated = u8::from(*is_truncated);
        format!("rcode={rcode} tc={truncated} from={from} addresses={}", addresses.join(","))
    }
}

fn failure(call: &'static str, error: &io::Error) -> Failure {
    Failure::call(call, error.raw_os_error().unwrap_or(0))
}

fn ask(words: Words<'_>) -> Result<Answer, Failure> {
    let server = words.text(1)?;
    let server: IpAddr =
        server.parse().map_err(|_| Failure::Usage(format!("{server} is not an address")))?;
    let server = SocketAddr::new(server, PORT);
    let record = match words.text(3)? {
        "A" => 1,
        "AAAA" => 28,
        other => return Err(Failure::Usage(format!("{other} is neither A nor AAAA"))),
    };
    let question = question(words.text(2)?, record);
    let (from, answer) = match words.text(0)? {
        "tcp" => by_stream(server, &question)?,
        "connect" => by_connected(server, &question)?,
        "sendto" => by_datagram(server, &question)?,
        other => return Err(Failure::Usage(format!("{other} is no way to ask"))),
    };
    read(from, &answer).ok_or_else(|| Failure::call("answer", libc::EBADMSG))
}

fn question(name: &str, record: u16) -> Vec<u8> {
    let mut bytes = NUMBER.to_be_bytes().to_vec();
    // Recursion desired; one question.
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&record.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

fn socket(server: SocketAddr) -> Result<UdpSocket, Failure> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).map_err(|error| failure("bind", &error))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|error| failure("setsockopt", &error))?;
    Ok(socket)
}

fn by_connected(server: SocketAddr, question: &[u8]) -> Result<(IpAddr, Vec<u8>), Failure> {
    let socket = socket(server)?;
    socket.connect(server).map_err(|error| failure("connect", &error))?;
    socket.send(question).map_err(|error| failure("send", &error))?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).map_err(|error| failure("recv", &error))?;
    let peer = socket.peer_addr().map_err(|error| failure("getpeername", &error))?;
    Ok((peer.ip(), buffer[..length].to_vec()))
}

fn by_datagram(server: SocketAddr, question: &[u8]) -> Result<(IpAddr, Vec<u8>), Failure> {
    let socket = socket(server)?;
    socket.send_to(question, server).map_err(|error| failure("sendto", &error))?;
    let mut buffer = [0; 4096];
    let received = socket.recv_from(&mut buffer);
    let (length, from) = received.map_err(|error| failure("recvfrom", &error))?;
    Ok((from.ip(), buffer[..length].to_vec()))
}

fn by_stream(server: SocketAddr, question: &[u8]) -> Result<(IpAddr, Vec<u8>), Failure> {
    let mut stream = TcpStream::connect(server).map_err(|error| failure("connect", &error))?;
    let peer = stream.peer_addr().map_err(|error| failure("getpeername", &error))?;
    let mut transfer = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&(question.len() as u16).to_be_bytes())?;
        stream.write_all(question)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    let answer = transfer().map_err(|error: io::Error| failure("read", &error))?;
    Ok((peer.ip(), answer))
}

fn read(from: IpAddr, answer: &[u8]) -> Option<Answer> {
    let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    let (flags, count) = (number(2)?, number(6)?);
    if number(0)? != NUMBER {
        return None;
    }
    let mut addresses = Vec::new();
    let mut at = behind_name(answer, 12)? + 4;
    for _ in 0..count {
        at = behind_name(answer, at)?;
        let (record, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        match record {
            1 => addresses.push(<[u8; 4]>::try_from(data).ok()?.into()),
            28 => addresses.push(<[u8; 16]>::try_from(data).ok()?.into()),
            _ => {}
        }
        at += 10 + length;
    }
    let (rcode, is_truncated) = ((flags & 15) as u8, flags & 0x200 != 0);
    Some(Answer { rcode, is_truncated, from, addresses })
}

/// Where the name at `at` ends; a pointer to an earlier one ends it.
fn behind_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}
