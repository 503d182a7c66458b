//! Internet sockets: every way to reach an address, and to be reached.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use crate::{
    steps::{Done, Step, Words, done, step},
    sys::{Failure, own, sys},
};

pub const STEPS: &[Step] = &[
    step("tcp", "ADDRESS PORT", |words| connect(words, libc::SOCK_STREAM, 0)),
    step("tcp-when", "ADDRESS PORT FILE...", send_when),
    step("mptcp", "ADDRESS PORT", |words| connect(words, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)),
    step("tcp-fastopen", "ADDRESS PORT", |words| {
        let address = address(words, 0)?;
        let socket = socket(&address, libc::SOCK_STREAM, 0)?;
        send_to(&socket, &address, libc::MSG_FASTOPEN)
    }),
    step("tcp-reconnect", "ADDRESS PORT ADDRESS PORT", reconnect),
    step("udp-connect", "ADDRESS PORT", |words| connect(words, libc::SOCK_DGRAM, 0)),
    step("udp-reconnect", "ADDRESS PORT ADDRESS PORT", |words| {
        let (first, second) = (address(words, 0)?, address(words, 2)?);
        let socket = socket(&first, libc::SOCK_DGRAM, 0)?;
        connect_socket(&socket, &first)?;
        connect_socket(&socket, &second)?;
        send(&socket)
    }),
    step("udp-sendto", "ADDRESS PORT", |words| {
        let address = address(words, 0)?;
        send_to(&socket(&address, libc::SOCK_DGRAM, 0)?, &address, 0)
    }),
    step("udp-sendmsg", "ADDRESS PORT", |words| {
        send_message(words, |socket, message| sys!(SYS_sendmsg, socket, message, 0))
    }),
    step("udp-sendmmsg", "ADDRESS PORT", |words| {
        send_message(words, |socket, message| {
            // SAFETY: a valid header, copied for the duration of the call.
            let msg_hdr = unsafe { *message };
            let mut many = libc::mmsghdr { msg_hdr, msg_len: 0 };
            sys!(SYS_sendmmsg, socket, &raw mut many, 1, 0)
        })
    }),
    step("raw-icmp", "ADDRESS", raw_icmp),
    step("socket", "FAMILY TYPE PROTOCOL", |words| {
        let [family, kind, protocol] =
            [words.number(0)?, words.number(1)?, words.number::<i32>(2)?];
        sys!(SYS_socket, family, kind, protocol).map(own).and_then(|_| done(""))
    }),
    step("listen", "ADDRESS PORT", listen),
    step("listen-unbound", "", |_| {
        let socket = own(sys!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)?);
        sys!(SYS_listen, socket.as_raw_fd(), 1).and_then(|_| done(""))
    }),
    step("udp-bind", "ADDRESS PORT", |words| {
        let address = address(words, 0)?;
        let socket = socket(&address, libc::SOCK_DGRAM, 0)?;
        sys!(SYS_bind, socket.as_raw_fd(), address.as_ptr(), address.len()).and_then(|_| done(""))
    }),
];

const DATA: &[u8; 6] = b"actor\n";

/// A `struct sockaddr` from the arguments at `index` and behind it.
pub fn address(words: Words<'_>, index: usize) -> Result<Vec<u8>, Failure> {
    let text = words.text(index)?;
    let ip: IpAddr =
        text.parse().map_err(|_| Failure::Usage(format!("{text} is not an address")))?;
    let port: u16 = words.number(index + 1)?;
    Ok(encode(SocketAddr::new(ip, port)))
}

fn encode(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.extend_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes.extend_from_slice(&port);
            bytes.extend_from_slice(&ip.octets());
            bytes.resize(16, 0);
        }
        IpAddr::V6(ip) => {
            bytes.extend_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend_from_slice(&port);
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&ip.octets());
            bytes.resize(28, 0);
        }
    }
    bytes
}

