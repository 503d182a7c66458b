//! Hosts are known by the answers that the server gets: rows 36, 37, 52 and 54 of
//! `docs/evasions.md`.

use std::{fs, os::unix::net::UnixListener};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Lab, Mode,
    cases::{Batch, Cases},
    network::{self, Network, RESOLVER, RESOLVER6},
};

crate::tests! {
    both: [
        a_named_host_is_reached_and_no_other,
        answers_come_from_whom_was_asked,
        what_does_not_fit_in_a_datagram_is_asked_by_stream,
        a_name_that_leads_inside_is_refused,
        in_observe_every_question_is_answered_and_recorded,
        the_c_library_finds_hosts,
        what_other_servers_ask_goes_its_own_way,
        without_a_resolver_nothing_is_found,
        without_the_agent_nothing_is_asked,
        other_services_that_look_names_up_are_refused,
        data_in_questions_is_found,
    ],
}

const PUBLIC: &str = "203.0.113.7";
const OTHER: &str = "203.0.113.8";
const PUBLIC6: &str = "2001:db8::7";
const PRIVATE: &str = "10.9.8.7";
const PORT: u16 = 8443;

const RECORDS: &[&str] = &[
    "host-record=api.named.example,203.0.113.7,2001:db8::7,5",
    "host-record=a.wild.example,203.0.113.8",
    "host-record=a.b.wild.example,203.0.113.8",
    "host-record=target.example,203.0.113.8",
    "cname=alias.named.example,target.example",
    "host-record=unnamed.example,203.0.113.7",
    "host-record=loopback.named.example,127.0.0.1",
    "host-record=metadata.named.example,169.254.169.254",
    "host-record=inside.named.example,10.9.8.7",
    "host-record=listed-inside.named.example,10.9.8.8",
];

const RESPONSE: &str = r#"
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "deny", listen = "deny", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

fn rules(lab: &Lab, connect: &[&str]) -> Result<()> {
    lab.policy(&format!("[network]\nconnect = {connect:?}\n{RESPONSE}")).map(drop)
}

const NAMED: &[&str] = &["*.named.example:8443", "*.wild.example:8443"];

fn network(lab: &Lab) -> Result<Network> {
    let addresses = [PUBLIC, OTHER, PUBLIC6, PRIVATE, "10.9.8.8"];
    let resolv_conf = format!("nameserver {RESOLVER}\n");
    let mut network = Network::new(lab, &addresses, "127.0.0.1 localhost\n", &resolv_conf)?;
    network.resolve(lab, RECORDS)?;
    Ok(network)
}

/// That a question was answered so, with the answer's code and addresses.
fn answered(batch: &Batch, name: &str, rcode: u8, addresses: &str) -> Result<()> {
    let line = batch.line(name);
    let right = line.starts_with(&format!("ok rcode={rcode} "))
        && line.ends_with(&format!(" addresses={addresses}"));
    ensure!(right, "{name}: {line}, not {rcode} and {addresses}\n{batch}");
    Ok(())
}

/// That a host was asked for, with this code, and with a violation of this category or none.
fn told(batch: &Batch, name: &str, rcode: &str, category: &str) -> Result<()> {
    let found = batch.events.of("resolve").any(|event| {
        event.text("name") == name
            && event.text("rcode") == rcode
            && event.text("category") == category
            && event.is_violation() != category.is_empty()
    });
    ensure!(found, "no resolve event of {name} with {rcode} {category}\n{}", batch.events);
    Ok(())
}

