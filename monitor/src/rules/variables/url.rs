//! Values that are URLs: which address they lead to, or which file.

/// Ports of schemes that people write without one.
const PORTS: [(&str, u16); 14] = [
    ("http", 80),
    ("ws", 80),
    ("https", 443),
    ("wss", 443),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("mariadb", 3306),
    ("redis", 6379),
    ("rediss", 6379),
    ("mongodb", 27017),
    ("sqlserver", 1433),
    ("mssql", 1433),
    ("amqp", 5672),
];

/// `scheme` and what stands behind `://`. Of `postgresql+driver` the driver is left out.
fn split(value: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = value.split_once("://")?;
    let scheme = scheme.split('+').next().unwrap_or(scheme);
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_word))
        .then_some((scheme, rest))
}

/// Where a URL, or `host:port`, leads to, as entries of `network.connect`; empty when it is neither.
/// `localhost` is both loopback addresses.
pub fn destinations(value: &str) -> Vec<String> {
    let (scheme, rest) = split(value).unwrap_or(("", value));
    if scheme.is_empty() && !value.contains(':') {
        return Vec::new();
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, after)| after);
    let (host, port) = match host_and_port.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => {
            let known = PORTS.iter().find(|(name, _)| *name == scheme);
            (host_and_port, known.map(|(_, port)| *port))
        }
    };
    let Some(port) = port.filter(|_| !host.is_empty()) else { return Vec::new() };
    let hosts: &[&str] = if host == "localhost" { &["127.0.0.1", "[::1]"] } else { &[host] };
    hosts.iter().map(|host| format!("{host}:{port}/tcp")).collect()
}

/// The file of a URL that names no host, such as `file:///a` and `sqlite:////a`; other values are
/// what they are.
pub fn path(value: &[u8]) -> &[u8] {
    const LOCAL: [&[u8]; 4] = [b"file:///", b"sqlite:///", b"sqlite3:///", b"duckdb:///"];
    let Some(rest) = LOCAL.iter().find_map(|scheme| value.strip_prefix(*scheme)) else {
        return value;
    };
    let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
    let start = value.len() - rest.len() + slashes - 1;
    let end = value.iter().position(|byte| *byte == b'?').unwrap_or(value.len());
    &value[start..end.max(start)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_an_address_and_a_port() {
        let cases: [(&str, &[&str]); 11] = [
            ("postgresql://me:p@ss@10.0.0.7/db", &["10.0.0.7:5432/tcp"]),
            ("postgresql+psycopg2://10.0.0.7:6000/db?x=1", &["10.0.0.7:6000/tcp"]),
            ("http://localhost:8080", &["127.0.0.1:8080/tcp", "[::1]:8080/tcp"]),
            ("https://[2001:db8::1]/x", &["[2001:db8::1]:443/tcp"]),
            ("https://git.example.com", &["git.example.com:443/tcp"]),
            ("10.0.0.7:6379", &["10.0.0.7:6379/tcp"]),
            ("stdio", &[]),
            ("/a/b", &[]),
            ("sqlite:///a/b.db", &[]),
            ("unknown://host", &[]),
            ("http://host:99999", &[]),
        ];
        for (value, wanted) in cases {
            assert_eq!(destinations(value), wanted, "{value}");
        }
    }

    #[test]
    fn urls_without_a_host_are_files() {
        let cases = [
            ("file:///a/b", "/a/b"),
            ("sqlite:///a/b.db", "/a/b.db"),
            ("sqlite:////a/b.db?mode=ro", "/a/b.db"),
            ("/a/b?c", "/a/b?c"),
            ("http://h/a", "http://h/a"),
            ("sqlite:///:memory:", "/:memory:"),
        ];
        for (value, wanted) in cases {
            assert_eq!(path(value.as_bytes()), wanted.as_bytes(), "{value}");
        }
    }
}
