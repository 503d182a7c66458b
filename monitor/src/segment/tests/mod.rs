//! Recordings read and checked, whole, damaged and hostile. They are made by the real writer.

mod hostile;
mod mutation;

use std::{path::Path, time::Duration};

use ed25519_dalek::SigningKey;

use super::*;
use crate::{
    event::{Body, Event, Loss, tests::sample},
    sink::recording::{Destination, Limits, RecordingOptions, SegmentWriter},
};

const KEY: [u8; 32] = [7; 32];

fn event(seq: u64) -> Event {
    Event { seq, ..sample(format!("/home/user/file-{seq}").as_bytes()) }
}

/// Believes the writer's key and no other.
fn trust() -> Trust {
    let key = SigningKey::from_bytes(&KEY).verifying_key().to_bytes();
    Trust { keys: vec![key], only: true, anchor: None }
}

/// A recording with several segments, most of them compressed, checkpoints every few lines, and a
/// loss; it was ended in good order.
fn incident(directory: &Path) -> Recording {
    let options = RecordingOptions {
        limits: Limits { segment_bytes: 9000, ..Limits::default() },
        checkpoint_every: Duration::ZERO,
        ..RecordingOptions::default()
    };
    let destination =
        Destination::Directory { directory: directory.to_owned(), stream: "run".to_owned() };
    let key = Some(SigningKey::from_bytes(&KEY));
    let header = Header::of_host("lsm", &[]).unwrap();
    let mut writer = SegmentWriter::open(destination, header, options, key).unwrap();
    for seq in (0..50).filter(|seq| !(31..35).contains(seq)) {
        let mut event = event(seq);
        if seq == 30 {
            let (ring, reason) = ("file".to_owned(), "No space left on device".to_owned());
            event.body = Body::Loss(Loss { ring, reason, count: 5, range: Some((30, 34)) });
            (event.observed, event.violation) = (None, None);
        }
        writer.write(&event);
        if seq % 5 == 4 {
            writer.flush();
        }
    }
    writer.finish();
    recordings(&[directory.to_owned()]).unwrap().remove(0)
}
