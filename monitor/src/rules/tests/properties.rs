//! Random patterns, paths and destinations against the reference implementations.

use globset::GlobBuilder;
use monitor_common::policy::class;
use proptest::prelude::*;

use super::*;

const LETTERS: &[&str] =
    &["a", "b", "ab", "é", ".", "*", "?", "[ab]", "[!a]", "{a,b}", "{a,}", "\\*"];

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("**".to_owned()),
        4 => prop::collection::vec(prop::sample::select(LETTERS), 1..4)
            .prop_map(|parts| parts.concat().replace("**", "*"))
            .prop_filter("dots", |text| text != "." && text != ".." && !text.contains("**")),
    ]
}

fn glob() -> impl Strategy<Value = String> {
    (prop::bool::ANY, prop::collection::vec(component(), 1..5)).prop_map(|(floating, parts)| {
        let start = if floating { "**/" } else { "/" };
        format!("{start}{}", parts.join("/"))
    })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(
        prop::sample::select(&[b'a', b'b', b'.', b'*', b'\n', 0xc3, 0xa9, 0xff][..]),
        1..4,
    );
    prop::collection::vec(name, 1..6)
        .prop_map(|names| names.iter().flat_map(|name| [b"/".as_slice(), name].concat()).collect())
}

/// What globset says, with our two differences: `/a/**` is also `/a`, and classes stop at `/`.
fn by_globset(glob: &str, path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    // Without its slash for floating patterns, or `*` could match the nothing before it.
    let path = if glob.starts_with("**") { &path[1..] } else { path };
    let path = std::ffi::OsStr::from_bytes(path);
    let mut texts = vec![glob.replace("[!", "[!/")];
    while let Some(stem) = texts[texts.len() - 1].strip_suffix("/**") {
        texts.push(stem.to_owned());
    }
    texts.iter().any(|text| {
        let mut builder = GlobBuilder::new(text);
        builder.literal_separator(true).empty_alternates(true);
        builder.build().unwrap().compile_matcher().is_match(path)
    })
}

fn patterns_of(glob: &str) -> Vec<pattern::Pattern> {
    let pieces = pattern::pieces(glob).unwrap();
    let all = pattern::alternatives(&pieces).unwrap();
    all.iter().filter_map(|pieces| pattern::Pattern::new(pieces).ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn automaton_matcher_and_globset_agree(
        globs in prop::collection::vec(glob(), 1..5),
        paths in prop::collection::vec(path(), 1..20),
    ) {
        let lists: Vec<Vec<pattern::Pattern>> = globs.iter().map(|g| patterns_of(g)).collect();
        // An alternative may turn out empty and then is no pattern of ours.
        prop_assume!(globs.iter().zip(&lists).all(|(g, l)| {
            l.len() == pattern::alternatives(&pattern::pieces(g).unwrap()).unwrap().len()
        }));
        let with_class = lists.iter().enumerate().flat_map(|(i, list)| {
            list.iter().map(move |pattern| (pattern, 1_u32 << i))
        });
        let table = compile::table_for_tests(&with_class.collect::<Vec<_>>());
        for path in &paths {
            let got = monitor_common::automaton::classify(table.cells.as_slice(), path);
            for (i, (glob, list)) in globs.iter().zip(&lists).enumerate() {
                let expected = by_globset(glob, path);
                let shown = path.escape_ascii().to_string();
                prop_assert_eq!(got & (1 << i) != 0, expected, "automaton, {} {}", glob, shown);
                let matched = list.iter().any(|pattern| pattern.matches(path));
                prop_assert_eq!(matched, expected, "matcher, {} {}", glob, shown);
            }
        }
    }

    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = parse_server(&text, "x");
        let _ = pattern::pieces(&text).and_then(|p| pattern::alternatives(&p));
        let _ = address::parse(&text, address::Purpose::Refuse);
    }

    #[test]
    fn the_address_table_agrees_with_each_rule_alone(
        rules in prop::collection::vec((0..7_usize, 0..4_usize, 0..3_usize), 1..7),
        targets in prop::collection::vec((0..12_usize, 0..6_usize, 0..3_usize), 1..30),
    ) {
        const PLACES: [&str; 7] = [
            "public", "0.0.0.0/0", "[::/0]", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "[2001:db8::/32]",
        ];
        const PORTS: [&str; 4] = ["", ":443", ":400-500", ":1-65535"];
        const PROTOCOLS: [&str; 3] = ["", "/tcp", "/udp"];
        let texts: Vec<String> = rules.iter().map(|(place, ports, protocol)| {
            format!("{}{}{}", PLACES[*place], PORTS[*ports], PROTOCOLS[*protocol])
        }).collect();
        let (allow, deny) = texts.split_at(texts.len() / 2);
        let compiled = Fixture::new()
            .server(&format!("[network]\nconnect = {allow:?}\ndeny = {deny:?}"))
            .compile();
        let addresses = [
            v4(10, 0, 0, 1), v4(10, 1, 0, 1), v4(10, 1, 2, 3), v4(8, 8, 8, 8), v4(127, 0, 0, 1),
            v4(192, 168, 0, 1), v6("::1"), v6("2001:db8::1"), v6("2600::1"), v6("fe80::1"),
            v6("64:ff9b::a01:203"), v4(0, 0, 0, 0),
        ];
        for (address, port, protocol) in targets {
            let (address, port) = (addresses[address], [0, 1, 443, 500, 501, 65535][port]);
            let protocol = 1 << protocol;
            let naive = |texts: &[String], purpose, class| {
                let hit = texts.iter().any(|text| {
                    let address::Target::Addresses(own) = address::parse(text, purpose).unwrap() else {
                        panic!("{text} is no host");
                    };
                    naive_covers(text, monitor_common::network::canonical(address))
                        && own.ports.0 <= port && port <= own.ports.1
                        && own.protocols & protocol != 0
                });
                if hit { class } else { 0 }
            };
            let expected = naive(allow, address::Purpose::Connect, class::CONNECT)
                | naive(deny, address::Purpose::Refuse, class::DENY);
            prop_assert_eq!(
                compiled.classify_address(address, port, protocol), expected,
                "{:?} {:?} {:?} {} {}", allow, deny, address, port, protocol
            );
        }
    }
}

/// Membership by the standard library and not by our own prefixes.
fn naive_covers(text: &str, address: [u8; 16]) -> bool {
    let v6 = std::net::Ipv6Addr::from(address);
    let ip = v6.to_ipv4_mapped().map_or(std::net::IpAddr::V6(v6), std::net::IpAddr::V4);
    let host = text.trim_end_matches("/tcp").trim_end_matches("/udp");
    if host.starts_with("public") {
        return match ip {
            std::net::IpAddr::V4(v4) => {
                !v4.is_private() && !v4.is_loopback() && !v4.is_unspecified()
            }
            std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
        };
    }
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap().to_owned(),
        None => host.split(':').next().unwrap().to_owned(),
    };
    match host.parse::<ipnet::IpNet>() {
        Ok(net) => net.contains(&ip),
        Err(_) => host.parse::<std::net::IpAddr>().unwrap() == ip,
    }
}
