//! Other names for a file do not take it out of the rules: rows 24 to 30 and 45 of the threat
//! list in the documentation.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use crate::{
    Backend, Lab, Mode,
    behaviour::opens::DENYING,
    guard::{Guard, Technique, technique, unfurnished},
};

crate::tests! {
    both: [
        roundabout_names_lead_to_the_same_file,
        files_of_a_set_keep_their_label_under_other_names,
        hard_link_from_before_is_still_the_secret,
        moving_secrets_is_judged_as_a_change,
        replacing_a_persistence_file_is_judged_as_a_change,
        mounts_are_ways_out,
        path_beyond_the_bounds_is_refused,
        detached_mount_does_not_take_on_an_allowed_name,
    ],
}

const GUARD: Guard<'_> = Guard {
    policy: DENYING,
    allowed: "allowed",
    forbidden: "forbidden",
    categories: &["file_read", "file_write"],
    furnish: unfurnished,
    refuses: false,
};

const ROUNDABOUT: &[Technique] = &[
    technique("relative", "open", "chdir {dir} , read {name}"),
    technique("dots", "open", "read {parent}//{base}/.././{base}///{name}"),
    technique("symlink", "open", "symlink {file} {scratch}/link , read {scratch}/link"),
    technique("symlinked-dir", "open", "symlink {dir} {scratch}/link , read {scratch}/link/{name}"),
    technique("proc-self-root", "open", "read /proc/self/root{file}"),
    technique("proc-pid-root", "open", "with-child read /proc/PID/root{file}"),
    technique("proc-self-cwd", "open", "chdir {dir} , read /proc/self/cwd/{name}"),
    technique("proc-pid-cwd", "open", "chdir {dir} , with-child read /proc/PID/cwd/{name}"),
    technique("chroot", "open", "chroot {dir} , read /{name}"),
    technique("chroot-chdir", "open", "chdir {dir} , chroot {scratch} , read {name}"),
];

fn roundabout_names_lead_to_the_same_file(lab: &Lab) -> Result<()> {
    GUARD.check(lab, ROUNDABOUT)
}

/// Only the secrets set speaks; mounts are let through to show that they do not help.
const SECRETS: &str = r#"
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "deny", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

const SECRET_GUARD: Guard<'_> = Guard {
    policy: SECRETS,
    allowed: "allowed",
    forbidden: ".ssh",
    categories: &["secret"],
    furnish: unfurnished,
    refuses: false,
};

const BIND: &str =
    "mkdir {scratch}/mnt , unshare-mount , bind {dir} {scratch}/mnt , read {scratch}/mnt/{name}";
const MOVE_MOUNT: &str = "mkdir {scratch}/mnt , unshare-mount , move-mount {dir} {scratch}/mnt , \
                          read {scratch}/mnt/{name}";
const OVERLAY: &str = "mkdir {scratch}/m , unshare-mount , mount-tmpfs {scratch}/m , \
                       mkdir {scratch}/m/u , mkdir {scratch}/m/w , mkdir {scratch}/m/o , \
                       overlay {dir} {scratch}/m/u {scratch}/m/w {scratch}/m/o , \
                       read {scratch}/m/o/{name}";
const PIVOT: &str = "mkdir {scratch}/m , unshare-mount , mount-tmpfs {scratch}/m , \
                     mkdir {scratch}/m/old , pivot-root {scratch}/m {scratch}/m/old , \
                     read /old{file}";

const LABELLED: &[Technique] = &[
    technique("plain", "open", "read {file}"),
    technique("bind", "open", BIND),
    technique("move-mount", "open", MOVE_MOUNT),
    technique("open-tree", "open", "open-tree {dir} {name}"),
    technique("overlay", "open", OVERLAY).optional(),
    technique("pivot-root", "open", PIVOT).optional(),
    technique("chroot", "open", "chroot {dir} , read /{name}"),
    technique("link", "change|open", "link {file} {scratch}/hard , read {scratch}/hard"),
    technique("rename", "change|open", "rename {file} {scratch}/moved , read {scratch}/moved"),
    technique(
        "rename-dir",
        "change|open",
        "rename {dir} {scratch}/moved , read {scratch}/moved/{name}",
    ),
];

