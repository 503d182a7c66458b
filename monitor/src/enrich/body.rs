//! From a decoded record to the body of its event.

use monitor_common::{
    policy::class,
    record::{Peer, Record, kind},
};

use crate::{
    decode::Decoded,
    event::{Body, Bytes, Contact, Exec, File, Veil},
};

/// The body of a record's event. Kinds without one do not pass the decoder.
pub(super) fn of(decoded: &Decoded<'_>, veil: &Veil) -> Body {
    let record = &decoded.record;
    match record.kind {
        kind::EXEC => Body::Exec(Box::new(exec(decoded, veil))),
        kind::FORK => Body::Fork { child: record.target },
        kind::EXIT => Body::Exit { status: record.detail },
        kind::OPEN => Body::Open { access: record.did & DID, file: file(decoded) },
        kind::CHANGE => {
            Body::Change { op: record.op, file: file(decoded), second: decoded.second().into() }
        }
        kind::MOUNT => Body::Mount { file: file(decoded), origin: decoded.second().into() },
        kind::CONNECT => Body::Connect(contact(record)),
        kind::SEND => Body::Send(contact(record)),
        kind::BIND => Body::Bind(contact(record)),
        kind::LISTEN => Body::Listen(listener(decoded)),
        kind::UNIX => Body::Unix { file: file(decoded) },
        kind::PROCESS => Body::Process {
            op: record.op,
            target: record.target,
            detail: record.detail,
            access: record.did & DID,
            file: file(decoded),
        },
        kind::IO_URING => Body::IoUring,
        kind::BPF => Body::Bpf { command: record.detail },
        kind::SOCKET => Body::Socket(contact(record)),
        _ => Body::Namespace,
    }
}

const DID: u32 = (1 << monitor_common::record::did::NAMES.len()) - 1;

/// A script stands where people look for it, in `path`; what runs is then its interpreter.
fn exec(decoded: &Decoded<'_>, veil: &Veil) -> Exec {
    let mut file = file(decoded);
    let interpreter = match script(decoded) {
        Some(script) => std::mem::replace(&mut file.path, script),
        None => Bytes::default(),
    };
    Exec { file, interpreter, argv: veil.arguments(decoded.arguments()), cwd: decoded.cwd().into() }
}

/// The script that was executed, by the name it was given and the working directory.
fn script(decoded: &Decoded<'_>) -> Option<Bytes> {
    let name = decoded.second();
    match name.first() {
        None => None,
        Some(b'/') => Some(name.into()),
        Some(_) => Some([decoded.cwd(), b"/", name].concat().as_slice().into()),
    }
}

/// Bits of the sets that have a name.
fn sets(bits: u32) -> u32 {
    let known = (1 << monitor_common::policy::set::COUNT) - 1;
    bits & (known << class::SET_SHIFT)
}

fn file(decoded: &Decoded<'_>) -> File {
    let record = &decoded.record;
    File {
        path: decoded.path().into(),
        host_path: Bytes::default(),
        inode: record.inode,
        mode: record.inode_mode,
        nlink: record.nlink,
        fs_magic: record.fs_magic,
        mnt_ns: record.mnt_ns,
        labels: sets(record.labels),
        sets: sets(record.classes),
    }
}

fn contact(record: &Record) -> Contact {
    let mut peer = record.peer;
    if !matches!(i32::from(peer.family), libc::AF_INET | libc::AF_INET6) {
        peer = Peer { address: [0; 16], port: 0, ..peer };
    }
    Contact { peer, sets: sets(record.classes), name: None, file: None }
}

fn listener(decoded: &Decoded<'_>) -> Contact {
    let contact = contact(&decoded.record);
    let is_unix = i32::from(contact.peer.family) == libc::AF_UNIX;
    Contact { file: is_unix.then(|| Box::new(file(decoded))), ..contact }
}
