//! Every way to an address comes under the rules, on both backends before a byte leaves: rows 2,
//! 31, 32, 34 and 35 of `docs/evasions.md`.

use std::net::{TcpListener, UdpSocket};

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Lab, Mode, cases::Cases};

crate::tests! {
    both: [
        addresses_are_judged_by_whatever_call,
        other_spellings_of_an_address_are_the_same_address,
        networks_are_known_by_their_prefixes,
        listening_is_judged,
        raw_sockets_are_judged,
    ],
}

/// One port each for TCP and UDP that may be reached, and one that may not.
struct Ports {
    tcp: [TcpListener; 2],
    udp: [UdpSocket; 2],
    tcp6: [TcpListener; 2],
}

const ALLOWED: usize = 0;
const FORBIDDEN: usize = 1;

impl Ports {
    fn open() -> Result<Self> {
        let udp = || UdpSocket::bind("127.0.0.1:0");
        let tcp = || TcpListener::bind("127.0.0.1:0");
        let (tcp, udp) = ([tcp()?, tcp()?], [udp()?, udp()?]);
        let again = |index: usize| -> Result<TcpListener> {
            let port = tcp[index].local_addr()?.port();
            TcpListener::bind(("::1", port)).context("::1 has no such port to spare")
        };
        let tcp6 = [again(ALLOWED)?, again(FORBIDDEN)?];
        for side in [ALLOWED, FORBIDDEN] {
            tcp[side].set_nonblocking(true)?;
            tcp6[side].set_nonblocking(true)?;
            udp[side].set_nonblocking(true)?;
        }
        Ok(Self { tcp, udp, tcp6 })
    }

    fn policy(&self) -> Result<String> {
        let tcp = self.tcp[ALLOWED].local_addr()?.port();
        let udp = self.udp[ALLOWED].local_addr()?.port();
        Ok(format!(
            r#"
[network]
connect = ["127.0.0.1:{tcp}/tcp", "[::1]:{tcp}/tcp", "127.0.0.1:{udp}/udp", "[::1]:{udp}/udp"]
[response]
unlisted = {{ read = "allow", write = "allow", exec = "allow", connect = "deny", listen = "deny", unix = "allow" }}
sets = {{ secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }}
"#
        ))
    }

    /// The ways, once to the allowed and once to the forbidden ports.
    fn cases(&self, ways: &[(&str, &str)]) -> Result<Cases> {
        let mut cases = Cases::new();
        for (name, steps) in ways {
            for (side, index) in [("allowed", ALLOWED), ("forbidden", FORBIDDEN)] {
                let steps = steps
                    .replace("{tcp}", &self.tcp[index].local_addr()?.port().to_string())
                    .replace("{udp}", &self.udp[index].local_addr()?.port().to_string())
                    .replace("{first}", &self.tcp[ALLOWED].local_addr()?.port().to_string())
                    .replace("{first-udp}", &self.udp[ALLOWED].local_addr()?.port().to_string());
                cases.add(&format!("{name}.{side}"), steps);
            }
        }
        Ok(cases)
    }

    /// Connections and datagrams that have arrived since the last call: allowed, forbidden.
    fn arrived(&self) -> [usize; 2] {
        [ALLOWED, FORBIDDEN].map(|side| {
            let mut count = 0;
            while self.tcp[side].accept().is_ok() || self.tcp6[side].accept().is_ok() {
                count += 1;
            }
            while self.udp[side].recv(&mut [0; 64]).is_ok() {
                count += 1;
            }
            count
        })
    }

    /// Runs the ways without and with the monitor. Both backends refuse network calls.
    fn check(&self, lab: &Lab, ways: &[(&str, &str)]) -> Result<()> {
        lab.policy(&self.policy()?)?;
        let cases = self.cases(ways)?;
        let free = cases.alone(lab)?;
        self.arrived();
        let batch = cases.run_in(lab, Mode::Enforce)?;
        let mut wrong = Vec::new();
        for (name, _) in ways {
            let (yes, no) = (format!("{name}.allowed"), format!("{name}.forbidden"));
            let plain = free.get(&yes).map_or("no result", String::as_str);
            if !plain.starts_with("ok") && !NO_ROUTE.iter().any(|end| plain.ends_with(end)) {
                println!("left out: {name} does not work here: {plain}");
                continue;
            }
            if batch.line(&yes) != plain {
                wrong.push(format!("{yes}: {}, without the monitor {plain}", batch.line(&yes)));
            }
            if !batch.line(&no).starts_with("denied errno=1 ") {
                wrong.push(format!("{no}: {}", batch.line(&no)));
            }
        }
        let ports = [self.tcp[FORBIDDEN].local_addr()?, self.udp[FORBIDDEN].local_addr()?];
        for event in batch.events.violations() {
            let known = ports.iter().any(|it| event.number("port") == Some(it.port().into()));
            if !known || event.text("category") != "connect" || !batch.is_denied(event) {
                wrong.push(format!("not expected: {event}"));
            }
        }
        let [_, forbidden] = self.arrived();
        ensure!(forbidden == 0, "{forbidden} arrived at forbidden ports");
        ensure!(wrong.is_empty(), "{wrong:#?}\n{batch}");
        ensure!(batch.events.violations().count() >= ways.len() / 2, "too few violations\n{batch}");
        Ok(())
    }
}

