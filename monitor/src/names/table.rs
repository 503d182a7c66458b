//! Addresses that the names of hosts let an instance connect to, and until when.

use std::collections::HashMap;

use monitor_common::network::{AddressRules, canonical};

use super::ADDRESSES_MAX;
use crate::{kernel::KernelError, rules::Compiled};

/// Replaces what the kernel's table says about one address.
pub type SetAddress<'a> =
    dyn FnMut([u8; 16], Option<&AddressRules>) -> Result<(), KernelError> + 'a;

/// Why an address cannot be let in.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Too many.
    #[error("the names of a server stand for more than {ADDRESSES_MAX} addresses")]
    Full,
    /// Too many rules meet there.
    #[error("{0}")]
    Ports(String),
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// See the module.
#[derive(Default)]
pub struct Table {
    /// Names with the time until which they hold, CLOCK_BOOTTIME, ns.
    by_address: HashMap<[u8; 16], Vec<(String, u64)>>,
    /// When the first of them ceases to hold, or earlier.
    due_ns: Option<u64>,
}

impl Table {
    /// Lets `addresses` in as those of `name`, all of them or none.
    pub fn allow(
        &mut self,
        name: &str,
        addresses: &[[u8; 16]],
        until_ns: u64,
        rules: &Compiled,
        set: &mut SetAddress<'_>,
    ) -> Result<(), TableError> {
        let is_new = |address: &&[u8; 16]| !self.by_address.contains_key(&canonical(**address));
        if self.by_address.len() + addresses.iter().filter(is_new).count() > ADDRESSES_MAX {
            return Err(TableError::Full);
        }
        for address in addresses {
            let address = canonical(*address);
            let known = self.by_address.entry(address).or_default();
            match known.iter_mut().find(|(own, _)| own == name) {
                Some((_, until)) => *until = until_ns.max(*until),
                None => known.push((name.to_owned(), until_ns)),
            }
            self.due_ns = Some(self.due_ns.map_or(until_ns, |due_ns| due_ns.min(until_ns)));
            self.put(address, rules, set)?;
        }
        Ok(())
    }

    /// Lets in what another table does, as far as these rules name it, too.
    pub fn take_over(
        &mut self,
        other: &Self,
        rules: &Compiled,
        set: &mut SetAddress<'_>,
    ) -> Result<(), TableError> {
        for (address, names) in &other.by_address {
            for (name, until_ns) in names {
                self.allow(name, &[*address], *until_ns, rules, set)?;
            }
        }
        Ok(())
    }

    /// Takes out what has ceased to hold.
    pub fn expire(
        &mut self,
        now_ns: u64,
        rules: &Compiled,
        set: &mut SetAddress<'_>,
    ) -> Result<(), TableError> {
        if self.due_ns.is_none_or(|due_ns| now_ns < due_ns) {
            return Ok(());
        }
        let mut changed = Vec::new();
        for (address, names) in &mut self.by_address {
            let before = names.len();
            names.retain(|(_, until_ns)| *until_ns > now_ns);
            if names.len() < before {
                changed.push(*address);
            }
        }
        let all = self.by_address.values().flatten();
        self.due_ns = all.map(|(_, until_ns)| *until_ns).min();
        let put = changed.into_iter().map(|address| self.put(address, rules, set));
        let put: Result<Vec<()>, TableError> = put.collect();
        self.by_address.retain(|_, names| !names.is_empty());
        put.map(drop)
    }

