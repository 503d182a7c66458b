//! Processes of an instance that still run: what procfs says about them. Their environment is
//! left out: it holds tokens.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    event::Bytes,
    report::{
        Report,
        model::{Instance, ProcessText},
    },
};

/// Open files that are told of one process.
const FILES_MAX: usize = 500;
/// A clock tick of procfs, and how far its start may be from the recorded one.
const TICK_NS: u64 = 10_000_000;

/// A process that still runs.
#[derive(Serialize)]
pub(super) struct Alive {
    tgid: u32,
    start_ns: u64,
    exe: Option<Bytes>,
    cwd: Option<Bytes>,
    cmdline: Option<Bytes>,
    cgroup: Option<Bytes>,
    status: Option<Bytes>,
    maps: Option<Bytes>,
    files: Vec<Bytes>,
}

/// Whether an instance ran on this machine, since it was started last.
pub(super) fn is_this_boot(report: &Report, instance: &Instance) -> bool {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let origin = report.origins.get(instance.origin);
    origin.is_some_and(|origin| !origin.boot_id.is_empty() && origin.boot_id == boot.trim_end())
}

/// Those processes of an instance that still run.
pub(super) fn processes(instance: &Instance) -> Vec<Alive> {
    instance.processes.items.iter().filter_map(alive).collect()
}

fn alive(process: &ProcessText) -> Option<Alive> {
    let directory = PathBuf::from(format!("/proc/{}", process.tgid));
    // The number may have been given to another process since.
    let started = start_ticks(&directory)?.checked_mul(TICK_NS)?;
    if started.abs_diff(process.start_ns) > 2 * TICK_NS {
        return None;
    }
    let link = |name: &str| {
        let target = fs::read_link(directory.join(name)).ok()?;
        Some(Bytes::from(target.as_os_str().as_bytes()))
    };
    let text = |name: &str| Some(Bytes::from(fs::read(directory.join(name)).ok()?.as_slice()));
    Some(Alive {
        tgid: process.tgid,
        start_ns: process.start_ns,
        exe: link("exe"),
        cwd: link("cwd"),
        cmdline: text("cmdline"),
        cgroup: text("cgroup"),
        status: text("status"),
        maps: text("maps"),
        files: open_files(&directory.join("fd")),
    })
}

/// Field 22 of `stat`, behind the name in parentheses.
fn start_ticks(directory: &Path) -> Option<u64> {
    let stat = fs::read(directory.join("stat")).ok()?;
    let behind = memchr::memrchr(b')', &stat)?;
    let fields = std::str::from_utf8(&stat[behind + 1..]).ok()?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

fn open_files(directory: &Path) -> Vec<Bytes> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let targets = entries.take(FILES_MAX).filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let name = entry.file_name();
        let line: &[&OsStr] = &[&name, OsStr::new(" "), target.as_os_str()];
        Some(Bytes::from(
            line.iter().map(|part| part.as_bytes()).collect::<Vec<_>>().concat().as_slice(),
        ))
    });
    targets.collect()
}
