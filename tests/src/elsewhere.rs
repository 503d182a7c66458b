//! Every recording of every test is replayed once more where nothing is as it was: as nobody, in a
//! root directory that holds the program and the recording and nothing else, without environment
//! and network. The alerts that come out must be the recorded ones, byte for byte.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
const NOBODY: u32 = 65534;

/// Replays every recording beneath a folder.
pub fn replay_all(folder: &Path, monitor: &Path) -> Result<()> {
    for recording in recordings(folder) {
        check(&recording, monitor).with_context(|| format!("replay of {}", recording.display()))?;
    }
    Ok(())
}

/// Files that a monitor has recorded into and left as whole lines. Tests make folders that cannot
/// be read, on purpose.
fn recordings(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(recordings(&path));
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "jsonl") {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.starts_with(br#"{"v":1,"type":"header""#) && bytes.ends_with(b"\n") {
                found.push(path);
            }
        }
    }
    found
}

fn check(recording: &Path, monitor: &Path) -> Result<()> {
    let bytes = fs::read(recording)?;
    let recorded = alerts(&bytes);
    let Output { status, stdout, stderr } = replay(&bytes, monitor)?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(matches!(status.code(), Some(0 | 1)), "ended with {status}: {said}");
    for wrong in ["another verdict", "taken as recorded", "only in the"] {
        // Of a monitor that was killed, what it had not yet told of comes out in the replay.
        let excused = wrong == "only in the" && said.contains("no end");
        ensure!(!said.contains(wrong) || excused, "{said}");
    }
    let mut replayed = stdout.strip_suffix(b"\n").unwrap_or(&stdout).split(|byte| *byte == b'\n');
    for recorded in &recorded {
        let replayed = replayed.next().unwrap_or_default();
        if recorded != replayed {
            let [recorded, replayed] = [recorded, replayed].map(String::from_utf8_lossy);
            bail!("another alert\nrecorded {recorded}\nreplayed {replayed}\n{said}");
        }
    }
    let more = replayed.find(|line| !line.is_empty());
    ensure!(more.is_none() || said.contains("no end"), "an alert that was not there: {more:?}");
    Ok(())
}

/// The alert lines without their chain.
fn alerts(recording: &[u8]) -> Vec<Vec<u8>> {
    let lines = recording.split(|byte| *byte == b'\n');
    let alerts = lines.filter(|line| line.starts_with(br#"{"v":1,"type":"alert","#));
    alerts
        .map(|line| {
            let chain = memchr::memmem::rfind(line, br#","chain":""#).unwrap_or(line.len());
            [&line[..chain], b"}"].concat()
        })
        .collect()
}

fn replay(recording: &[u8], monitor: &Path) -> Result<Output> {
    let world = tempfile::Builder::new().prefix("mcp-monitor-elsewhere-").tempdir()?;
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o755))?;
    fs::copy(monitor, world.path().join("mcp-monitor")).context("cannot copy mcp-monitor")?;
    fs::write(world.path().join("recording.jsonl"), recording)?;
    let mut command = Command::new("/mcp-monitor");
    command.args(["replay", "--json", "/recording.jsonl"]).env_clear();
    let root = CString::new(world.path().as_os_str().as_encoded_bytes())?;
    let leave = move || {
        let done = |result: i32| match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: plain system calls on a string that lives as long as the closure; nothing is
        // allocated between fork and exec.
        unsafe {
            done(libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS))?;
            done(libc::chroot(root.as_ptr()))?;
            done(libc::chdir(c"/".as_ptr()))?;
            done(libc::setgroups(0, std::ptr::null()))?;
            done(libc::setgid(NOBODY))?;
            done(libc::setuid(NOBODY))
        }
    };
    // SAFETY: see the closure.
    unsafe { command.pre_exec(leave) };
    command.output().context("cannot start the replay")
}
