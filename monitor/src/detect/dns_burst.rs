//! `dns_burst`: data carried away in questions for names. Whoever owns a domain sees every name
//! beneath it that is asked for, so what counts is how much different names beneath one domain
//! could tell. Only questions that were asked of a resolver count: what was refused told nobody.

use monitor_common::policy::detector;

use super::{
    Found, Limits, Moment, Run, Seen, between,
    distinct::{Distinct, key},
    parameter,
};
use crate::{
    event::{Body, Bytes, Resolve, printable},
    names::TIMEOUT,
};

/// Domains whose names are counted; of very many those are given up of which least was asked.
const DOMAINS_MAX: usize = 16;
/// What a name counts for at least: a short one tells something, too.
const WEIGHT_MIN: u32 = 16;
/// Labels beneath a country's own, under which names are sold like under it.
const SECOND_LEVEL: [&str; 12] =
    ["ac", "co", "com", "edu", "go", "gob", "gov", "mil", "ne", "net", "or", "org"];

/// See the module.
pub struct DnsBurst {
    domains: Vec<(u64, Distinct)>,
}

impl DnsBurst {
    /// Nothing has been asked yet.
    pub fn new() -> Self {
        Self { domains: Vec::new() }
    }

    /// Takes an event.
    pub fn observe(&mut self, seen: &Seen<'_>, limits: &Limits) -> Option<Found> {
        let Body::Resolve(resolve) = &seen.event.body else { return None };
        let was_asked = resolve.bytes != 0 || resolve.rcode == TIMEOUT;
        let (beneath, domain) = split(&resolve.name)?;
        if !was_asked {
            return None;
        }
        let weight = u32::try_from(beneath.len()).unwrap_or(u32::MAX).max(WEIGHT_MIN);
        let sample = || Bytes::from(resolve.name.as_str());
        let of_domain = self.of_domain(key(&domain), seen.at, limits);
        let run = of_domain.weigh(seen.at, key(&beneath), weight, sample)?;
        Some(found(run, domain, resolve, limits))
    }

    fn of_domain(&mut self, domain: u64, at: Moment, limits: &Limits) -> &mut Distinct {
        let known = self.domains.iter().position(|(known, _)| *known == domain);
        let place = known.unwrap_or_else(|| {
            if self.domains.len() == DOMAINS_MAX {
                // Of those that weigh the same the latest.
                let weights = self.domains.iter_mut().map(|(_, names)| names.weight(at));
                let lightest = weights.enumerate().rev().min_by_key(|(_, weight)| *weight);
                self.domains.remove(lightest.map_or(0, |(place, _)| place));
            }
            let bytes = limits.values[parameter::DNS_BURST_BYTES];
            let names = Distinct::new(bytes, limits.window_ns(parameter::DNS_BURST_WINDOW));
            self.domains.push((domain, names));
            self.domains.len() - 1
        });
        &mut self.domains[place].1
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.domains.iter().map(|(_, names)| names.bytes() + size_of::<(u64, Distinct)>()).sum()
    }
}

/// What stands beneath the domain that somebody owns, and that domain. `None` where nothing does.
fn split(name: &str) -> Option<(&str, &str)> {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    let (top, second) = (dots.next()?, dots.next()?);
    let country = name.len() - top - 1 == 2;
    let at = match country && SECOND_LEVEL.contains(&&name[second + 1..top]) {
        true => dots.next()?,
        false => second,
    };
    Some((&name[..at], &name[at + 1..]))
}

fn found(run: Run, domain: &str, resolve: &Resolve, limits: &Limits) -> Found {
    Found {
        detector: detector::DNS_BURST,
        table: "dns_burst",
        limit: limits.values[parameter::DNS_BURST_BYTES],
        window_ns: limits.window_ns(parameter::DNS_BURST_WINDOW),
        deed: format!(
            "has asked for {} names beneath {} that hold {} bytes within {}",
            run.count,
            printable(domain),
            run.weight,
            between(&run)
        ),
        subject: resolve.name.as_str().into(),
        evidence: vec![run.first.seq, run.last.seq],
        answered: None,
        run,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_domain_is_what_somebody_owns() {
        assert_eq!(split("a.b.example.com"), Some(("a.b", "example.com")));
        assert_eq!(split("a.example.co.uk"), Some(("a", "example.co.uk")));
        assert_eq!(split("a.abc.io"), Some(("a", "abc.io")));
        assert_eq!(split("a.co.example"), Some(("a", "co.example")));
        for alone in ["example.com", "example.co.uk", "localhost", ""] {
            assert_eq!(split(alone), None, "{alone}");
        }
    }
}