/// NAT64 has no route on test machines: what is let through ends so, and not in EPERM.
const NO_ROUTE: [&str; 2] = ["call=connect", "call=sendto"];

const CALLS: &[(&str, &str)] = &[
    ("tcp", "tcp 127.0.0.1 {tcp}"),
    ("tcp6", "tcp ::1 {tcp}"),
    ("fast-open", "tcp-fastopen 127.0.0.1 {tcp}"),
    ("mptcp", "mptcp 127.0.0.1 {tcp}"),
    ("udp-connect", "udp-connect 127.0.0.1 {udp}"),
    ("udp-sendto", "udp-sendto 127.0.0.1 {udp}"),
    ("udp-sendmsg", "udp-sendmsg 127.0.0.1 {udp}"),
    ("udp-sendmmsg", "udp-sendmmsg 127.0.0.1 {udp}"),
    ("uring-connect", "uring-connect inline 127.0.0.1 {tcp}"),
    ("uring-connect-async", "uring-connect async 127.0.0.1 {tcp}"),
    ("uring-connect-sqpoll", "uring-connect sqpoll 127.0.0.1 {tcp}"),
    ("uring-send", "uring-send inline 127.0.0.1 {udp}"),
    ("uring-send-async", "uring-send async 127.0.0.1 {udp}"),
    ("uring-send-sqpoll", "uring-send sqpoll 127.0.0.1 {udp}"),
    ("forked", "double-fork tcp 127.0.0.1 {tcp}"),
    ("tcp-reconnect", "tcp-reconnect 127.0.0.1 {first} 127.0.0.1 {tcp}"),
    ("udp-reconnect", "udp-reconnect 127.0.0.1 {first-udp} 127.0.0.1 {udp}"),
];

fn addresses_are_judged_by_whatever_call(lab: &Lab) -> Result<()> {
    Ports::open()?.check(lab, CALLS)
}

const SPELLINGS: &[(&str, &str)] = &[
    ("mapped", "tcp ::ffff:127.0.0.1 {tcp}"),
    ("unspecified", "tcp 0.0.0.0 {tcp}"),
    ("unspecified6", "tcp :: {tcp}"),
    ("mapped-unspecified", "tcp ::ffff:0.0.0.0 {tcp}"),
    ("mapped-udp", "udp-sendto ::ffff:127.0.0.1 {udp}"),
    ("unspecified-udp", "udp-sendto 0.0.0.0 {udp}"),
    ("nat64", "tcp 64:ff9b::7f00:1 {tcp}"),
    ("nat64-udp", "udp-sendto 64:ff9b::7f00:1 {udp}"),
];

fn other_spellings_of_an_address_are_the_same_address(lab: &Lab) -> Result<()> {
    Ports::open()?.check(lab, SPELLINGS)
}

/// In a network namespace without interfaces: what is let through finds no route, and nothing
/// leaves the machine.
const PREFIXES: &[(&str, &str, bool)] = &[
    ("inside", "tcp 10.1.2.3 443", true),
    ("denied-host", "tcp 10.1.2.4 443", false),
    ("denied-network", "tcp 10.2.200.1 443", false),
    ("beside-it", "tcp 10.3.0.1 443", true),
    ("first-port", "tcp 10.1.2.3 8000", true),
    ("last-port", "tcp 10.1.2.3 8999", true),
    ("beyond-ports", "tcp 10.1.2.3 9000", false),
    ("public", "tcp 9.9.9.9 853", true),
    ("public6", "tcp 2620:fe::9 853", true),
    ("public-port", "tcp 9.9.9.9 443", false),
    ("private", "tcp 192.168.1.1 853", false),
    ("private6", "tcp fd00::1 853", false),
    ("link-local", "tcp 169.254.1.1 853", false),
    ("metadata", "tcp 169.254.169.254 853", false),
    ("loopback", "tcp 127.0.0.1 853", false),
    ("network6", "tcp 2001:db8:5::1 443", true),
    ("other6", "tcp 2001:db9::1 443", false),
    ("other-protocol", "udp-sendto 2001:db8:5::1 443", false),
];

