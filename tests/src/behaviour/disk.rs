//! A disk that is full, or fills up: the server goes on, and what is missing is said.

use std::{
    ffi::CString,
    fs,
    io::{Error, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::running::run_alone;
use crate::{Events, Lab};

crate::tests! {
    both: [
        disk_that_fills_up_does_not_disturb_the_server,
        disk_that_is_full_keeps_the_server_from_starting,
    ],
}

/// Bytes of the file system: room for the first lines, and not for all.
const SMALL: &str = "size=256k";
const LARGE: &str = "size=64m";
const OPENS: &str = "3000";

fn disk_that_fills_up_does_not_disturb_the_server(lab: &Lab) -> Result<()> {
    let file = lab.file("notes", "plain")?;
    let actor = lab.actor()?;
    let flood = [actor.as_os_str(), "open-flood".as_ref(), file.as_ref(), OPENS.as_ref(), "1".as_ref()];
    for (name, options) in [("small", SMALL), ("large", LARGE)] {
        let disk = Disk::mount(lab, name, options)?;
        let recording = disk.0.join("events.jsonl");
        let events = recording.to_str().context("a plain path")?;
        let output = run_alone(lab, &["--events", events], &flood)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && stdout.starts_with("ok opened=3000"), "{output:?}");
        // Whole lines only, as far as there was room.
        let recorded = Events::read(&recording)?.of("open").count();
        let fits = name == "large";
        ensure!(recorded > 100 && (recorded >= 3000) == fits, "{recorded} recorded on {name}");
        ensure!(said.contains(events), "the recording is not named: {said}");
        ensure!(said.contains("events are not in it: No space left") != fits, "{name}: {said}");
    }
    Ok(())
}

fn disk_that_is_full_keeps_the_server_from_starting(lab: &Lab) -> Result<()> {
    let disk = Disk::mount(lab, "full", SMALL)?;
    let filler = disk.0.join("filler");
    let full = fs::File::create(&filler)?.write_all(&[0; 1 << 20]);
    ensure!(full.is_err(), "there is room for a megabyte");
    let recording = disk.0.join("events.jsonl");
    let events = recording.to_str().context("a plain path")?;
    let command = ["/bin/sh", "-c", "echo ran"];
    let output = run_alone(lab, &["--events", events], &command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(125) && output.stdout.is_empty(), "{output:?}");
    ensure!(said.contains(events) && said.contains("No space left"), "{said}");
    fs::remove_file(&filler)?;
    let twin = run_alone(lab, &["--events", events], &command)?;
    ensure!(twin.status.success() && twin.stdout == b"ran\n", "{twin:?}");
    Ok(())
}

/// A file system of its own in memory, unmounted in the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(lab: &Lab, name: &str, options: &str) -> Result<Self> {
        let place = lab.folder().join(name);
        fs::create_dir(&place)?;
        let (target, options) = (path(&place)?, CString::new(options)?);
        // SAFETY: four strings that outlive the call.
        let mounted = unsafe {
            let kind = c"tmpfs".as_ptr();
            libc::mount(kind, target.as_ptr(), kind, 0, options.as_ptr().cast())
        };
        ensure!(mounted == 0, "cannot mount {}: {}", place.display(), Error::last_os_error());
        Ok(Self(place))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Ok(target) = path(&self.0) {
            // SAFETY: a string that outlives the call.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

fn path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
