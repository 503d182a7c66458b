//! A disk that is full before anything starts. What becomes of one that fills up later: `recording`.

use std::{
    ffi::CString,
    fs,
    io::{Error, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::running::run_alone;
use crate::Lab;

crate::tests! {
    both: [disk_that_is_full_keeps_the_server_from_starting],
}

fn disk_that_is_full_keeps_the_server_from_starting(lab: &Lab) -> Result<()> {
    let disk = Disk::mount(lab, "full", "size=256k")?;
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
