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

/// Schemes whose URLs name a file.
const LOCAL: [&str; 4] = ["file:///", "sqlite:///", "sqlite3:///", "duckdb:///"];

/// What rules need of a value, without what may be secret in it: of a URL the host and the port, or
/// the file. `None` of what is neither path nor URL and holds a password, and of URLs that cannot be
/// told apart from one.
pub fn without_secrets(value: &[u8]) -> Option<Vec<u8>> {
    let whole = || Some(value.to_vec());
    let Ok(text) = str::from_utf8(value) else { return whole() };
    if LOCAL.iter().any(|scheme| text.starts_with(scheme)) {
        return Some(text.split('?').next().unwrap_or_default().into());
    }
    let Some((scheme, rest)) = split(text) else {
        let is_path = text.starts_with(['/', '.', '~']);
        return if !is_path && holds_password(text) { None } else { whole() };
    };
    let (host, port) = host_and_port(scheme, rest)?;
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{scheme}://{host}{port}").into())
}

/// `user:password@…`, or `…password=…` as databases take it.
fn holds_password(text: &str) -> bool {
    let before = text.rsplit_once('@').map(|(before, _)| before);
    let text = text.to_ascii_lowercase();
    before.is_some_and(|before| before.contains(':'))
        || ["password=", "passwd=", "pwd="].iter().any(|key| text.contains(key))
}

/// The host of what stands behind `://`, and its port, stated or the scheme's. `None` when what
/// stands for a port is none.
fn host_and_port<'a>(scheme: &str, rest: &'a str) -> Option<(&'a str, Option<u16>)> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, after)| after);
    match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((host, Some(port.parse().ok()?))),
        _ => {
            let known = PORTS.iter().find(|(name, _)| *name == scheme);
            Some((place, known.map(|(_, port)| *port)))
        }
    }
}

/// Where a URL, or `host:port`, leads to, as entries of `network.connect`; empty when it is neither.
/// `localhost` is both loopback addresses.
pub fn destinations(value: &str) -> Vec<String> {
    let (scheme, rest) = split(value).unwrap_or(("", value));
    if scheme.is_empty() && !value.contains(':') {
        return Vec::new();
    }
    let Some((host, Some(port))) = host_and_port(scheme, rest) else { return Vec::new() };
    if host.is_empty() {
        return Vec::new();
    }
    let hosts: &[&str] = if host == "localhost" { &["127.0.0.1", "[::1]"] } else { &[host] };
    hosts.iter().map(|host| format!("{host}:{port}/tcp")).collect()
}

/// The file of a URL that names no host, such as `file:///a` and `sqlite:////a`; other values are
/// what they are.
pub fn path(value: &[u8]) -> &[u8] {
    let Some(rest) = LOCAL.iter().find_map(|scheme| value.strip_prefix(scheme.as_bytes())) else {
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
    fn secrets_of_a_url_are_left_out_and_it_leads_where_it_led() {
        let cases = [
            ("postgresql://me:p@ss@10.0.0.7/db?sslpassword=x", "postgresql://10.0.0.7:5432"),
            ("postgresql+psycopg2://me:s@10.0.0.7:6000/db", "postgresql://10.0.0.7:6000"),
            ("https://hooks.example.com/T0/secret#x", "https://hooks.example.com:443"),
            ("redis://:s@[2001:db8::1]:1", "redis://[2001:db8::1]:1"),
            ("sqlite:////a/b.db?key=secret", "sqlite:////a/b.db"),
            ("unknown://me:s@host/x", "unknown://host"),
            ("10.0.0.7:6379", "10.0.0.7:6379"),
            ("/a/me:b@c", "/a/me:b@c"),
            ("a b", "a b"),
        ];
        for (value, kept) in cases {
            let without = without_secrets(value.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&without), kept);
            assert_eq!(without_secrets(&without), Some(without), "again: {value}");
            assert_eq!(destinations(kept), destinations(value), "{value}");
        }
        let others = ["me:s@tcp(10.0.0.7:3306)/db", "host=h Password=s", "postgres://me:a/b@h/db"];
        for value in others {
            assert_eq!(without_secrets(value.as_bytes()), None, "{value}");
        }
        assert!(without_secrets(b"/\xff").is_some());
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
