//! Every way to open a file comes under the rules: rows 1 to 5, 22 and 23 of `docs/evasions.md`.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Result, ensure};

use crate::{
    Lab, Mode,
    cases::Cases,
    guard::{Guard, Technique, technique, unfurnished},
};

crate::tests! {
    both: [
        reads_are_judged_by_whatever_call,
        writes_are_judged_by_whatever_call,
        racing_threads_do_not_deceive,
    ],
    lsm: [refused_truncation_leaves_the_file_whole],
    tracepoint: [forbidden_open_ends_the_tree],
}

/// Files that may be read and written, and files that are denied; all else is open.
pub const DENYING: &str = r#"
[files]
read = ["${HOME}/allowed/**"]
write = ["${HOME}/allowed/**", "${HOME}/scratch/**"]
deny = ["${HOME}/forbidden/**"]
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

/// Two places under [`DENYING`].
pub const GUARD: Guard<'_> = Guard {
    policy: DENYING,
    allowed: "allowed",
    forbidden: "forbidden",
    categories: &["file_read", "file_write"],
    furnish: unfurnished,
};

const NO_DESCRIPTOR: &str = "the file gets no descriptor of the process";

const READS: &[Technique] = &[
    technique("open", "open", "sys-open {file}"),
    technique("openat", "open", "read {file}"),
    technique("openat2", "open", "openat2 {file}"),
    technique("compat-open", "open", "int80 {file}").optional(),
    technique("file-handle", "open", "chdir {home} , handle {file}"),
    technique("path-reopen", "open", "path-reopen {file}"),
    technique("dup", "open", "dup {file}"),
    technique("mmap", "open", "mmap {file}"),
    technique("sendfile", "open", "sendfile {file} {scratch}/copy"),
    technique("splice", "open", "splice {file} {scratch}/copy"),
    technique("copy-range", "open", "copy-range {file} {scratch}/copy"),
    technique("uring-inline", "open", "uring-read inline {file}"),
    technique("uring-async", "open", "uring-read async {file}"),
    technique("uring-sqpoll", "open", "uring-read sqpoll {file}"),
    technique("uring-openat2", "open", "uring-openat2 inline {file}"),
    technique("uring-openat2-async", "open", "uring-openat2 async {file}"),
    technique("uring-fixed", "open", "uring-fixed inline {file}").unseen(NO_DESCRIPTOR),
    technique("uring-fixed-async", "open", "uring-fixed async {file}").unseen(NO_DESCRIPTOR),
    technique("uring-fixed-sqpoll", "open", "uring-fixed sqpoll {file}").unseen(NO_DESCRIPTOR),
];

fn reads_are_judged_by_whatever_call(lab: &Lab) -> Result<()> {
    GUARD.check(lab, READS)
}

const WRITES: &[Technique] = &[
    technique("write", "open", "write {file}"),
    technique("append", "open", "append {file}"),
    technique("truncate", "open", "open-truncate {file}"),
    technique("creat", "open", "creat {file}"),
    technique("create", "open|change", "open-create {dir}/new"),
    technique("creat-new", "open|change", "creat {dir}/new"),
    technique("tmpfile", "open|change", "tmpfile {dir} {dir}/new"),
    technique("reopen", "open", "reopen-write {file}"),
    technique("copy-onto", "open", "copy {scratch}/own {file}"),
    technique("sendfile-into", "open", "sendfile {scratch}/own {file}"),
];

fn writes_are_judged_by_whatever_call(lab: &Lab) -> Result<()> {
    GUARD.check(lab, WRITES)
}

fn racing_threads_do_not_deceive(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain\n")?, lab.file("forbidden/a", "secret\n")?);
    // Links to the directories, so that the names that race differ in one letter.
    let aliases = [lab.path("a"), lab.path("b")];
    for (alias, file) in aliases.iter().zip([&plain, &secret]) {
        symlink(file.with_file_name(""), alias)?;
    }
    let [one, other] = aliases.map(|alias| alias.join("a").display().to_string());
    let link = lab.path("link").display().to_string();
    let mut cases = Cases::new();
    cases.add("name", format!("toctou {one} {other}"));
    cases.add("link", format!("swap-link {one} {other} {link}"));
    for (name, line) in cases.alone(lab)? {
        ensure!(line.starts_with("ok"), "{name}: the race cannot be won at all: {line}");
    }
    let batch = cases.run(lab)?;
    batch.refused("name")?;
    batch.refused("link")?;
    batch.denied("open", "file_read", &secret)?;
    batch.quiet_about(&plain)
}

fn refused_truncation_leaves_the_file_whole(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let kept = lab.file("forbidden/kept", "precious\n")?;
    let emptied = lab.file("allowed/emptied", "worthless\n")?;
    let mut cases = Cases::new();
    cases.add("forbidden", format!("open-truncate {}", kept.display()));
    cases.add("allowed", format!("open-truncate {}", emptied.display()));
    let batch = cases.run(lab)?;
    batch.refused("forbidden")?;
    batch.worked("allowed")?;
    ensure!(fs::read(&kept)? == b"precious\n", "the file was changed");
    ensure!(fs::read(&emptied)? == b"actor\n", "the allowed twin was not");
    Ok(())
}

fn forbidden_open_ends_the_tree(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    for call in ["read", "sys-open", "openat2", "int80", "creat"] {
        let twin = lab.run(Mode::Enforce).actor([call.as_ref(), plain.as_os_str()])?;
        ensure!(twin.code() == 0, "{call} of an allowed file: {twin}");
        let outcome = lab.run(Mode::Enforce).actor([call.as_ref(), secret.as_os_str()])?;
        ensure!(outcome.code() == 128 + libc::SIGKILL, "{call} lived: {outcome}");
        let category = if call == "creat" { "file_write" } else { "file_read" };
        let event = outcome.events.violation("open", category, &secret)?;
        ensure!(event.text("enforced") == "kernel", "{event}");
        ensure!(!outcome.stdout.contains("ok"), "{call} got to speak: {outcome}");
    }
    Ok(())
}
