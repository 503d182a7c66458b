//! Second judgement of what the kernel could only judge by a user's string.
//!
//! On the tracepoint backend changes to files are seen with the path that the process wrote, put
//! behind its base directory: `..`, doubled slashes and symbolic links stand in it as they are.
//! Here the path is made plain, once by its text and once by asking the kernel where its parent
//! is now, and judged by the same tables and the same precedence. The stronger verdict stands.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::Path,
};

use monitor_common::{
    policy::{Decision, access, decide, mode, verdict},
    record::{PATH, Record, SECOND, change, enforced, flags, kind},
};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlink},
    sys::stat::Mode,
};

use crate::{decode::Decoded, rules::Compiled};

/// What the second judgement found.
pub struct Judged {
    /// The record with the stronger verdict.
    pub record: Record,
    /// Which of the record's strings the verdict is about.
    pub position: usize,
    /// That string, made plain.
    pub path: Vec<u8>,
}

/// Judges again, and tells when the verdict is stronger than the kernel's.
pub fn rejudge(decoded: &Decoded<'_>, compiled: &Compiled) -> Option<Judged> {
    let record = &decoded.record;
    if record.flags & flags::ARGUMENT == 0 || record.flags & flags::TRUNCATED != 0 {
        return None;
    }
    let asked = match record.kind {
        kind::CHANGE => access::WRITE,
        kind::UNIX if record.flags & flags::ABSTRACT == 0 => access::UNIX,
        _ => return None,
    };
    // The text of a symbolic link is no path that is touched.
    let positions: &[usize] = if record.op == change::SYMLINK { &[PATH] } else { &[PATH, SECOND] };
    let judged = positions
        .iter()
        .map(|&position| (position, decoded.strings[position]))
        .filter(|(_, path)| path.starts_with(b"/"))
        .flat_map(|(position, path)| {
            let forms = [Some(plain(path)), resolved(record, path)];
            forms.into_iter().flatten().map(move |path| (position, path))
        })
        .map(|(position, path)| {
            let classes = compiled.classify_path(&path) | record.labels;
            let decision = decide(&compiled.policy, classes, asked);
            Judged { record: stronger(record, decision, classes), position, path }
        });
    judged
        .max_by_key(|judged| judged.record.decision.verdict)
        .filter(|judged| judged.record.decision.verdict > record.decision.verdict)
}

fn stronger(record: &Record, decision: Decision, classes: u32) -> Record {
    let mut record = *record;
    record.decision = decision;
    record.classes |= classes;
    let answered = record.enforced != enforced::NONE;
    if record.mode == mode::ENFORCE && decision.verdict >= verdict::DENY && !answered {
        record.enforced = enforced::AGENT;
    }
    record
}

/// The path without `.`, `..` and doubled slashes, by its text alone.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    let mut plain = Vec::with_capacity(path.len());
    for component in components {
        plain.push(b'/');
        plain.extend_from_slice(component);
    }
    if plain.is_empty() { b"/".to_vec() } else { plain }
}

/// Where the path's parent is, as the process sees it now, with the last component behind it.
/// `None` when that cannot be told: the directory is gone, or nobody sees it any more.
fn resolved(record: &Record, path: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    let (parent, name) = (&path[..slash], &path[slash + 1..]);
    if matches!(name, b"" | b"." | b"..") {
        return None;
    }
    let directory = cached_directory(root_of(record)?, parent)?;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let mut resolved = readlink(Path::new(&link)).ok()?.into_vec();
    if resolved != b"/" {
        resolved.push(b'/');
    }
    resolved.extend_from_slice(name);
    Some(resolved)
}

