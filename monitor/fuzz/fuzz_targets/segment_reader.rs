//! A recording from anywhere: read and checked as it is, and once more with chains that fit, so
//! that more than its first line is looked at.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use mcp_monitor::segment::{Chain, ChainHash, Kind, Reader, Trust, check, kind_and_seq};

fuzz_target!(|data: &[u8]| {
    read(data);
    read(&chained(data));
});

fn read(data: &[u8]) {
    let reader = || Reader::of("fuzz", Cursor::new(data.to_vec()));
    let Ok(first) = reader() else { return };
    let report = check(first, &Trust::default());
    assert!(report.events <= report.lines);
    assert!(report.signed.is_none_or(|signed| signed.lines <= report.lines));
    let Ok(mut again) = reader() else { return };
    let mut lines = 0;
    while let Ok(Some(block)) = again.next_block() {
        for line in block.lines() {
            lines += 1;
            let Ok(line) = line else { continue };
            let _ = match line.kind {
                Kind::Header => line.header().map(drop),
                Kind::Checkpoint => line.checkpoint().map(drop),
                Kind::Event => line.event().map(drop),
            };
        }
    }
    assert!(report.lines <= lines, "more lines are good than there are");
}

fn chained(data: &[u8]) -> Vec<u8> {
    let (mut out, mut chain, mut before) = (Vec::new(), Chain::default(), ChainHash::default());
    for line in data.split(|&byte| byte == b'\n') {
        if kind_and_seq(line).is_some_and(|(kind, _)| kind == b"header") {
            before = ChainHash::default();
        }
        before = chain.line(before, &mut out, |out| {
            out.extend_from_slice(line.strip_suffix(b"}").unwrap_or(line));
            out.push(b'}');
        });
    }
    out
}
