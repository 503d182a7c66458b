//! Every way to an address comes under the rules, on both backends before a byte leaves: rows 2,
//! 31, 32, 34 and 35 of the threat list in the documentation.

use std::{
    net::{TcpListener, UdpSocket},

};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Lab, Mode,
    guard::results,
};

crate::tests! {
    both: [
        addresses_are_judged_by_whatever_call,
        other_spellings_of_an_address_are_the_same_address,
        reconnected_sockets_are_judged_again,
        listening_is_judged,
    ],
    lsm: [raw_sockets_are_judged_by_their_destination],
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
    fn cases(&self, ways: &[(&str, &str)]) -> Result<String> {
        let mut text = String::new();
        for (name, steps) in ways {
            for (side, index) in [("allowed", ALLOWED), ("forbidden", FORBIDDEN)] {
                let steps = steps
                    .replace("{tcp}", &self.tcp[index].local_addr()?.port().to_string())
                    .replace("{udp}", &self.udp[index].local_addr()?.port().to_string())
                    .replace("{first}", &self.tcp[ALLOWED].local_addr()?.port().to_string())
                    .replace("{first-udp}", &self.udp[ALLOWED].local_addr()?.port().to_string());
                text.push_str(&format!("{name}.{side} {steps}\n"));
            }
        }
        Ok(text)
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

    /// Runs the ways without and with the monitor. `answers` is what a way that is let through
    /// ends in where it is not `ok`.
    fn check(&self, lab: &Lab, ways: &[(&str, &str)], answers: &[&str]) -> Result<()> {
        lab.policy(&self.policy()?)?;
        let cases = lab.file("cases", self.cases(ways)?)?;
        let free = results(&lab.actor_alone(["batch".as_ref(), cases.as_os_str()])?);
        self.arrived();
        let outcome =
            lab.run(Mode::Enforce).actor(["batch".as_ref(), cases.as_os_str()])?;
        let said = results(&outcome.stdout);
        let mut wrong = Vec::new();
        for (name, _) in ways {
            let [yes, no] = ["allowed", "forbidden"].map(|side| format!("{name}.{side}"));
            let plain = free.get(&yes).map_or("no result", String::as_str);
            let passes = plain.starts_with("ok") || answers.iter().any(|end| plain.ends_with(end));
            if !passes {
                println!("left out: {name} does not work here: {plain}");
                continue;
            }
            if said.get(&yes).map(String::as_str) != Some(plain) {
                wrong.push(format!("{yes}: {:?}, without the monitor {plain}", said.get(&yes)));
            }
            if !said.get(&no).is_some_and(|line| line.starts_with("denied errno=1 ")) {
                wrong.push(format!("{no}: {:?}", said.get(&no)));
            }
        }
        let ports = [self.tcp[FORBIDDEN].local_addr()?, self.udp[FORBIDDEN].local_addr()?];
        for event in outcome.events.violations() {
            let known = ports.iter().any(|it| event.number("port") == Some(it.port().into()));
            let right = event.text("category") == "connect" && event.text("verdict") == "deny";
            if !known || !right {
                wrong.push(format!("not expected: {event}"));
            }
        }
        let [_, forbidden] = self.arrived();
        ensure!(forbidden == 0, "{forbidden} arrived at forbidden ports");
        ensure!(wrong.is_empty(), "{wrong:#?}\n{}", outcome.stderr);
        let found = outcome.events.violations().count();
        ensure!(found > 0, "no violation was recorded: {}", outcome.stderr);
        Ok(())
    }
}

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
];

fn addresses_are_judged_by_whatever_call(lab: &Lab) -> Result<()> {
    Ports::open()?.check(lab, CALLS, &[])
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
    // NAT64 has no route here: what is let through finds no way, what is refused is EPERM.
    Ports::open()?.check(lab, SPELLINGS, &["call=connect", "call=sendto"])
}

const RECONNECTS: &[(&str, &str)] = &[
    ("unspec-reconnect", "tcp-reconnect 127.0.0.1 {first} 127.0.0.1 {tcp}"),
    ("udp-reconnect", "udp-reconnect 127.0.0.1 {first-udp} 127.0.0.1 {udp}"),
];

fn reconnected_sockets_are_judged_again(lab: &Lab) -> Result<()> {
    Ports::open()?.check(lab, RECONNECTS, &[])
}

fn listening_is_judged(lab: &Lab) -> Result<()> {
    let ports = Ports::open()?;
    lab.policy(&ports.policy()?.replace("[response]", "listen = [\"127.0.0.1:1024-65535\"]\n[response]"))?;
    let twin = lab.run(Mode::Enforce).actor(["listen", "127.0.0.1", "0"])?;
    // Port 0 is the kernel's choice, and what it chooses is in the range.
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    let outcome = lab.run(Mode::Enforce).actor(["listen", "127.0.0.1", "1023"])?;
    let mut violations = outcome.events.violations();
    ensure!(violations.any(|event| event.text("category") == "listen"), "{outcome}");
    let unbound = lab.run(Mode::Enforce).actor(["listen-unbound"])?;
    let mut violations = unbound.events.violations();
    ensure!(violations.any(|event| event.text("category") == "listen"), "{unbound}");
    Ok(())
}

fn raw_sockets_are_judged_by_their_destination(lab: &Lab) -> Result<()> {
    let ports = Ports::open()?;
    lab.policy(&ports.policy()?)?;
    let outcome = lab.run(Mode::Enforce).actor(["raw-icmp", "127.0.0.1"])?;
    ensure!(outcome.stdout.starts_with("denied errno=1"), "{outcome}");
    ensure!(outcome.events.violations().count() > 0, "{outcome}");
    lab.policy(&ports.policy()?.replace("connect = [", "connect = [\"127.0.0.1\", "))?;
    let twin = lab.run(Mode::Enforce).actor(["raw-icmp", "127.0.0.1"])?;
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    Ok(())
}