fn files_of_a_set_keep_their_label_under_other_names(lab: &Lab) -> Result<()> {
    SECRET_GUARD.check(lab, LABELLED)
}

fn hard_link_from_before_is_still_the_secret(lab: &Lab) -> Result<()> {
    lab.policy(SECRETS)?;
    let key = lab.file(".ssh/id_ed25519", "secret\n")?;
    let plain = lab.file("notes", "plain\n")?;
    let (to_key, to_plain) = (lab.path("project-a"), lab.path("project-b"));
    fs::hard_link(&key, &to_key)?;
    fs::hard_link(&plain, &to_plain)?;
    let outcome = lab.run(Mode::Enforce).actor(["read".as_ref(), to_key.as_os_str()])?;
    let event = outcome.events.violation("open", "secret", &to_key)?;
    ensure!(event.lists("labels", "secrets") && event.number("nlink") == Some(2), "{event}");
    ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
    let twin = lab.run(Mode::Enforce).actor(["read".as_ref(), to_plain.as_os_str()])?;
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    twin.events.allowed("open", &to_plain).map(|_| ())
}

const MOVES: &[Technique] = &[
    technique("rename", "change", "rename {file} {scratch}/moved"),
    technique("exchange", "change", "exchange {scratch}/own {file}"),
    technique("replace", "change", "rename {scratch}/own {file}"),
    technique("rename-dir", "change", "rename {dir} {scratch}/moved"),
    technique("link", "change", "link {file} {scratch}/hard"),
    technique("uring-rename", "change", "uring-rename inline {file} {scratch}/moved")
        .unseen("io_uring shows its opens only"),
];

