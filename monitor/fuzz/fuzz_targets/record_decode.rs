//! Bytes from a ring: as they are, and as a record whose lengths are put right so that the rest of
//! the way is reached. Whatever decodes must make a line that reads back as the same event.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_monitor::{
    decode::{self, FIXED, decode},
    enrich::{Clock, Enricher},
    event::Event,
};

fuzz_target!(|data: &[u8]| {
    let _ = decode::time_ns(data);
    follow(data);
    let Some((fixed, strings)) = data.split_at_checked(FIXED) else { return };
    let mut record = decode::blank(1);
    // SAFETY: both are FIXED bytes, and every bit pattern is a record.
    unsafe { (&raw mut record).cast::<u8>().copy_from_nonoverlapping(fixed.as_ptr(), FIXED) };
    let third = strings.len() / 3;
    let (path, rest) = strings.split_at(third);
    let (second, argv) = rest.split_at(third);
    record.kind = record.kind % 17 + 1;
    record.op %= 6;
    record.decision.verdict %= 5;
    record.decision.reason %= 8;
    record.decision.set %= 7;
    record.decision.access %= 1 << 6;
    follow(&decode::encode(record, [path, second, b"", argv]));
});

fn follow(bytes: &[u8]) {
    let Ok(decoded) = decode(bytes) else { return };
    let mut out = Vec::new();
    let mut enricher = Enricher::new(0, Clock::between(0, 0));
    enricher.record(&decoded, &mut out);
    enricher.finish(u64::MAX, &mut out);
    for event in out {
        let line = event.to_json();
        assert!(line.bytes().all(|byte| byte >= 0x20 && byte != 0x7f));
        let back = Event::parse(line.as_bytes()).expect("what was written is read");
        assert_eq!(back.to_json(), line);
    }
}
