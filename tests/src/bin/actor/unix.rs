//! AF_UNIX sockets, and descriptors that come through them.

use std::os::{
    fd::{AsFd as _, AsRawFd as _, OwnedFd},
    unix::ffi::OsStrExt as _,
};

use crate::{
    files, inet,
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, open, own, sys},
};

pub const STEPS: &[Step] = &[
    step("unix-stream", "PATH", |words| connect(&address(words)?, libc::SOCK_STREAM)),
    step("unix-datagram", "PATH", |words| connect(&address(words)?, libc::SOCK_DGRAM)),
    step("unix-sendto", "PATH", |words| {
        let address = address(words)?;
        inet::send_to(&inet::socket(&address, libc::SOCK_DGRAM, 0)?, &address, 0)
    }),
    step("unix-abstract", "NAME", |words| connect(&abstract_name(words)?, libc::SOCK_STREAM)),
    step("unix-abstract-sendto", "NAME", |words| {
        let address = abstract_name(words)?;
        inet::send_to(&inet::socket(&address, libc::SOCK_DGRAM, 0)?, &address, 0)
    }),
    step("unix-listen", "PATH", |words| listen(&address(words)?).and_then(|_| done(""))),
    step("scm-send", "SOCKET FILE", scm_send),
    step("scm-receive", "SOCKET", scm_receive),
];

fn address(words: Words<'_>) -> Result<Vec<u8>, Failure> {
    encode(&[words.word(0).as_bytes(), &[0]].concat())
}

fn abstract_name(words: Words<'_>) -> Result<Vec<u8>, Failure> {
    encode(&[&[0], words.word(0).as_bytes()].concat())
}

fn encode(name: &[u8]) -> Result<Vec<u8>, Failure> {
    const NAME_MAX: usize = 108;
    if name.len() > NAME_MAX {
        return Err(Failure::Usage("the socket's name is longer than AF_UNIX allows".into()));
    }
    Ok([&(libc::AF_UNIX as u16).to_ne_bytes(), name].concat())
}

fn connect(address: &[u8], kind: i32) -> Done {
    let socket = inet::socket(address, kind, 0)?;
    inet::connect_socket(&socket, address)?;
    inet::send(&socket)
}

fn listen(address: &[u8]) -> Result<OwnedFd, Failure> {
    let socket = inet::socket(address, libc::SOCK_STREAM, 0)?;
    sys!(SYS_bind, socket.as_raw_fd(), address.as_ptr(), address.len())?;
    sys!(SYS_listen, socket.as_raw_fd(), 1)?;
    Ok(socket)
}

/// Room for one descriptor, as `CMSG_SPACE` says.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fd: i32,
    padding: i32,
}

impl Control {
    fn new(fd: i32) -> Self {
        let length = size_of::<libc::cmsghdr>() + size_of::<i32>();
        let (cmsg_level, cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        let header = libc::cmsghdr { cmsg_len: length, cmsg_level, cmsg_type };
        Self { header, fd, padding: 0 }
    }
}

fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    let mut message = inet::message(&mut [], part);
    message.msg_name = std::ptr::null_mut();
    message.msg_control = (&raw mut *control).cast();
    message.msg_controllen = size_of::<Control>();
    message
}

/// Waits for one connection and passes an open file through it: the accomplice outside the tree.
fn scm_send(words: Words<'_>) -> Done {
    let file = open(&words.path(1), libc::O_RDONLY)?;
    let socket = listen(&address(words)?)?;
    let peer = own(sys!(SYS_accept4, socket.as_raw_fd(), 0_usize, 0_usize, 0)?);
    let mut data = *b"x";
    let mut part = inet::part(&mut data);
    let mut control = Control::new(file.as_raw_fd());
    let message = message(&mut part, &mut control);
    sys!(SYS_sendmsg, peer.as_raw_fd(), &raw const message, 0)?;
    // The socket stays until the other side has taken the descriptor.
    sys::drain(&peer)?;
    done("")
}

/// Takes an open file from whoever listens, and reads it.
fn scm_receive(words: Words<'_>) -> Done {
    let address = address(words)?;
    let socket = inet::socket(&address, libc::SOCK_STREAM, 0)?;
    inet::connect_socket(&socket, &address)?;
    let mut data = [0_u8];
    let mut part = inet::part(&mut data);
    let mut control = Control::new(-1);
    let mut message = message(&mut part, &mut control);
    sys!(SYS_recvmsg, socket.as_raw_fd(), &raw mut message, 0)?;
    if message.msg_controllen < size_of::<libc::cmsghdr>() {
        // The kernel passes on the data and leaves out a descriptor that may not be had.
        return Err(Failure::call("recvmsg", 0));
    }
    let file = own(control.fd as usize);
    sys!(SYS_lseek, file.as_fd().as_raw_fd(), 0, libc::SEEK_SET)?;
    files::report(&file)
}