fn a_named_host_is_reached_and_no_other(lab: &Lab) -> Result<()> {
    let network = network(lab)?;
    let _hosts =
        [PUBLIC, OTHER, PUBLIC6].map(|address| [PORT, 8444].map(|port| network.host(address, port)));
    rules(lab, NAMED)?;
    let mut cases = Cases::new();
    let ask = |how: &str, name: &str, record: &str, port: u16| {
        format!("dns-connect {how} {RESOLVER} {name} {record} {port}")
    };
    cases.add("before", format!("tcp {PUBLIC} {PORT}"));
    cases.add("named", ask("connect", "api.named.example", "A", PORT));
    cases.add("after", format!("tcp {PUBLIC} {PORT}"));
    cases.add("mapped", format!("tcp ::ffff:{PUBLIC} {PORT}"));
    cases.add("other-port", format!("tcp {PUBLIC} 8444"));
    cases.add("probe", format!("udp-connect {PUBLIC} 0"));
    cases.add("other-host", format!("tcp {OTHER} {PORT}"));
    cases.add("six-before", format!("tcp {PUBLIC6} {PORT}"));
    cases.add("six", ask("sendto", "API.Named.Example", "AAAA", PORT));
    cases.add("alias", ask("tcp", "alias.named.example", "A", PORT));
    cases.add("target", format!("dns connect {RESOLVER} target.example A"));
    cases.add("unnamed", format!("dns connect {RESOLVER} unnamed.example A"));
    cases.add("wild", ask("connect", "a.wild.example", "A", PORT));
    cases.add("too-deep", format!("dns connect {RESOLVER} a.b.wild.example A"));
    // In a network of its own a process can answer itself, but the agent does not hear of it.
    cases.add("elsewhere", format!("unshare-net , dns sendto {RESOLVER} a.wild.example A"));
    cases.add("search", format!("dns connect {RESOLVER} api.named.example.corp.example A"));
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for name in ["named", "after", "mapped", "six", "alias", "wild"] {
        batch.worked(name)?;
    }
    for name in ["before", "other-port", "other-host", "six-before"] {
        batch.refused(name)?;
    }
    ensure!(!batch.line("probe").starts_with("denied"), "{batch}");
    ensure!(batch.line("elsewhere").starts_with("failed"), "{batch}");
    for (case, name) in
        [("target", "target.example"), ("unnamed", "unnamed.example"), ("too-deep", "a.b.wild.example")]
    {
        answered(&batch, case, 5, "")?;
        told(&batch, name, "REFUSED", "resolve")?;
        ensure!(!network.was_asked_for(name)?, "the resolver was asked for {name}");
    }
    answered(&batch, "search", 3, "")?;
    told(&batch, "api.named.example.corp.example", "NXDOMAIN", "")?;
    ensure!(network.was_asked_for("api.named.example")?, "the resolver was not asked");
    told(&batch, "api.named.example", "NOERROR", "")?;
    told(&batch, "alias.named.example", "NOERROR", "")?;
    contacts_carry_names(&batch)?;
    // Four connects and three questions.
    ensure!(batch.events.violations().count() == 7, "{batch}");
    Ok(())
}

fn contacts_carry_names(batch: &Batch) -> Result<()> {
    let contacts = batch.events.of("connect");
    let (with, without): (Vec<_>, Vec<_>) = contacts
        .filter(|event| event.number("port") == Some(PORT.into()))
        .partition(|event| event.field("name").is_some());
    ensure!(with.iter().all(|event| !event.is_violation()), "{}", batch.events);
    ensure!(without.iter().all(|event| event.is_violation()), "{}", batch.events);
    let names = ["api.named.example", "alias.named.example", "a.wild.example"];
    for name in names {
        ensure!(with.iter().any(|event| event.text("name") == name), "{name}: {}", batch.events);
    }
    Ok(())
}

fn answers_come_from_whom_was_asked(lab: &Lab) -> Result<()> {
    let _network = network(lab)?;
    rules(lab, NAMED)?;
    // Nobody answers there but the agent.
    let servers = ["192.0.2.53", "2001:db8::53", "::ffff:192.0.2.53", RESOLVER, RESOLVER6];
    let ways = ["connect", "sendto", "tcp"];
    let mut cases = Cases::new();
    for (at, server) in servers.iter().enumerate() {
        for how in ways {
            cases.add(&format!("{how}-{at}"), format!("dns {how} {server} api.named.example A"));
        }
    }
    cases.add("other-port", "udp-connect 192.0.2.53 54");
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for (at, server) in servers.iter().enumerate() {
        for how in ways {
            let line = batch.line(&format!("{how}-{at}"));
            let expected = format!("ok rcode=0 tc=0 from={server} addresses={PUBLIC}");
            ensure!(line == expected, "{how} {server}: {line}\n{batch}");
        }
    }
    batch.refused("other-port")?;
    ensure!(batch.events.violations().count() == 1, "{batch}");
    Ok(())
}

fn what_does_not_fit_in_a_datagram_is_asked_by_stream(lab: &Lab) -> Result<()> {
    let mut network = network(lab)?;
    network.stop_resolver();
    let many: Vec<String> = (1..=60)
        .map(|host| format!("host-record=many.named.example,198.51.100.{host}"))
        .collect();
    network.resolve(lab, &many.iter().map(String::as_str).collect::<Vec<_>>())?;
    rules(lab, NAMED)?;
    let mut cases = Cases::new();
    cases.add("datagram", format!("dns connect {RESOLVER} many.named.example A"));
    // What a truncated answer holds is not let in, and so is not given.
    cases.add("before", "udp-connect 198.51.100.60 8443");
    cases.add("stream", format!("dns tcp {RESOLVER} many.named.example A"));
    cases.add("after", "udp-connect 198.51.100.60 8443");
    let batch = cases.run_in(lab, Mode::Enforce)?;
    let line = batch.line("datagram");
    ensure!(line.contains(" tc=1 ") && line.ends_with("addresses="), "{line}\n{batch}");
    told(&batch, "many.named.example", "TRUNCATED", "")?;
    let line = batch.line("stream");
    ensure!(line.contains(" tc=0 ") && line.matches("198.51.100.").count() == 60, "{batch}");
    told(&batch, "many.named.example", "NOERROR", "")?;
    batch.refused("before")?;
    ensure!(!batch.line("after").starts_with("denied"), "{batch}");
    Ok(())
}

