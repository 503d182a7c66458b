//! Disks that are full: real ones, of a few pages, in a mount namespace of the test's own.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;

/// A file system that holds 256 KB. Nobody else sees it, and it is gone with the test's thread.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|error| error.to_string())
            .and_then(|()| mount(&["--make-rprivate", "/"]))
            .and_then(|()| {
                let path = directory.path().to_str().unwrap();
                mount(&["-t", "tmpfs", "-o", "size=256k", "tmpfs", path])
            });
        match mounted {
            Ok(()) => Some(Self(directory)),
            Err(reason) => {
                eprintln!("skipped: cannot mount a tmpfs (needs root): {reason}");
                None
            }
        }
    }
}

fn mount(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_loses_lines_and_says_so_and_the_chain_holds() {
    let Some(disk) = SmallDisk::mount() else { return };
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 150_000]).unwrap();
    let path = disk.0.path().join("events.jsonl");
    let mut writer = open(Destination::File(path.clone()), &RecordingOptions::default()).unwrap();
    (0..500).for_each(|seq| writer.write(&event(seq)));
    writer.flush();
    let told = writer.notices();
    let [Notice::Agent { action: "recording", message }] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(message.contains("No space left on device"), "{message}");
    let lost = writer.totals().lost;
    assert!(lost > 0 && lost < 500, "{lost} of 500");
    assert!(writer.totals().reason.is_some_and(|reason| reason.contains("No space")));
    let full = check(&path);
    assert!(full.bad.is_none(), "while the disk is full the file still ends with a whole line");
    fs::remove_file(&ballast).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    (500..510).for_each(|seq| writer.write(&event(seq)));
    let totals = writer.finish();
    let told = writer.notices();
    let [Notice::Lost(loss)] = told.as_slice() else { panic!("{told:?}") };
    assert!(matches!(&loss.body, Body::Loss(loss) if loss.count == lost));
    let report = check(&path);
    assert!(report.bad.is_none());
    assert_eq!(report.seqs, Some((0, 509)));
    assert_eq!(report.lost, totals.lost);
    let lines = report.lines - 1 - report.losses.len() as u64;
    assert_eq!(lines + totals.lost, 510, "written and lost are all there were");
}

#[test]
fn a_disk_that_stays_full_ends_in_a_counted_loss() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("events.jsonl");
    let totals = write(Destination::File(path.clone()), 5000);
    assert!(totals.lost > 0);
    let report = check(&path);
    assert!(report.bad.is_none());
    let said = report.lost;
    let lines = report.lines - 1 - report.losses.len() as u64;
    assert!(lines + said <= 5000 && lines + totals.lost == 5000, "{report:?} {totals:?}");
}

#[test]
fn a_segment_that_cannot_be_begun_lets_the_old_one_grow() {
    let Some(disk) = SmallDisk::mount() else { return };
    let limits = Limits { segment_bytes: 30_000, ..Limits::default() };
    let mut writer = open(stream(disk.0.path()), &limited(limits)).unwrap();
    (0..2000).for_each(|seq| writer.write(&event(seq)));
    let totals = writer.finish();
    assert!(totals.lost > 0);
    assert!(check_all(disk.0.path()).bad.is_none());
}

#[test]
fn a_segment_that_cannot_be_compressed_stays_plain() {
    let Some(disk) = SmallDisk::mount() else { return };
    let limits = Limits { segment_bytes: 180_000, ..Limits::default() };
    let mut writer = open(stream(disk.0.path()), &limited(limits)).unwrap();
    let mut seq = 0;
    while fs::metadata(writer.path()).unwrap().len() < 178_000 {
        writer.write(&event(seq));
        writer.flush();
        seq += 1;
    }
    // Room for the rest of this segment and the header of the next, not for a copy.
    let room = nix::sys::statvfs::statvfs(disk.0.path()).unwrap();
    let room = (room.blocks_free() - 3) * room.fragment_size();
    fs::write(disk.0.path().join("ballast"), vec![1; room as usize]).unwrap();
    (seq..seq + 6).for_each(|seq| writer.write(&event(seq)));
    let totals = writer.finish();
    assert_eq!(totals.lost, 0);
    let told = writer.notices();
    assert!(
        told.iter().any(|notice| matches!(notice, Notice::Agent { message, .. }
            if message.starts_with("cannot compress ") && message.contains("No space"))),
        "{told:?}"
    );
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    let names: Vec<_> = files(disk.0.path());
    assert!(names.iter().all(|path| path.to_string_lossy().ends_with(".jsonl")), "{names:?}");
    let report = check_all(disk.0.path());
    assert!(report.bad.is_none());
    assert_eq!((report.segments, report.seqs), (2, Some((0, seq + 5))));
}

#[test]
fn an_end_that_cannot_be_signed_is_an_open_end() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("events.jsonl");
    let mut writer = signed(Destination::File(path.clone()), &RecordingOptions::default());
    (0..5000).for_each(|seq| writer.write(&event(seq)));
    let totals = writer.finish();
    assert!(totals.lost > 0 && totals.checkpoint.is_none());
    let report = check(&path);
    assert!(report.bad.is_none() && !report.ended);
    drop(writer);
    fs::remove_file(&path).unwrap();
    let mut writer = signed(Destination::File(path.clone()), &RecordingOptions::default());
    (0..50).for_each(|seq| writer.write(&event(seq)));
    assert!(writer.finish().checkpoint.is_some());
    assert!(check(&path).ended);
}