fn moving_secrets_is_judged_as_a_change(lab: &Lab) -> Result<()> {
    let read_only = Guard {
        policy: r#"
[files]
write = ["${HOME}/allowed/**", "${HOME}/scratch/**"]
[response]
unlisted = { read = "allow", write = "deny", exec = "allow", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "deny", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#,
        categories: &["secret", "file_write"],
        ..SECRET_GUARD
    };
    read_only.check(lab, MOVES)?;
    // An ancestor that no rule names moves the secrets beneath it all the same.
    lab.policy(SECRETS)?;
    let token = lab.file(".config/gh/hosts.yml", "secret\n")?;
    let (ancestor, moved) = (lab.path(".config"), lab.path("moved"));
    let words = ["rename".as_ref(), ancestor.as_os_str(), moved.as_os_str()];
    let outcome = lab.run(Mode::Enforce).actor(words)?;
    ensure!(outcome.events.violations().any(|event| event.kind() == "change"), "{outcome}");
    ensure!(token.exists() == (lab.backend() == Backend::Lsm), "{outcome}");
    if !token.exists() {
        fs::rename(&moved, &ancestor)?;
    }
    // The same by an exchange, from the other side.
    fs::create_dir(lab.path("empty"))?;
    let empty = lab.path("empty");
    let words = ["exchange".as_ref(), empty.as_os_str(), ancestor.as_os_str()];
    let outcome = lab.run(Mode::Enforce).actor(words)?;
    ensure!(outcome.events.violations().any(|event| event.kind() == "change"), "{outcome}");
    ensure!(token.exists() == (lab.backend() == Backend::Lsm), "{outcome}");
    Ok(())
}

fn replacing_a_persistence_file_is_judged_as_a_change(lab: &Lab) -> Result<()> {
    lab.policy(&SECRETS.replace("persistence = \"allow\"", "persistence = \"deny\""))?;
    let profile = lab.file(".bashrc", "# mine\n")?;
    let other = lab.file("work/notes", "plain\n")?;
    for (target, forbidden) in [(&profile, true), (&other, false)] {
        let new = lab.file("work/new", "evil\n")?;
        let words = ["rename".as_ref(), new.as_os_str(), target.as_os_str()];
        let outcome = lab.run(Mode::Enforce).actor(words)?;
        if forbidden {
            outcome.events.violation("change", "persistence", target)?;
            let whole = fs::read(target)? == b"# mine\n";
            ensure!(whole == (lab.backend() == Backend::Lsm), "{outcome}");
        } else {
            outcome.events.allowed("change", target)?;
            ensure!(outcome.stdout.starts_with("ok"), "{outcome}");
        }
    }
    Ok(())
}

fn mounts_are_ways_out(lab: &Lab) -> Result<()> {
    lab.policy(&SECRETS.replace("escape = \"allow\"", "escape = \"deny\""))?;
    let target = lab.path("mnt");
    fs::create_dir(&target)?;
    for steps in ["unshare-mount , mount-tmpfs {}", "unshare-mount , move-mount /usr {}"] {
        let steps = steps.replace("{}", &target.to_string_lossy());
        let outcome = lab.run(Mode::Enforce).actor(steps.split_whitespace())?;
        let mut violations = outcome.events.violations();
        ensure!(violations.any(|event| event.text("category") == "escape"), "{outcome}");
        ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
    }
    let twin = lab.run(Mode::Enforce).actor(["read", "/etc/passwd"])?;
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    twin.events.assert_quiet()
}

/// More bytes than a path may have, and more levels than the kernel programs climb.
const DEEP: [(&str, &str); 2] = [("30", "200"), ("2200", "1")];

fn path_beyond_the_bounds_is_refused(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let top = lab.path("allowed");
    fs::create_dir(&top)?;
    for (levels, length) in DEEP {
        deep_make(lab, &top, levels, length)?;
        let outcome = deep_read(lab, &top, levels, length)?;
        let mut violations = outcome.events.violations();
        let found = violations.find(|event| event.field("truncated") == Some(&true.into()));
        ensure!(found.is_some_and(|event| event.text("reason") == "bound"), "{outcome}");
        ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
        fs::remove_dir_all(&top)?;
        fs::create_dir(&top)?;
    }
    deep_make(lab, &top, "18", "200")?;
    let twin = deep_read(lab, &top, "18", "200")?;
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    twin.events.assert_quiet()
}

fn deep_make(lab: &Lab, top: &Path, levels: &str, length: &str) -> Result<()> {
    let words = ["deep-make".as_ref(), top.as_os_str(), levels.as_ref(), length.as_ref()];
    let made = lab.actor_alone(words)?;
    ensure!(made.starts_with("ok"), "cannot make the directories: {made}");
    Ok(())
}

fn deep_read(lab: &Lab, top: &Path, levels: &str, length: &str) -> Result<crate::Outcome> {
    let words = ["deep-read".as_ref(), top.as_os_str(), levels.as_ref(), length.as_ref()];
    lab.run(Mode::Enforce).actor(words)
}

/// What may be read and executed is named from the root.
const ROOTED: &str = r#"
[files]
read = ["/srv/e2e-allowed/**", "${HOME}/plain/**"]
[exec]
allow = ["/srv/e2e-allowed/**"]
[response]
unlisted = { read = "deny", write = "allow", exec = "deny", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

fn detached_mount_does_not_take_on_an_allowed_name(lab: &Lab) -> Result<()> {
    lab.policy(ROOTED)?;
    let tree = lab.path("tree");
    let program = lab.file("tree/srv/e2e-allowed/program", "")?;
    fs::copy(lab.actor()?, &program)?;
    let plain = lab.file("plain/notes", "plain\n")?;
    let name = "srv/e2e-allowed/program";
    let read = ["open-tree".as_ref(), tree.as_os_str(), name.as_ref()];
    let exec = ["open-tree-exec".as_ref(), tree.as_os_str(), name.as_ref(), "say".as_ref()];
    let exec: Vec<_> = exec.into_iter().chain(["hi".as_ref()]).collect();
    for (words, category) in [(&read[..], "file_read"), (&exec[..], "exec")] {
        let free = lab.actor_alone(words)?;
        ensure!(free.starts_with("ok"), "without the monitor: {free}");
        let outcome = lab.run(Mode::Enforce).actor(words)?;
        let mut violations = outcome.events.violations();
        ensure!(violations.any(|event| event.text("category") == category), "{outcome}");
        ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
    }
    let twin = lab.run(Mode::Enforce).actor(["read".as_ref(), plain.as_os_str()])?;
    ensure!(twin.stdout.starts_with("ok"), "{twin}");
    twin.events.assert_quiet()
}
