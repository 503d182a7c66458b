//! Rules that name hosts.

use monitor_common::{
    network::protocol,
    policy::{access, class, reason, verdict},
};

use super::*;

const NAMED: &str = "[network]\nconnect = [\"api.example.com:443\", \"*.s3.example.com:443/tcp\"]\n\
                     [response]\nmode = \"enforce\"\nunlisted = { connect = \"deny\" }";

#[test]
fn dns_of_rules_that_name_hosts_goes_to_the_agent_and_to_nobody_else() {
    let compiled = Fixture::new().server(NAMED).compile();
    assert!(compiled.answers_dns());
    let any_resolver = [v4(10, 0, 0, 1), v4(8, 8, 8, 8), v6("2001:db8::53"), v6("fe80::1")];
    for resolver in any_resolver {
        for protocol in [protocol::TCP, protocol::UDP] {
            assert_eq!(compiled.classify_address(resolver, 53, protocol), class::CONNECT);
        }
        assert_eq!(compiled.classify_address(resolver, 853, protocol::TCP), 0);
    }
    for service in ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"] {
        assert_eq!(compiled.classify_path(service.as_bytes()), class::DENY, "{service}");
    }
    let without = Fixture::new().server("[network]\nconnect = [\"10.0.0.1:53\"]").compile();
    assert!(!without.answers_dns());
    assert_eq!(without.classify_address(v4(8, 8, 8, 8), 53, protocol::UDP), 0);
    assert_eq!(without.classify_path(b"/run/nscd/socket"), 0);
    let by_hand = Fixture::new().server("include = [\"names\"]").compile();
    assert!(by_hand.answers_dns());
}

#[test]
fn an_include_may_name_hosts_for_its_servers() {
    let include = "schema = 1\n[network]\nconnect = [\"api.example.com:443\"]";
    let fixture = Fixture::new().server("include = [\"api\"]").file("includes/api.toml", include);
    assert!(fixture.compile().answers_dns());
}

#[test]
fn an_address_is_judged_by_the_host_it_belongs_to() {
    let compiled = Fixture::new().server(NAMED).compile();
    let class_of =
        |host: &str, port, protocol| compiled.classify_host(host, v4(1, 2, 3, 4), port, protocol);
    assert_eq!(class_of("API.example.com", 443, protocol::TCP), class::CONNECT);
    assert_eq!(class_of("api.example.com", 443, protocol::UDP), class::CONNECT);
    assert_eq!(class_of("api.example.com", 444, protocol::TCP), 0);
    assert_eq!(class_of("b.s3.example.com", 443, protocol::TCP), class::CONNECT);
    assert_eq!(class_of("b.s3.example.com", 443, protocol::UDP), 0, "TCP alone");
    assert_eq!(
        class_of("b.s3.example.com", 0, protocol::UDP),
        class::CONNECT,
        "a resolver's probe"
    );
    assert_eq!(class_of("b.s3.example.com", 0, protocol::TCP), 0);
    assert_eq!(class_of("example.com", 443, protocol::TCP), 0);
    for private in [v4(10, 0, 0, 1), v4(127, 0, 0, 1), v6("fd00::1"), v6("::ffff:192.168.0.1")] {
        assert_eq!(compiled.classify_host("api.example.com", private, 443, protocol::TCP), 0);
    }
}

#[test]
fn explanations_of_hosts_name_the_rule() {
    let explain = |rules: &str, name: &str, port| {
        let subject = Subject::Host { name, port: Some((port, protocol::TCP)) };
        Fixture::new().server(rules).compile().explain(subject, 0, access::CONNECT)
    };
    let allowed = explain(NAMED, "b.s3.example.com", 443);
    assert_eq!(allowed.decision.verdict, verdict::ALLOW);
    let by = allowed.by.unwrap();
    assert_eq!((by.text.as_str(), by.line), ("*.s3.example.com:443/tcp", 4));
    let denied = explain(NAMED, "api.example.com", 80);
    assert_eq!(
        (denied.decision.verdict, denied.decision.reason),
        (verdict::DENY, reason::UNLISTED)
    );
    let both = NAMED.replace("connect = [", "connect = [\"public:1-1000\", ");
    let by = explain(&both, "api.example.com", 443).by.unwrap();
    assert_eq!(by.text, "api.example.com:443", "the name says more");
    assert_eq!(explain(&both, "other.example.com", 80).by.unwrap().text, "public:1-1000");
}
