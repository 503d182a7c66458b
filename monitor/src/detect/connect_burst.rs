//! `connect_burst`: many hosts contacted, or many ports of one, as a scan does. Hosts on the
//! internet are counted apart from private ones: a browser contacts a hundred of the former for
//! one page, and hardly any of the latter. What was refused counts too: a scan asks, it need not
//! get.

use std::collections::VecDeque;

use monitor_common::{network::canonical, policy::detector};

use super::{
    Found, Limits, Run, Seen, between,
    distinct::{Distinct, key},
    parameter,
};
use crate::{
    enrich::contact_text,
    event::{Body, Bytes, Contact},
    rules::is_public,
};

/// Hosts whose ports are counted, of very many the latest.
const HOSTS_MAX: usize = 64;

/// See the module.
pub struct ConnectBurst {
    public: Distinct,
    private: Distinct,
    ports: VecDeque<(u64, Distinct)>,
}

impl ConnectBurst {
    /// Nothing has been contacted yet.
    pub fn new(limits: &Limits) -> Self {
        let distinct = |parameter: usize| counter(parameter, limits);
        Self {
            public: distinct(parameter::CONNECT_BURST_HOSTS),
            private: distinct(parameter::CONNECT_BURST_PRIVATE),
            ports: VecDeque::new(),
        }
    }

    /// Takes an event.
    pub fn observe(&mut self, seen: &Seen<'_>, limits: &Limits) -> Option<Found> {
        let (Body::Connect(contact) | Body::Send(contact)) = &seen.event.body else { return None };
        contact.socket_address()?;
        // Resolvers connect to port 0, where nothing is sent, to learn by which route they would.
        if contact.peer.port == 0 {
            return None;
        }
        let address = canonical(contact.peer.address);
        let (host, sample) = (key(&address), || Bytes::from(contact_text(contact).as_str()));
        let (by_kind, kind, parameter) = match is_public(address) {
            true => (&mut self.public, "public hosts", parameter::CONNECT_BURST_HOSTS),
            false => (&mut self.private, "private hosts", parameter::CONNECT_BURST_PRIVATE),
        };
        let hosts = by_kind.add(seen.at, host, sample);
        let ports = self.ports_of(host, limits).add(seen.at, u64::from(contact.peer.port), sample);
        match (hosts, ports) {
            (Some(run), _) => Some(found(run, kind, contact, limits, parameter)),
            (None, Some(run)) => {
                let what = "ports of one host";
                Some(found(run, what, contact, limits, parameter::CONNECT_BURST_PORTS))
            }
            (None, None) => None,
        }
    }

    fn ports_of(&mut self, host: u64, limits: &Limits) -> &mut Distinct {
        let at = self.ports.iter().position(|(known, _)| *known == host).unwrap_or_else(|| {
            if self.ports.len() == HOSTS_MAX {
                self.ports.pop_front();
            }
            self.ports.push_back((host, counter(parameter::CONNECT_BURST_PORTS, limits)));
            self.ports.len() - 1
        });
        &mut self.ports[at].1
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let ports = self.ports.iter().map(|(_, ports)| ports.bytes() + size_of::<Distinct>());
        self.public.bytes() + self.private.bytes() + ports.sum::<usize>()
    }
}

fn counter(parameter: usize, limits: &Limits) -> Distinct {
    Distinct::new(limits.values[parameter], limits.window_ns(parameter::CONNECT_BURST_WINDOW))
}

fn found(run: Run, what: &str, contact: &Contact, limits: &Limits, parameter: usize) -> Found {
    Found {
        detector: detector::CONNECT_BURST,
        table: "connect_burst",
        limit: limits.values[parameter],
        window_ns: limits.window_ns(parameter::CONNECT_BURST_WINDOW),
        deed: format!("has contacted {} {what} within {}", run.count, between(&run)),
        subject: contact_text(contact).as_str().into(),
        evidence: vec![run.first.seq, run.last.seq],
        answered: None,
        run,
    }
}