const INSIDE: [&str; 3] = ["loopback", "metadata", "inside"];

fn a_name_that_leads_inside_is_refused(lab: &Lab) -> Result<()> {
    let network = network(lab)?;
    let _hosts = [PRIVATE, "10.9.8.8"].map(|address| network.host(address, PORT));
    rules(lab, &["*.named.example:8443", "10.9.8.8:8443"])?;
    let mut cases = Cases::new();
    for name in INSIDE {
        cases.add(name, format!("dns connect {RESOLVER} {name}.named.example A"));
    }
    cases.add("after", format!("tcp {PRIVATE} {PORT}"));
    let listed = format!("dns-connect connect {RESOLVER} listed-inside.named.example A {PORT}");
    cases.add("listed", listed);
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for name in INSIDE {
        answered(&batch, name, 5, "")?;
        told(&batch, &format!("{name}.named.example"), "REFUSED", "rebinding")?;
    }
    batch.refused("after")?;
    batch.worked("listed")?;
    told(&batch, "listed-inside.named.example", "NOERROR", "")?;
    let alerts = batch.events.of("alert").filter(|alert| alert.text("category") == "rebinding");
    ensure!(alerts.count() == INSIDE.len(), "{}", batch.events);
    Ok(())
}

fn in_observe_every_question_is_answered_and_recorded(lab: &Lab) -> Result<()> {
    let network = network(lab)?;
    let _host = network.host(PUBLIC, PORT)?;
    rules(lab, NAMED)?;
    let mut cases = Cases::new();
    cases.add("inside", format!("dns connect {RESOLVER} inside.named.example A"));
    cases.add("unnamed", format!("dns-connect connect {RESOLVER} unnamed.example A {PORT}"));
    cases.add("named", format!("dns-connect connect {RESOLVER} api.named.example A {PORT}"));
    let batch = cases.run_in(lab, Mode::Observe)?;
    answered(&batch, "inside", 0, PRIVATE)?;
    told(&batch, "inside.named.example", "NOERROR", "rebinding")?;
    batch.worked("unnamed")?;
    told(&batch, "unnamed.example", "NOERROR", "resolve")?;
    batch.worked("named")?;
    told(&batch, "api.named.example", "NOERROR", "")?;
    // Under the unnamed host's name, and then under the other, which allows it.
    let connects = batch.events.of("connect").filter(|event| event.text("address") == PUBLIC);
    let verdicts: Vec<bool> = connects.map(|event| event.is_violation()).collect();
    ensure!(verdicts == [true, false], "{}", batch.events);
    Ok(())
}

fn the_c_library_finds_hosts(lab: &Lab) -> Result<()> {
    let hosts = "127.0.0.1 localhost\n203.0.113.8 listed.named.example\n10.9.8.7 in.named.example\n";
    // The first resolver is not there.
    let resolv_conf = format!(
        "nameserver 127.0.0.10\nnameserver {RESOLVER}\nsearch named.example corp.example\noptions ndots:5\n"
    );
    let addresses = [PUBLIC, OTHER, PUBLIC6];
    let mut network = Network::new(lab, &addresses, hosts, &resolv_conf)?;
    network.resolve(lab, RECORDS)?;
    let _hosts = [PUBLIC, OTHER].map(|address| network.host(address, PORT));
    rules(lab, NAMED)?;
    let look_up = |name: &str| {
        lab.run(Mode::Enforce).command(["getent", "ahostsv4", name])
    };
    for (asked, address) in [
        ("api.named.example", PUBLIC),
        // By the search list.
        ("api", PUBLIC),
        ("alias.named.example", OTHER),
    ] {
        let outcome = look_up(asked)?;
        ensure!(outcome.stdout.contains(address), "{asked}\n{outcome}");
        let about = outcome.events.violations().filter(|event| event.names(asked));
        ensure!(about.count() == 0, "{asked}\n{outcome}");
    }
    let outcome = look_up("unnamed.example")?;
    ensure!(!outcome.stdout.contains(PUBLIC), "{outcome}");
    outcome.events.violation("resolve", "resolve", "unnamed.example")?;
    let mut cases = Cases::new();
    cases.add("hosts", format!("tcp {OTHER} {PORT}"));
    let batch = cases.run_in(lab, Mode::Enforce)?;
    batch.worked("hosts")?;
    told(&batch, "listed.named.example", "NOERROR", "")?;
    told(&batch, "in.named.example", "NOERROR", "rebinding")?;
    ensure!(batch.events.violations().count() == 1, "{batch}");
    Ok(())
}

