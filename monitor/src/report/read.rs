//! Recordings to a report: one pass that verifies, parses and collects.

use std::{path::Path, sync::Arc};

use super::{
    Aggregator, Report,
    model::{Moment, Signed, Verification, Verified},
};
use crate::{
    event::Bytes,
    segment::{self, Block, Kind, Line, ReadError, Reader, Recording, Verifier, checkpoint::hex},
};

/// Reads recordings and says what is in them. What cannot be read is a finding of the report; a
/// machine that cannot read is an error.
///
/// # Errors
/// When a file cannot be opened or read.
pub fn read(recordings: &[Recording]) -> Result<Report, ReadError> {
    let mut aggregator = Aggregator::default();
    let mut verification = Verification { intact: true, ..Verification::default() };
    for recording in recordings {
        let verified = one(recording, &mut aggregator)?;
        verification.intact &= verified.fault.is_none();
        verification.recordings.push(verified);
    }
    verification.limits = limits(&verification);
    Ok(aggregator.finish(verification))
}

fn one(recording: &Recording, aggregator: &mut Aggregator) -> Result<Verified, ReadError> {
    let mut reader = Reader::open(recording);
    let mut verifier = Verifier::default();
    let mut file = None;
    loop {
        match reader.next_block() {
            Ok(Some(block)) => {
                if verifier.report.bad.is_none() {
                    verifier.block(&block);
                }
                collect(&block, &mut file, aggregator);
            }
            Ok(None) => break,
            Err(error) if error.fault.is_io() => return Err(error),
            Err(error) => {
                aggregator.unreadable(&error);
                verifier.report.bad.get_or_insert(error);
                break;
            }
        }
    }
    Ok(verified(recording, verifier.report))
}

fn collect(block: &Block, file: &mut Option<Arc<Path>>, aggregator: &mut Aggregator) {
    for line in block.lines() {
        let taken = line.and_then(|line| {
            if file.as_ref() != Some(line.file) {
                aggregator.file(line.file.as_os_str().as_encoded_bytes());
                *file = Some(line.file.clone());
            }
            take(&line, aggregator)
        });
        if let Err(error) = taken {
            aggregator.unreadable(&error);
        }
    }
}

fn take(line: &Line<'_>, aggregator: &mut Aggregator) -> Result<(), ReadError> {
    match line.kind {
        Kind::Header => aggregator.header(&line.header()?.header),
        Kind::Event => aggregator.event(&line.event()?, line.line, line.bytes),
        Kind::Checkpoint => {}
    }
    Ok(())
}

fn verified(recording: &Recording, found: segment::Report) -> Verified {
    let signed = |checkpoint: segment::Checkpoint| Signed {
        time: Moment(checkpoint.time_ns),
        key: hex(&checkpoint.key),
        next_seq: checkpoint.next_seq,
    };
    Verified {
        name: Bytes::from(recording.name.as_os_str().as_encoded_bytes()),
        segments: found.segments,
        lines: found.lines,
        chain: found.last.map(|chain| chain.to_string()),
        follows: found.follows.map(|chain| chain.to_string()),
        checkpoint: found.checkpoint.map(signed),
        fault: found.bad.map(|error| error.to_string()),
    }
}

/// What a chain without faults does not prove.
fn limits(verification: &Verification) -> Vec<String> {
    let mut limits = Vec::new();
    let recordings = &verification.recordings;
    if recordings.iter().any(|recording| recording.fault.is_some()) {
        limits.push(
            "what stands behind a fault is told here all the same, and proves nothing".to_owned(),
        );
    }
    if recordings.iter().any(|recording| recording.follows.is_some()) {
        limits.push("earlier segments of a recording are not here".to_owned());
    }
    if recordings.iter().any(|recording| recording.checkpoint.is_none()) {
        limits.push(
            "a recording has no signed checkpoint: whoever can write the file could have made it \
             anew, or cut off its end"
                .to_owned(),
        );
    }
    if recordings.iter().any(|recording| recording.checkpoint.is_some()) {
        limits.push(
            "checkpoints were compared with the keys that they name, not with a key from \
             elsewhere: root on the host could have signed anew (mcp-monitor verify --key)"
                .to_owned(),
        );
    }
    limits
}
