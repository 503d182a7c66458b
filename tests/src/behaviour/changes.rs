//! Every kind of change to a file is judged as a write, on lsm before it happens.

use std::{fs, path::Path};

use anyhow::Result;

use crate::{
    Lab,
    guard::{Guard, Technique, technique},
};

crate::tests! {
    both: [every_change_is_judged_as_a_write],
}

/// What may be read, and what may be written too.
const READ_ONLY: &str = r#"
[files]
read = ["${HOME}/readonly/**"]
write = ["${HOME}/allowed/**", "${HOME}/scratch/**"]
[response]
unlisted = { read = "allow", write = "deny", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

const GUARD: Guard<'_> = Guard {
    policy: READ_ONLY,
    allowed: "allowed",
    forbidden: "readonly",
    categories: &["file_write"],
    furnish,
};

fn furnish(lab: &Lab, dir: &Path) -> Result<()> {
    fs::create_dir(dir.join("sub"))?;
    // An attribute to remove; where the file system has none, the technique is left out.
    lab.actor_alone(["setxattr".as_ref(), dir.join("file").as_os_str()])?;
    Ok(())
}

const CHANGES: &[Technique] = &[
    technique("create", "open|change", "open-create {dir}/new"),
    technique("mknod-file", "change", "mknod-file {dir}/new"),
    technique("mknod-fifo", "change", "mknod-fifo {dir}/new"),
    technique("mkdir", "change", "mkdir {dir}/new"),
    technique("rmdir", "change", "rmdir {dir}/sub"),
    technique("unlink", "change", "unlink {file}"),
    technique("rename-away", "change", "rename {file} {scratch}/moved"),
    technique("rename-onto", "change", "rename {scratch}/own {file}"),
    technique("rename-into", "change", "rename {scratch}/own {dir}/new"),
    technique("rename-within", "change", "rename {file} {dir}/new"),
    technique("exchange", "change", "exchange {file} {scratch}/own"),
    technique("link-away", "change", "link {file} {scratch}/hard"),
    technique("link-into", "change", "link {scratch}/own {dir}/new"),
    technique("symlink", "change", "symlink {scratch}/own {dir}/new"),
    technique("truncate", "change", "truncate {file}"),
    technique("ftruncate", "open|change", "ftruncate {file}"),
    technique("chmod", "change", "chmod {file}"),
    technique("fchmod", "change", "fchmod {file}"),
    technique("chown", "change", "chown {file}"),
    technique("setxattr", "change", "setxattr {file}").optional(),
    technique("removexattr", "change", "removexattr {file}").optional(),
    technique("utimes", "change", "utimes {file}"),
    technique("write", "open", "write {file}"),
    technique("uring-unlink", "change", "uring-unlink inline {file}").unseen(URING),
    technique("uring-unlink-async", "change", "uring-unlink async {file}").unseen(URING),
    technique("uring-rename", "change", "uring-rename sqpoll {file} {dir}/new").unseen(URING),
];

const URING: &str = "io_uring shows its opens only";

fn every_change_is_judged_as_a_write(lab: &Lab) -> Result<()> {
    GUARD.check(lab, CHANGES)
}
