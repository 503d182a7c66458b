//! Recordings to a report: one pass that verifies, parses and collects.

use std::{path::Path, sync::Arc};

use super::{
    Aggregator, Report,
    model::{Moment, Signed, Verification, Verified},
};
use crate::{
    event::Bytes,
    segment::{
        self, Block, Kind, Line, ReadError, Reader, Recording, Trust, Verifier, checkpoint::hex,
    },
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
    let signed = |signed: &segment::Signed| Signed {
        time: Moment(signed.checkpoint.time_ns),
        key: hex(&signed.checkpoint.key),
        next_seq: signed.checkpoint.next_seq,
    };
    let mut unknown = found.unknown(&Trust::default());
    if found.bad.is_some() {
        let behind = "what stands behind the fault is told here all the same, and proves nothing";
        unknown.insert(0, behind.to_owned());
    }
    Verified {
        name: Bytes::from(recording.name.as_os_str().as_encoded_bytes()),
        segments: found.segments,
        lines: found.lines,
        chain: found.last.map(|(_, chain)| chain.to_string()),
        checkpoint: found.signed.as_ref().map(signed),
        fault: found.bad.map(|error| error.to_string()),
        unknown,
    }
}
