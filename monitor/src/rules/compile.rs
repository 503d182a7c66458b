//! From rules to the tables that the kernel walks.

use std::path::PathBuf;

use monitor_common::{
    automaton::{self, ByteClasses, Row},
    network::{self, AddressRules},
    policy::{Label, Policy, TABLES, TableRef, mode},
    record::kind,
};

use super::{Loaded, Mode, RuleError};

/// One table of [`monitor_common::automaton`].
#[derive(Clone)]
pub struct Automaton {
    /// States; empty when no pattern is in this table.
    pub rows: Vec<Row>,
    /// Byte classes.
    pub classes: ByteClasses,
    /// BLAKE3 over both: tables of equal content can be shared.
    pub digest: [u8; 32],
}

/// One policy as the kernel gets it.
#[derive(Clone)]
pub struct Compiled {
    /// The policy; `tables`, `network` and `id` are 0 and filled in when it is installed.
    pub policy: Policy,
    /// Exactly [`TABLES`] tables, in the order of [`Policy::tables`]; absent ones have no rows.
    pub tables: Vec<Automaton>,
    /// Prefix length of the address (0 to 128), address, port rules.
    pub addresses: Vec<(u8, [u8; 16], AddressRules)>,
    /// Members of the sets that exist now.
    pub labels: Vec<(PathBuf, Label)>,
}

/// Compiles rules.
///
/// # Errors
/// Findings that name the patterns when a table grows beyond its bounds.
pub fn compile(loaded: &Loaded) -> Result<Compiled, RuleError> {
    let mode = match loaded.mode {
        Mode::Observe => mode::OBSERVE,
        Mode::Enforce => mode::ENFORCE,
    };
    let absent =
        Automaton { rows: Vec::new(), classes: ByteClasses { class: [0; 256] }, digest: [0; 32] };
    Ok(Compiled {
        policy: Policy {
            tables: [TableRef::default(); TABLES],
            network: 0,
            id: 0,
            record: (1 << kind::END) - 1,
            mode,
            reserved: 0,
            unlisted: [0; 6],
            set_verdict: [0; 8],
            set_access: [0; 8],
        },
        tables: vec![absent; TABLES],
        addresses: Vec::new(),
        labels: Vec::new(),
    })
}

impl Compiled {
    /// Bits of [`monitor_common::policy::class`] that a resolved path falls in.
    pub fn classify_path(&self, path: &[u8]) -> u32 {
        let present = self.tables.iter().filter(|table| !table.rows.is_empty());
        present.fold(0, |classes, table| {
            classes | automaton::classify(table.rows.as_slice(), 0, &table.classes, path)
        })
    }

    /// Bits of [`monitor_common::policy::class`] that a destination falls in.
    pub fn classify_address(&self, address: [u8; 16], port: u16, protocol: u8) -> u32 {
        let address = network::canonical(address);
        let covering = self.addresses.iter().filter(|(bits, prefix, _)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
            (u128::from_be_bytes(address) ^ u128::from_be_bytes(*prefix)) & mask == 0
        });
        covering
            .max_by_key(|(bits, ..)| *bits)
            .map_or(0, |(_, _, rules)| network::classify(rules, port, protocol))
    }
}