/// The root directory of the process that acted. Of one that has ended already our own stands in
/// when it lived in our mount namespace.
fn root_of(record: &Record) -> Option<OwnedFd> {
    let open = |path: &str| open(Path::new(path), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let is_ours = || {
        let ours = fs::metadata("/proc/self/ns/mnt").map(|namespace| namespace.ino());
        ours.is_ok_and(|ours| ours == u64::from(record.mnt_ns))
    };
    match open(&format!("/proc/{}/root", record.tgid)) {
        Ok(root) => Some(root),
        Err(_) if is_ours() => open("/").ok(),
        Err(_) => None,
    }
}

/// Opens a directory beneath a root by what the kernel has in its caches. It never asks a file
/// system: one made by the watched process could keep the monitor waiting for ever.
fn cached_directory(root: impl AsFd, path: &[u8]) -> Option<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_IN_ROOT
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED),
    );
    let path = if path.is_empty() { b"/" } else { path };
    openat2(root, Path::new(OsStr::from_bytes(path)), how).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decode::{blank, decode, encode},
        rules::{Bindings, SearchPath, compile, load},
    };

    fn by(tgid: u32, mnt_ns: u32) -> Record {
        Record { tgid, mnt_ns, ..blank(kind::CHANGE) }
    }

    fn compiled() -> Compiled {
        let folder = tempfile::tempdir().unwrap();
        let rules = "schema = 1\nserver = \"s\"\n[files]\nwrite = [\"/srv/ok/**\"]\n\
                     deny = [\"/srv/bad/**\"]\n[response]\nmode = \"enforce\"\n";
        fs::create_dir(folder.path().join("servers")).unwrap();
        fs::write(folder.path().join("servers/s.toml"), rules).unwrap();
        let bindings = Bindings { home: "/home/nobody".into(), ..Bindings::default() };
        let search = SearchPath::new(Some(folder.path()));
        compile(&load(&search, Some("s"), &bindings).unwrap()).unwrap()
    }

    /// A change that the kernel allowed by the string.
    fn change(path: &str, second: &str, flags: u32) -> Vec<u8> {
        let record = Record { flags, mode: mode::ENFORCE, tgid: u32::MAX, ..by(u32::MAX, 0) };
        encode(record, [path.as_bytes(), second.as_bytes(), b"", b""])
    }

    #[test]
    fn a_path_that_only_looks_allowed_is_denied_by_the_agent() {
        let compiled = compiled();
        for (path, second, position) in [
            ("/srv/ok/../bad/x", "", PATH),
            ("/srv//bad/./x", "", PATH),
            ("/srv/ok/x", "/srv/ok/../bad/y", SECOND),
        ] {
            let bytes = change(path, second, flags::ARGUMENT);
            let judged = rejudge(&decode(&bytes).unwrap(), &compiled).unwrap();
            assert_eq!(judged.record.decision.verdict, verdict::DENY, "{path}");
            assert_eq!(judged.record.enforced, enforced::AGENT, "{path}");
            assert_eq!(judged.position, position, "{path}");
            assert!(judged.path.starts_with(b"/srv/bad/"), "{path}");
        }
    }

    #[test]
    fn an_allowed_path_stays_allowed_however_it_is_written() {
        let bytes = change("/srv/bad/../ok//x", "/srv/ok/y", flags::ARGUMENT);
        assert!(rejudge(&decode(&bytes).unwrap(), &compiled()).is_none());
    }

    #[test]
    fn what_the_kernel_resolved_itself_is_not_judged_again() {
        let bytes = change("/srv/ok/../bad/x", "", 0);
        assert!(rejudge(&decode(&bytes).unwrap(), &compiled()).is_none());
    }

    #[test]
    fn the_text_of_a_symbolic_link_is_no_path() {
        let record = Record { flags: flags::ARGUMENT, mode: mode::ENFORCE, ..by(u32::MAX, 0) };
        let record = Record { op: change::SYMLINK, ..record };
        let bytes = encode(record, ["/srv/ok/link", "/srv/bad/x", "", ""].map(str::as_bytes));
        assert!(rejudge(&decode(&bytes).unwrap(), &compiled()).is_none());
    }

    #[test]
    fn text_is_made_plain() {
        for (written, meant) in [
            ("/a/b", "/a/b"),
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../b", "/b"),
            ("/../..", "/"),
            ("/", "/"),
            ("/a/b/../../../c", "/c"),
        ] {
            assert_eq!(plain(written.as_bytes()), meant.as_bytes(), "{written}");
        }
    }

    #[test]
    fn links_on_the_way_are_followed_and_the_last_component_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let directory = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(directory.join("real")).unwrap();
        std::os::unix::fs::symlink("real", directory.join("way")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.join("real/link")).unwrap();
        let written = directory.join("way/../way/link");
        // Looking brings it into the caches, as the watched call did.
        fs::symlink_metadata(&written).unwrap();
        let expected = directory.join("real/link");
        let expected = Some(expected.as_os_str().as_bytes());
        let written = written.as_os_str().as_bytes();
        assert_eq!(resolved(&by(std::process::id(), 0), written).as_deref(), expected);
        let ours = fs::metadata("/proc/self/ns/mnt").unwrap().ino() as u32;
        assert_eq!(resolved(&by(u32::MAX, ours), written).as_deref(), expected);
    }

    #[test]
    fn what_cannot_be_told_is_left_alone() {
        assert_eq!(resolved(&by(u32::MAX, 0), b"/etc/passwd"), None);
        let own = by(std::process::id(), 0);
        assert_eq!(resolved(&own, b"/no/such/directory/x"), None);
        assert_eq!(resolved(&own, b"/etc/.."), None);
    }
}
