//! The resolvers of the host, as `/etc/resolv.conf` names them (resolv.conf(5)). It is read again
//! when it changes, as it does when a laptop changes networks.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use monitor_common::network::DNS_PORT;

/// Resolvers that the C library takes from the file.
const SERVERS_MAX: usize = 3;

/// See the module.
pub struct ResolvConf {
    path: PathBuf,
    /// Device, inode, time of the last change of what was read.
    seen: Option<(u64, u64, i64, i64)>,
    servers: Vec<SocketAddr>,
}

impl ResolvConf {
    /// Reads it when first asked.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None, servers: servers("") }
    }

    /// The resolvers, first choice first.
    pub fn servers(&mut self) -> &[SocketAddr] {
        let seen = fs::metadata(&self.path)
            .ok()
            .map(|file| (file.dev(), file.ino(), file.ctime(), file.ctime_nsec()));
        if seen != self.seen {
            self.servers = servers(&fs::read_to_string(&self.path).unwrap_or_default());
            self.seen = seen;
        }
        &self.servers
    }
}

/// The resolver on this machine when none is named, as resolv.conf(5) says.
fn servers(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, DNS_PORT))
    });
    let servers: Vec<SocketAddr> = named.take(SERVERS_MAX).collect();
    match servers.is_empty() {
        true => vec![(Ipv4Addr::LOCALHOST, DNS_PORT).into()],
        false => servers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_resolvers_are_taken() {
        let text = "# comment\nsearch example.com\nnameserver 10.0.0.1\n  nameserver\t::1 trailing\n\
                    ;nameserver 9.9.9.9\nnameserver nonsense\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        let expected = ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"].map(|text| text.parse().unwrap());
        assert_eq!(servers(text), expected);
    }

    #[test]
    fn without_any_the_machine_itself_is_asked() {
        assert_eq!(servers("search example.com\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut conf = ResolvConf::new(path.clone());
        assert_eq!(conf.servers(), ["127.0.0.1:53".parse().unwrap()]);
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(conf.servers(), ["10.0.0.1:53".parse().unwrap()]);
        fs::write(folder.path().join("new"), "nameserver 10.0.0.2\n").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(conf.servers(), ["10.0.0.2:53".parse().unwrap()]);
    }
}
