//! Addresses.

use monitor_common::{
    network::protocol,
    policy::{access, class, decide, verdict},
};

use super::*;

#[test]
fn a_denied_socket_is_still_a_file() {
    let compiled = Fixture::new()
        .server(
            "[files]\nread = [\"/run/**\"]\n[network]\nunix = [\"/run/**\", \"@bus-*\"]\n\
             deny = [\"/run/x.sock\", \"@*/**\"]\n[response]\nunlisted = { unix = \"deny\" }",
        )
        .compile();
    let on =
        |path: &[u8], asked| decide(&compiled.policy, compiled.classify_path(path), asked).verdict;
    assert_eq!(on(b"/run/x.sock", access::UNIX), verdict::DENY);
    assert_eq!(on(b"/run/x.sock", access::LISTEN), verdict::DENY);
    assert_eq!(on(b"/run/x.sock", access::READ), verdict::ALLOW);
    assert_eq!(on(b"/run/y.sock", access::UNIX), verdict::ALLOW);
    assert_eq!(on(b"@bus-1/x", access::UNIX), verdict::DENY);
    assert_eq!(on(b"@bus-1", access::UNIX), verdict::DENY);
}

#[test]
fn destinations_mean_what_they_say() {
    let compiled = Fixture::new()
        .server(
            "[network]\nconnect = [\"10.0.0.0/8:5432/tcp\", \"[2001:db8::1]:443\", \
             \"127.0.0.1:8000-8999\", \"public:443\", \"2001:db8:1::/48\"]\n\
             deny = [\"10.1.0.0/16\", \"1.1.1.1:443\"]\nlisten = [\"0.0.0.0:3000\", \"/run/x.sock\"]",
        )
        .compile();
    let class = |address, port, protocol| compiled.classify_address(address, port, protocol);
    let tcp = protocol::TCP;
    assert_eq!(class(v4(10, 2, 3, 4), 5432, tcp), class::CONNECT);
    assert_eq!(class(v4(10, 2, 3, 4), 5432, protocol::UDP), 0);
    assert_eq!(class(v4(10, 2, 3, 4), 5433, tcp), 0);
    assert_eq!(class(v4(10, 1, 3, 4), 5432, tcp), class::CONNECT | class::DENY);
    assert_eq!(class(v4(10, 1, 3, 4), 1, protocol::OTHER), class::DENY);
    assert_eq!(class(v6("2001:db8::1"), 443, tcp), class::CONNECT);
    assert_eq!(class(v6("2001:db8::1"), 444, tcp), 0);
    assert_eq!(class(v6("2001:db8:1::2"), 9, protocol::UDP), class::CONNECT);
    assert_eq!(class(v4(127, 0, 0, 1), 8500, tcp), class::CONNECT);
    assert_eq!(class(v4(0, 0, 0, 0), 8500, tcp), class::CONNECT, "0.0.0.0 is loopback");
    assert_eq!(class(v4(127, 0, 0, 2), 8500, tcp), 0);
    assert_eq!(class(v4(8, 8, 8, 8), 443, tcp), class::CONNECT);
    assert_eq!(class(v4(1, 1, 1, 1), 443, tcp), class::CONNECT | class::DENY);
    assert_eq!(class(v6("64:ff9b::808:808"), 443, tcp), class::CONNECT, "NAT64");
    assert_eq!(class(v6("64:ff9b::7f00:1"), 443, tcp), 0, "NAT64 to loopback");
    assert_eq!(class(v6("2606:4700::1111"), 443, tcp), class::CONNECT);
    for private in ["192.168.1.1", "169.254.169.254", "168.63.129.16", "100.64.0.1", "224.0.0.1"] {
        let [a, b, c, d] = private.parse::<std::net::Ipv4Addr>().unwrap().octets();
        assert_eq!(class(v4(a, b, c, d), 443, tcp), 0, "{private}");
    }
    for private in ["::1", "fe80::1", "fd00:ec2::254", "ff02::1", "2002:7f00:1::", "2001::1"] {
        assert_eq!(class(v6(private), 443, tcp), 0, "{private}");
    }
    assert_eq!(compiled.classify_local(v4(0, 0, 0, 0), 3000, tcp), class::LISTEN);
    assert_eq!(compiled.classify_local(v4(127, 0, 0, 1), 3000, tcp), 0);
    assert_eq!(compiled.classify_path(b"/run/x.sock"), class::LISTEN);
}

#[test]
fn too_many_port_ranges_are_refused_where_they_meet() {
    let ports = |count: u32| {
        let all: Vec<String> =
            (0..count).map(|i| format!("\"10.0.0.1:{}\"", 100 + 2 * i)).collect();
        Fixture::new().server(&format!("[network]\nconnect = [{}]", all.join(", ")))
    };
    ports(16).compile();
    let error = compile(&ports(17).load().unwrap()).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("17 port ranges meet in 10.0.0.1/32, more than 16"), "{text}");
}