/// A socket of the address's family.
pub fn socket(address: &[u8], kind: i32, protocol: i32) -> Result<OwnedFd, Failure> {
    let family = i32::from(u16::from_ne_bytes([address[0], address[1]]));
    sys!(SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol).map(own)
}

/// Connects a socket.
pub fn connect_socket(socket: &OwnedFd, address: &[u8]) -> Result<usize, Failure> {
    sys!(SYS_connect, socket.as_raw_fd(), address.as_ptr(), address.len())
}

/// Sends on a connected socket.
pub fn send(socket: &OwnedFd) -> Done {
    let flags = libc::MSG_NOSIGNAL;
    let (fd, data) = (socket.as_raw_fd(), DATA.as_ptr());
    let bytes = sys!(SYS_sendto, fd, data, DATA.len(), flags, 0_usize, 0)?;
    done(format!("bytes={bytes}"))
}

/// Sends to an address.
pub fn send_to(socket: &OwnedFd, address: &[u8], flags: i32) -> Done {
    let (fd, data, length) = (socket.as_raw_fd(), DATA.as_ptr(), address.len());
    let bytes = sys!(SYS_sendto, fd, data, DATA.len(), flags, address.as_ptr(), length)?;
    done(format!("bytes={bytes}"))
}

fn connect(words: Words<'_>, kind: i32, protocol: i32) -> Done {
    let address = address(words, 0)?;
    let socket = socket(&address, kind, protocol)?;
    connect_socket(&socket, &address)?;
    send(&socket)
}

/// Connects, and sends on that connection each time that another of the files is there.
fn send_when(words: Words<'_>) -> Done {
    let address = address(words, 0)?;
    let socket = socket(&address, libc::SOCK_STREAM, 0)?;
    connect_socket(&socket, &address)?;
    for file in words.rest(2) {
        while !Path::new(file).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        send(&socket)?;
    }
    done("")
}

/// Connects, dissolves the connection by AF_UNSPEC, and connects the same socket elsewhere.
fn reconnect(words: Words<'_>) -> Done {
    let (first, second) = (address(words, 0)?, address(words, 2)?);
    let socket = socket(&first, libc::SOCK_STREAM, 0)?;
    connect_socket(&socket, &first)?;
    connect_socket(&socket, &[0; 16])?;
    connect_socket(&socket, &second)?;
    send(&socket)
}

/// One buffer of a message.
pub fn part(data: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() }
}

/// A message to `address`; it borrows both arguments' memory.
pub fn message(address: &mut [u8], part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a struct of integers and pointers; all zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = address.len() as u32;
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message
}

fn send_message(
    words: Words<'_>,
    send: fn(i32, *const libc::msghdr) -> Result<usize, Failure>,
) -> Done {
    let mut address = address(words, 0)?;
    let socket = socket(&address, libc::SOCK_DGRAM, 0)?;
    let mut data = *DATA;
    let mut part = part(&mut data);
    let message = message(&mut address, &mut part);
    send(socket.as_raw_fd(), &raw const message)?;
    done("")
}

/// An ICMP echo request through a raw socket.
fn raw_icmp(words: Words<'_>) -> Done {
    let text = words.text(0)?;
    let ip = text.parse().map_err(|_| Failure::Usage(format!("{text} is not an address")))?;
    let address = encode(SocketAddr::new(ip, 0));
    let socket = socket(&address, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
    let echo = [8_u8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let (fd, length) = (socket.as_raw_fd(), address.len());
    let bytes = sys!(SYS_sendto, fd, echo.as_ptr(), echo.len(), 0, address.as_ptr(), length)?;
    done(format!("bytes={bytes}"))
}

fn listen(words: Words<'_>) -> Done {
    let address = address(words, 0)?;
    let socket = socket(&address, libc::SOCK_STREAM, 0)?;
    sys!(SYS_bind, socket.as_raw_fd(), address.as_ptr(), address.len())?;
    sys!(SYS_listen, socket.as_raw_fd(), 1)?;
    done("")
}