    fn put(
        &self,
        address: [u8; 16],
        rules: &Compiled,
        set: &mut SetAddress<'_>,
    ) -> Result<(), TableError> {
        let known = self.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
        let rules = rules.address_rules(address, &names).map_err(TableError::Ports)?;
        Ok(set(address, rules.as_ref())?)
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::{
        network::{classify, mapped_v4, protocol},
        policy::class,
    };

    use super::*;
    use crate::names::tests::rules;

    /// The kernel's table.
    type Kernel = HashMap<[u8; 16], AddressRules>;

    fn setter(
        kernel: &mut Kernel,
    ) -> impl FnMut([u8; 16], Option<&AddressRules>) -> Result<(), KernelError> {
        |address, rules| {
            match rules {
                Some(rules) => kernel.insert(address, *rules),
                None => kernel.remove(&address),
            };
            Ok(())
        }
    }

    const ONE: u32 = 0x0102_0304;

    fn is_allowed(kernel: &Kernel, port: u16) -> bool {
        kernel
            .get(&mapped_v4(ONE))
            .is_some_and(|rules| classify(rules, port, protocol::TCP) & class::CONNECT != 0)
    }

    #[test]
    fn an_address_is_allowed_at_the_ports_of_its_names_until_the_last_ceases_to_hold() {
        let rules = rules("connect = [\"a.example:443\", \"b.example:8000-8001/tcp\"]");
        let (mut table, mut kernel) = (Table::default(), Kernel::new());
        let one = [mapped_v4(ONE)];
        table.allow("a.example", &one, 100, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(is_allowed(&kernel, 443) && !is_allowed(&kernel, 8000));
        table.allow("b.example", &one, 200, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(is_allowed(&kernel, 443) && is_allowed(&kernel, 8000));
        table.expire(99, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(is_allowed(&kernel, 443));
        table.expire(100, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(!is_allowed(&kernel, 443) && is_allowed(&kernel, 8000));
        table.expire(200, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(kernel.is_empty());
    }

    #[test]
    fn an_answer_that_comes_again_holds_longer_and_never_shorter() {
        let rules = rules("connect = [\"a.example:443\"]");
        let (mut table, mut kernel) = (Table::default(), Kernel::new());
        let one = [mapped_v4(ONE)];
        for until_ns in [100, 300, 200] {
            table.allow("a.example", &one, until_ns, &rules, &mut setter(&mut kernel)).unwrap();
        }
        table.expire(299, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(is_allowed(&kernel, 443));
        table.expire(300, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(!is_allowed(&kernel, 443));
    }

    #[test]
    fn what_rules_say_about_the_address_itself_stands_before_and_after() {
        let rules = rules(
            "connect = [\"a.example:443\", \"1.2.3.4:22\", \"1.2.3.0/24:80\"]\ndeny = [\"1.2.3.4:81\"]",
        );
        let (mut table, mut kernel) = (Table::default(), Kernel::new());
        let one = [mapped_v4(ONE)];
        table.allow("a.example", &one, 100, &rules, &mut setter(&mut kernel)).unwrap();
        assert!([443, 22, 80].iter().all(|port| is_allowed(&kernel, *port)));
        let denied = classify(&kernel[&one[0]], 81, protocol::TCP);
        assert_eq!(denied & class::DENY, class::DENY);
        table.expire(100, &rules, &mut setter(&mut kernel)).unwrap();
        assert!(!is_allowed(&kernel, 443) && is_allowed(&kernel, 22) && is_allowed(&kernel, 80));
    }

    #[test]
    fn other_rules_go_on_with_the_addresses_of_hosts_that_they_name() {
        let before = rules("connect = [\"a.example:443\", \"b.example:80\"]");
        let (mut old, mut kernel) = (Table::default(), Kernel::new());
        let one = [mapped_v4(ONE)];
        for name in ["a.example", "b.example"] {
            old.allow(name, &one, 100, &before, &mut setter(&mut kernel)).unwrap();
        }
        let after = rules("connect = [\"a.example:443\", \"c.example:22\"]");
        let (mut new, mut kernel) = (Table::default(), Kernel::new());
        new.take_over(&old, &after, &mut setter(&mut kernel)).unwrap();
        assert!(is_allowed(&kernel, 443) && !is_allowed(&kernel, 80) && !is_allowed(&kernel, 22));
        new.expire(100, &after, &mut setter(&mut kernel)).unwrap();
        assert!(kernel.is_empty());
    }

    #[test]
    fn no_more_addresses_than_the_bound_are_let_in() {
        let rules = rules("connect = [\"*.example:443\"]");
        let (mut table, mut kernel) = (Table::default(), Kernel::new());
        let many: Vec<_> = (0..ADDRESSES_MAX as u32).map(|at| mapped_v4(ONE + at)).collect();
        table.allow("a.example", &many, 100, &rules, &mut setter(&mut kernel)).unwrap();
        let more = [mapped_v4(ONE - 1)];
        let refused = table.allow("b.example", &more, 100, &rules, &mut setter(&mut kernel));
        assert!(matches!(refused, Err(TableError::Full)));
        table.allow("b.example", &many[..1], 100, &rules, &mut setter(&mut kernel)).unwrap();
        table.expire(100, &rules, &mut setter(&mut kernel)).unwrap();
        table.allow("b.example", &more, 200, &rules, &mut setter(&mut kernel)).unwrap();
        assert_eq!(kernel.len(), 1);
    }
}
