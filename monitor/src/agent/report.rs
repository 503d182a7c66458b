//! What an adopted process had done before: the files that it has open and its policy would not
//! have let it open, and the sockets that are connected. Both stay with it; nothing of it is taken
//! back.

use std::{collections::HashMap, fs, net::Ipv6Addr, os::unix::ffi::OsStringExt as _};

use monitor_common::{
    network::{mapped_v4, protocol},
    policy::{access, decide, verdict},
};

use super::process::Process;
use crate::rules::Compiled;

/// What nothing tells.
pub const UNKNOWN: &str = "what adopted processes had done before is not known: files closed \
    again, memory mapped, descriptors passed on, io_uring rings, and processes whose parent had \
    ended before, which are not adopted";
/// Most entries of one list.
const LISTED_MAX: usize = 32;
/// State of a connected socket in `/proc/PID/net/tcp`; include/net/tcp_states.h.
const ESTABLISHED: &str = "01";

/// One line about a process.
pub fn of(process: &Process, compiled: &Compiled) -> String {
    let mut files = Vec::new();
    let mut inodes = Vec::new();
    let folder = format!("/proc/{}/fd", process.tgid);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.into_os_string().into_vec();
        let name = entry.file_name();
        let flags = flags(process.tgid, &name.to_string_lossy());
        if target.first() == Some(&b'/') {
            files.extend(file(&target, flags, compiled));
        } else if let Some(inode) = target.strip_prefix(b"socket:[") {
            let inode = inode.strip_suffix(b"]").unwrap_or_default();
            inodes.push(String::from_utf8_lossy(inode).into_owned());
        }
    }
    let peers = peers(process.tgid);
    let sockets = inodes.iter().filter_map(|inode| peers.get(inode));
    let sockets: Vec<String> = sockets.map(|peer| contact(peer, compiled)).collect();
    format!(
        "process {} ({}) ran already; open against its rules: {}; connected: {}",
        process.tgid,
        process.exe.escape_ascii(),
        list(files),
        list(sockets)
    )
}

fn list(mut entries: Vec<String>) -> String {
    entries.sort();
    entries.dedup();
    let more = entries.len().saturating_sub(LISTED_MAX);
    entries.truncate(LISTED_MAX);
    match (entries.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (_, 0) => entries.join(", "),
        _ => format!("{}, and {more} more", entries.join(", ")),
    }
}

/// How a descriptor is open, in octal in its `fdinfo`.
fn flags(tgid: u32, descriptor: &str) -> i32 {
    let text = fs::read_to_string(format!("/proc/{tgid}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0)
}

/// An open file that the rules would not have let be opened.
fn file(path: &[u8], flags: i32, compiled: &Compiled) -> Option<String> {
    if flags & libc::O_PATH != 0 {
        return None;
    }
    let asked = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => access::READ,
        libc::O_WRONLY => access::WRITE,
        _ => access::READ | access::WRITE,
    };
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let decision = decide(&compiled.policy, compiled.classify_path(path), asked);
    let asked = access::NAMES[decision.access.trailing_zeros() as usize % access::COUNT];
    (decision.verdict > verdict::ALLOW)
        .then(|| format!("{} ({asked}: {})", path.escape_ascii(), name_of(decision.verdict)))
}

fn name_of(number: u8) -> &'static str {
    verdict::NAMES.get(usize::from(number)).copied().unwrap_or_default()
}

/// What a socket is connected to.
struct Peer {
    address: [u8; 16],
    port: u16,
    protocol: u8,
}

fn contact(peer: &Peer, compiled: &Compiled) -> String {
    let Peer { address, port, protocol } = *peer;
    let classes = compiled.classify_address(address, port, protocol);
    let decision = decide(&compiled.policy, classes, access::CONNECT);
    let address = Ipv6Addr::from(address);
    let shown = match address.to_ipv4_mapped() {
        Some(address) => format!("{address}:{port}"),
        None => format!("[{address}]:{port}"),
    };
    format!("{shown} ({})", name_of(decision.verdict))
}

/// Connected sockets of a process's network namespace, by inode.
fn peers(tgid: u32) -> HashMap<String, Peer> {
    let tables = [
        ("tcp", protocol::TCP),
        ("tcp6", protocol::TCP),
        ("udp", protocol::UDP),
        ("udp6", protocol::UDP),
    ];
    let mut peers = HashMap::new();
    for (table, protocol) in tables {
        let text = fs::read_to_string(format!("/proc/{tgid}/net/{table}")).unwrap_or_default();
        peers.extend(text.lines().skip(1).filter_map(|line| peer(line, protocol)));
    }
    peers
}

/// A line of `/proc/PID/net/tcp` and the like, if it is of a connected socket.
fn peer(line: &str, protocol: u8) -> Option<(String, Peer)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (remote, state, inode) = (fields.get(2)?, fields.get(3)?, fields.get(9)?);
    let (address, port) = remote.split_once(':')?;
    if *state != ESTABLISHED {
        return None;
    }
    // Words in the processor's order, each printed as a number.
    let mut bytes = Vec::new();
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(address) => address,
        Err(_) => mapped_v4(u32::from_be_bytes(bytes.try_into().ok()?)),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(((*inode).to_owned(), Peer { address, port, protocol }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "   0: 0100007F:C350 ";
    const REST: &str = " 00000000:00000000 00:00000000 00000000  0        0 4711 1 0 20 4 30 10 -1";

    #[test]
    fn connected_sockets_are_read_and_others_are_not() {
        let line = format!("{HEADER}0500000A:01BB 01{REST}");
        let (inode, found) = peer(&line, protocol::TCP).unwrap();
        assert_eq!(inode, "4711");
        assert_eq!((found.address, found.port), (mapped_v4(0x0a00_0005), 443));
        let listening = format!("{HEADER}00000000:0000 0A{REST}");
        assert!(peer(&listening, protocol::TCP).is_none());
        assert!(peer("nonsense", protocol::TCP).is_none());
    }

    #[test]
    fn addresses_of_the_sixth_version_are_read_word_by_word() {
        let line = format!("{HEADER}0000000000000000FFFF00000100007F:0035 01{REST}");
        let (_, found) = peer(&line, protocol::UDP).unwrap();
        assert_eq!((found.address, found.port), (mapped_v4(0x7f00_0001), 53));
    }

    #[test]
    fn lists_end_somewhere() {
        assert_eq!(list(Vec::new()), "nothing");
        assert_eq!(list(vec!["b".into(), "a".into(), "b".into()]), "a, b");
        let many = (0..LISTED_MAX + 2).map(|number| format!("{number:04}")).collect();
        assert!(list(many).ends_with("0031, and 2 more"));
    }
}