fn networks_are_known_by_their_prefixes(lab: &Lab) -> Result<()> {
    let lists = "connect = [\"10.0.0.0/8:443\", \"10.0.0.0/8:8000-8999/tcp\", \"public:853\", \
                 \"[2001:db8::/32]:443/tcp\"]\ndeny = [\"10.1.2.4\", \"10.2.0.0/16\"]\n[response]";
    let policy = Ports::open()?.policy()?;
    let (_, response) = policy.split_once("[response]").context("has a response")?;
    lab.policy(&format!("[network]\n{lists}{response}"))?;
    let mut cases = Cases::new();
    for (name, steps, _) in PREFIXES {
        cases.add(name, format!("unshare-net , {steps}"));
    }
    let free = cases.alone(lab)?;
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for (name, _, lets) in PREFIXES {
        let (plain, line) = (free.get(*name).map_or("no result", String::as_str), batch.line(name));
        ensure!(!plain.contains("errno=1 "), "{name} without the monitor: {plain}");
        let right = if *lets { line == plain } else { line.starts_with("denied errno=1 ") };
        ensure!(right, "{name}: {line}, without the monitor {plain}\n{batch}");
    }
    let refused = PREFIXES.iter().filter(|(.., lets)| !lets).count();
    ensure!(batch.events.violations().count() == refused, "{batch}");
    Ok(())
}

fn listening_is_judged(lab: &Lab) -> Result<()> {
    let listen = "listen = [\"127.0.0.1:1024-65535\"]\n[response]";
    lab.policy(&Ports::open()?.policy()?.replace("[response]", listen))?;
    let mut cases = Cases::new();
    // Port 0 is the kernel's choice, and what it chooses is in the range.
    cases.add("allowed", "listen 127.0.0.1 0");
    cases.add("port", "listen 127.0.0.1 1023");
    cases.add("everywhere", "listen 0.0.0.0 0");
    cases.add("everywhere6", "listen :: 0");
    cases.add("unbound", "listen-unbound");
    // Receiving datagrams is not listening.
    cases.add("datagrams", "udp-bind 0.0.0.0 0");
    let batch = cases.run(lab)?;
    batch.worked("allowed")?;
    batch.worked("datagrams")?;
    batch.events.event("bind", "0.0.0.0")?;
    for name in ["port", "everywhere", "everywhere6", "unbound"] {
        batch.refused(name)?;
    }
    let listens = batch.events.violations().filter(|event| {
        let right = event.kind() == "listen" && event.text("category") == "listen";
        right && batch.is_denied(event)
    });
    ensure!(listens.count() == 4 && batch.events.violations().count() == 4, "{batch}");
    Ok(())
}

fn raw_sockets_are_judged(lab: &Lab) -> Result<()> {
    let policy = Ports::open()?.policy()?;
    let mut cases = Cases::new();
    cases.add("icmp", "raw-icmp 127.0.0.1");
    if lab.backend() == Backend::Lsm {
        // The cgroup programs of the tracepoint backend see internet sockets only.
        cases.add("packet", "socket 17 3 768");
        cases.add("vsock", "socket 40 1 0");
    }
    let free = cases.alone(lab)?;
    lab.policy(&policy)?;
    let batch = cases.run_in(lab, Mode::Enforce)?;
    for (name, line) in free.iter().filter(|(_, line)| line.starts_with("ok")) {
        let refused = batch.line(name).starts_with("denied errno=1 ");
        ensure!(refused, "{name}: {}, without the monitor {line}\n{batch}", batch.line(name));
    }
    ensure!(batch.events.violations().count() > 0, "{batch}");
    lab.policy(&policy.replace("connect = \"deny\"", "connect = \"allow\""))?;
    let twin = cases.run_in(lab, Mode::Enforce)?;
    for (name, line) in &free {
        ensure!(twin.line(name) == line, "{name}: {}, without the monitor {line}", twin.line(name));
    }
    twin.events.assert_quiet()
}
