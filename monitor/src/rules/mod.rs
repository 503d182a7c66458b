//! Rules: what a server may do, from TOML to the tables that the kernel walks.
//!
//! ```text
//! SearchPath -> parse -> load (includes, variables, sets) -> Loaded -> compile -> Compiled
//! ```
//!
//! [`load()`] reads a server's rule file with its includes and the built-in sets, and puts values
//! for variables; [`compile()`] turns the result into automata, an address table and inode labels.
//! [`Compiled`] is the same policy that the kernel gets, so it answers in userspace what the
//! kernel would decide ([`Compiled::classify_path`]) and why ([`Compiled::blame`]).

mod address;
mod bindings;
mod blame;
mod compile;
mod error;
mod explain;
mod hostname;
mod labels;
pub mod learn;
mod lint;
mod load;
mod matcher;
mod names;
mod parse;
mod pattern;
mod resolve;
mod schema;
mod search;
mod source;
#[cfg(test)]
mod tests;
mod variables;

pub use bindings::{Bindings, BindingsError, ByOthers, Elsewhere, Start};
pub use blame::{RuleRef, Subject};
pub use compile::{Automaton, Compiled, Tables, compile, compile_among};
pub use error::{Finding, RuleError, Severity};
pub use explain::{Explanation, resolved_path};
pub use hostname::is_plain as is_host_name;
pub use lint::{Blind, lint, lint_servers};
pub use load::{
    DEFAULT, Loaded, Mode, ResolvedPattern, Resources, audit, granted, isolation, load,
    load_granted, load_recorded, parse_grant, without_effect,
};
pub use matcher::{Matcher, Traits};
pub use names::{Naming, Standing, is_public};
pub use parse::{Document, SCHEMA, parse_server};
pub use resolve::Root;
pub use schema::schema;
pub use search::{SearchPath, is_name as is_server_name};
pub use source::{Source, SourceKind};