fn what_other_servers_ask_goes_its_own_way(lab: &Lab) -> Result<()> {
    let _network = network(lab)?;
    rules(lab, &["127.0.0.9:53", "203.0.113.0/24:8443"])?;
    let mut cases = Cases::new();
    cases.add("listed", format!("dns connect {RESOLVER} unnamed.example A"));
    cases.add("unlisted", format!("dns connect {RESOLVER6} unnamed.example A"));
    let batch = cases.run_in(lab, Mode::Enforce)?;
    answered(&batch, "listed", 0, PUBLIC)?;
    batch.refused("unlisted")?;
    ensure!(batch.events.of("resolve").count() == 0, "{}", batch.events);
    Ok(())
}

fn without_a_resolver_nothing_is_found(lab: &Lab) -> Result<()> {
    let mut network = network(lab)?;
    network.stop_resolver();
    rules(lab, NAMED)?;
    let mut cases = Cases::new();
    for how in ["connect", "tcp"] {
        cases.add(how, format!("dns {how} {RESOLVER} api.named.example A"));
    }
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for how in ["connect", "tcp"] {
        answered(&batch, how, 2, "")?;
    }
    told(&batch, "api.named.example", "TIMEOUT", "")?;
    batch.events.assert_quiet()
}

fn without_the_agent_nothing_is_asked(lab: &Lab) -> Result<()> {
    let network = network(lab)?;
    // The agent answers datagrams and streams at one port, and for streams there is none left.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003")?;
    let listeners: Vec<_> =
        (40_000..=40_003).map(|port| network.host("127.0.0.1", port)).collect::<Result<_>>()?;
    let mut cases = Cases::new();
    for server in [RESOLVER, RESOLVER6] {
        for how in ["connect", "sendto"] {
            let steps = format!("dns {how} {server} a.wild.example A");
            cases.add(&format!("{how}-{server}"), steps);
        }
    }
    let free = cases.alone(lab)?;
    rules(lab, NAMED)?;
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for (name, line) in &free {
        ensure!(line.ends_with(OTHER), "{name} without the monitor: {line}");
        let refused = batch.line(name).starts_with("denied errno=1 ");
        ensure!(refused, "{name}: {}\n{batch}", batch.line(name));
    }
    let says_so = batch.events.of("agent").any(|event| event.text("action") == "names");
    ensure!(says_so, "{}", batch.events);
    drop(listeners);
    let twin = cases.run_in(lab, Mode::Enforce)?;
    for (name, line) in &free {
        ensure!(twin.line(name) == line, "{name}: {}\n{twin}", twin.line(name));
    }
    Ok(())
}

fn other_services_that_look_names_up_are_refused(lab: &Lab) -> Result<()> {
    let _network = network(lab)?;
    network::mount_empty("/run")?;
    fs::create_dir("/run/nscd")?;
    let _service = UnixListener::bind("/run/nscd/socket")?;
    let mut cases = Cases::new();
    cases.add("service", "unix-stream /run/nscd/socket");
    rules(lab, NAMED)?;
    let batch = cases.run(lab)?;
    batch.refused("service")?;
    batch.denied("unix", "unix", "/run/nscd/socket")?;
    rules(lab, &["203.0.113.0/24:8443"])?;
    let twin = cases.run(lab)?;
    twin.worked("service")?;
    twin.events.assert_quiet()
}

fn data_in_questions_is_found(lab: &Lab) -> Result<()> {
    let mut network = network(lab)?;
    network.stop_resolver();
    network.resolve(lab, &["address=/wild.example/203.0.113.8"])?;
    rules(lab, &["**.wild.example:8443"])?;
    let asked = |name: fn(u32) -> String| {
        let mut cases = Cases::new();
        for number in 0..12 {
            let name = name(number);
            cases.add(&number.to_string(), format!("dns connect {RESOLVER} {name}.wild.example A"));
        }
        cases.run_in(lab, Mode::Enforce)
    };
    let honest = asked(|number| format!("host{number}"))?;
    honest.events.assert_quiet()?;
    let carried = asked(|number| format!("{number:0>60}.{number:0>60}"))?;
    for number in 0..12 {
        answered(&carried, &number.to_string(), 0, OTHER)?;
    }
    let mut found = carried.events.of("alert");
    let alert = found.next().with_context(|| format!("no alert\n{carried}"))?;
    ensure!(found.next().is_none(), "more than one alert\n{carried}");
    ensure!(alert.text("category") == "dns_burst" && alert.text("event") == "resolve", "{alert}");
    ensure!(alert.number("finding.limit") == Some(1000), "{alert}");
    ensure!(alert.text("why").contains("names beneath wild.example"), "{alert}");
    Ok(())
}
