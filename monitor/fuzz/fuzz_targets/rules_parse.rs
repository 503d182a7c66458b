//! A rule file from anywhere: rules, or findings that say what is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_monitor::rules;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(findings) = rules::parse_server(text, "fuzzed.toml") {
        assert!(!findings.is_empty());
    }
});
