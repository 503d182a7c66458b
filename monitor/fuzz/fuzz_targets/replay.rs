//! A recording from anywhere, replayed: as it is, and with a chain at the end of every line, which
//! replay takes as stated, so that all the rest is reached.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use mcp_monitor::{
    replay::{Options, Replay, Source},
    segment::Reader,
};

fuzz_target!(|data: &[u8]| {
    replay(data.to_vec());
    let mut chained = Vec::new();
    for line in data.split(|&byte| byte == b'\n') {
        let Some(object) = line.strip_suffix(b"}") else { continue };
        chained.extend_from_slice(object);
        chained.extend_from_slice(b",\"chain\":\"");
        chained.extend_from_slice(&[b'0'; 64]);
        chained.extend_from_slice(b"\"}\n");
    }
    replay(chained);
});

fn replay(recording: Vec<u8>) {
    let Ok(reader) = Reader::of("fuzzed", Cursor::new(recording)) else { return };
    let source = Source::plain(reader);
    let mut replay = Replay::new(Options::default());
    let mut alerts = 0;
    let done = replay.source(source, &mut |_| alerts += 1, &mut |_| {});
    if let Err(error) = done {
        assert!(error.to_string().contains("fuzzed"), "no place: {error}");
    }
    assert_eq!(replay.counts.alerts, alerts);
}
