//! Lines from anywhere. An event that was read is written so
//! that it reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_monitor::event::Event;

fuzz_target!(|data: &[u8]| {
    for line in data.split(|&byte| byte == b'\n') {
        if let Ok(event) = Event::parse(line) {
            let back = Event::parse(event.to_json().as_bytes()).expect("what was written is read");
            assert_eq!(back.to_json(), event.to_json());
        }
    }
});
