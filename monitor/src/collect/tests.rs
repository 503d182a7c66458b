//! Bundles are read as what they were made of, hold no secrets, and lead nowhere.

use std::{fs, io::Read as _, path::Path};

use monitor_common::record::did;
use serde_json::Value;

use super::*;
use crate::{
    report::tests::{SECRET, Story},
    segment::{self, Trust, verify},
};

fn bundle_of(story: &Story, copies: u64) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let recording = story.file();
    let bundle = directory.path().join("evidence.tar.zst");
    collect(&[Recording::file(recording.path())], Some(1), &bundle, copies).unwrap();
    (directory, bundle)
}

fn entries(bundle: &Path) -> BTreeMap<String, Vec<u8>> {
    let decoder = zstd::Decoder::new(File::open(bundle).unwrap()).unwrap();
    let mut archive = tar::Archive::new(decoder);
    let read = |entry: io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
    };
    archive.entries().unwrap().map(read).collect()
}

#[test]
fn a_bundle_reads_as_the_recording_that_it_was_made_of() {
    let mut story = Story::new();
    story.open(b"/home/u/.ssh/id_rsa", did::READ, SECRET);
    story.open(b"/p/file", did::WRITE, 0);
    let (_directory, bundle) = bundle_of(&story, 0);
    let recordings = segment::recordings(std::slice::from_ref(&bundle)).unwrap();
    assert_eq!(recordings.len(), 1);
    let verified = verify(&recordings[0], &Trust::default());
    assert!(verified.bad.is_none() && verified.lines == 3, "{verified:?}");
    let plain = story.file();
    let value = |recordings: &[Recording]| {
        let report = report::read(recordings).unwrap();
        serde_json::to_value(&report.instances.items).unwrap()
    };
    assert_eq!(value(&recordings), value(&[Recording::file(plain.path())]));
    let manifest: Value = serde_json::from_slice(&entries(&bundle)["manifest.json"]).unwrap();
    for entry in manifest["entries"].as_array().unwrap() {
        let bytes = &entries(&bundle)[entry["name"].as_str().unwrap()];
        assert_eq!(entry["blake3"], blake3::hash(bytes).to_hex().as_str());
    }
}

#[test]
fn secrets_and_their_copies_are_digested_and_never_copied() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    for (name, text) in
        [("key", "secret"), ("stolen", "secret"), ("later", "other"), ("notes", "n")]
    {
        fs::write(at(name), text).unwrap();
    }
    std::os::unix::fs::symlink(at("key"), at("link")).unwrap();
    let mut story = Story::new();
    story.boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().into();
    for name in ["notes", "stolen", "link", "gone"] {
        story.open(at(name).as_bytes(), did::WRITE, 0);
    }
    story.open(at("key").as_bytes(), did::READ, SECRET);
    story.open(at("later").as_bytes(), did::WRITE, 0);
    let (_directory, bundle) = bundle_of(&story, 1 << 20);
    let entries = entries(&bundle);
    let files: Value = serde_json::from_slice(&entries["files.json"]).unwrap();
    let of = |name: &str| {
        let path = at(name);
        files.as_array().unwrap().iter().find(|file| file["path"] == path.as_str()).unwrap()
    };
    assert_eq!(of("notes")["copy"], "copies/0");
    assert_eq!(entries["copies/0"], b"n");
    assert!(!entries.contains_key("copies/1"));
    assert_eq!(of("key")["blake3"], of("stolen")["blake3"]);
    for name in ["key", "stolen", "later"] {
        assert!(of(name)["copy"].is_null() && of(name)["blake3"].is_string(), "{name}");
    }
    for name in ["link", "gone"] {
        assert!(of(name)["missing"].is_string(), "{name} is not followed");
    }
}

#[test]
fn a_bundle_that_was_cut_off_is_never_a_shorter_recording_in_order() {
    let mut story = Story::new();
    for number in 0..200 {
        story.open(format!("/p/{number}").as_bytes(), did::READ, 0);
    }
    let (directory, bundle) = bundle_of(&story, 0);
    let whole = fs::read(&bundle).unwrap();
    let cut = directory.path().join("cut.tar.zst");
    for length in (0..whole.len()).step_by(whole.len() / 40) {
        fs::write(&cut, &whole[..length]).unwrap();
        if let Ok(recordings) = segment::recordings(std::slice::from_ref(&cut)) {
            let bad = recordings.iter().any(|one| verify(one, &Trust::default()).bad.is_some());
            assert!(bad, "{length} of {} bytes", whole.len());
        }
    }
}

#[test]
fn names_in_a_bundle_lead_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("hostile.tar.zst");
    let outside = directory.path().join("outside.jsonl");
    fs::write(&outside, "not in the bundle\n").unwrap();
    let mut tar = tar::Builder::new(zstd::Encoder::new(File::create(&bundle).unwrap(), 1).unwrap());
    let name = b"recordings/../../outside.jsonl";
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_size(7);
    header.set_cksum();
    tar.append(&header, &b"inside\n"[..]).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let recordings = segment::recordings(std::slice::from_ref(&bundle)).unwrap();
    let mut reader = Reader::open(&recordings[0]);
    let block = reader.next_block().unwrap().unwrap();
    assert_eq!(block.len(), 7, "what stands in the bundle is read");
}
