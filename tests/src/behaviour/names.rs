//! Other names for a file do not take it out of the rules: rows 24 to 30 and 45 of
//! `docs/evasions.md`.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    Backend, Lab,
    behaviour::opens::{DENYING, GUARD},
    cases::Cases,
    guard::{Guard, Technique, technique, unfurnished},
};

crate::tests! {
    both: [
        roundabout_names_lead_to_the_same_file,
        files_of_a_set_keep_their_label_under_other_names,
        hard_link_from_before_is_still_the_secret,
        moving_secrets_is_judged_as_a_change,
        moving_an_ancestor_of_secrets_is_judged_as_a_change,
        replacing_a_persistence_file_is_judged_as_a_change,
        mounts_are_ways_out,
        path_beyond_the_bounds_is_refused,
        detached_mount_does_not_take_on_an_allowed_name,
        file_of_an_overlay_is_judged_by_its_own_path,
    ],
    // The tracepoint backend sees no process outside the tree.
    lsm: [file_put_beside_secrets_later_is_a_secret],
}

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
    technique("overlay", "open", OVERLAY)
        .optional()
        .unseen("the descriptor shows the overlay's inode, not the file behind it"),
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
    let key = lab.file(".ssh/work", "secret\n")?;
    let plain = lab.file("notes", "plain\n")?;
    let (to_key, to_plain) = (lab.path("project-a"), lab.path("project-b"));
    fs::hard_link(&key, &to_key)?;
    fs::hard_link(&plain, &to_plain)?;
    let mut cases = Cases::new();
    cases.add("key", format!("read {}", to_key.display()));
    cases.add("plain", format!("read {}", to_plain.display()));
    let batch = cases.run(lab)?;
    batch.refused("key")?;
    let event = batch.denied("open", "secret", &to_key)?;
    ensure!(event.lists("labels", "secrets") && event.number("nlink") == Some(2), "{event}");
    batch.worked("plain")?;
    batch.quiet_about(&to_plain)
}

fn file_put_beside_secrets_later_is_a_secret(lab: &Lab) -> Result<()> {
    lab.policy(SECRETS)?;
    for place in [".ssh", "other"] {
        fs::create_dir(lab.path(place))?;
    }
    let go = lab.path("go");
    let mut cases = Cases::new();
    cases.add("ready", "say yes");
    let names = [(".ssh", "made"), (".ssh", "moved"), ("other", "made"), ("other", "moved")];
    for (place, how) in names {
        let link = lab.path(format!("{how}-in-{}", place.trim_start_matches('.')));
        cases.add(&format!("{place}.{how}"), format!("await {} , read {}", go.display(), link.display()));
    }
    let batch = cases.run_beside(lab, |running| {
        running.wait_for("ready ok")?;
        for (place, how) in names {
            let (file, moved) = (lab.path(format!("{place}/{how}")), lab.path("new"));
            fs::write(if how == "made" { &file } else { &moved }, "text")?;
            if how == "moved" {
                fs::rename(&moved, &file)?;
            }
            fs::hard_link(&file, lab.path(format!("{how}-in-{}", place.trim_start_matches('.'))))?;
        }
        Ok(fs::write(&go, "")?)
    })?;
    for how in ["made", "moved"] {
        batch.refused(&format!(".ssh.{how}"))?;
        batch.denied("open", "secret", lab.path(format!("{how}-in-ssh")))?;
        batch.worked(&format!("other.{how}"))?;
        batch.quiet_about(lab.path(format!("{how}-in-other")))?;
    }
    Ok(())
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
    read_only.check(lab, MOVES)
}

fn moving_an_ancestor_of_secrets_is_judged_as_a_change(lab: &Lab) -> Result<()> {
    lab.policy(SECRETS)?;
    let (gh, keyring) = (".config/gh/hosts.yml", ".local/share/keyrings/login");
    let secrets = [lab.file(gh, "secret\n")?, lab.file(keyring, "secret\n")?];
    lab.file("other/plain", "plain\n")?;
    fs::create_dir(lab.path("empty"))?;
    let home = lab.home().display().to_string();
    let mut cases = Cases::new();
    cases.add("rename", format!("rename {home}/.config {home}/moved"));
    cases.add("exchange", format!("exchange {home}/empty {home}/.local"));
    cases.add("plain", format!("rename {home}/other {home}/another"));
    let batch = cases.run(lab)?;
    if lab.backend() == Backend::Tracepoint {
        // It sees the names only, after the fact: what moved is reported, and each member found
        // under its new name by its label.
        batch.events.event("change", lab.path(".config"))?;
        batch.events.event("change", lab.path(".local"))?;
        return Ok(());
    }
    batch.refused("rename")?;
    batch.denied("change", "secret", lab.path(".config"))?;
    batch.refused("exchange")?;
    batch.denied("change", "secret", lab.path(".local"))?;
    batch.worked("plain")?;
    batch.quiet_about(lab.path("other"))?;
    ensure!(secrets.iter().all(|path| path.exists()), "{batch}");
    Ok(())
}

fn replacing_a_persistence_file_is_judged_as_a_change(lab: &Lab) -> Result<()> {
    lab.policy(&SECRETS.replace("persistence = \"allow\"", "persistence = \"deny\""))?;
    let profile = lab.file(".bashrc", "# mine\n")?;
    let other = lab.file("work/notes", "plain\n")?;
    let mut cases = Cases::new();
    for (name, target) in [("profile", &profile), ("other", &other)] {
        let new = lab.file(format!("work/for-{name}"), "evil\n")?;
        cases.add(name, format!("rename {} {}", new.display(), target.display()));
    }
    let batch = cases.run(lab)?;
    batch.refused("profile")?;
    batch.denied("change", "persistence", &profile)?;
    ensure!((fs::read(&profile)? == b"# mine\n") == batch.enforcing, "{batch}");
    batch.worked("other")?;
    batch.quiet_about(&other)
}

fn mounts_are_ways_out(lab: &Lab) -> Result<()> {
    lab.policy(&SECRETS.replace("escape = \"allow\"", "escape = \"deny\""))?;
    let target = lab.path("mnt");
    fs::create_dir(&target)?;
    let file = lab.file("mnt/file", "plain\n")?;
    let mut cases = Cases::new();
    cases.add("mount", format!("mount-tmpfs {0} , umount {0}", target.display()));
    cases.add("bind", format!("bind /usr {0} , umount {0}", target.display()));
    cases.add("move-mount", format!("move-mount /usr {0} , umount {0}", target.display()));
    cases.add("plain", format!("read {}", file.display()));
    let batch = cases.run(lab)?;
    for name in ["mount", "bind", "move-mount"] {
        batch.refused(name)?;
    }
    let mounts = batch.events.violations().filter(|event| {
        let right = event.kind() == "mount" && event.text("category") == "escape";
        right && event.names(&target.to_string_lossy()) && batch.is_denied(event)
    });
    ensure!(mounts.count() == 3, "{batch}");
    batch.worked("plain")?;
    batch.quiet_about(&file)
}

/// Levels and length of names: more bytes than a path may have, more levels than the kernel
/// programs climb, and as much as they take.
const DEEP: [(&str, u32, u32); 3] = [("long", 30, 200), ("deep", 2200, 1), ("fits", 18, 200)];

fn path_beyond_the_bounds_is_refused(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (mut make, mut read) = (Cases::new(), Cases::new());
    for (name, levels, length) in DEEP {
        let top = lab.path(format!("allowed/{name}"));
        fs::create_dir_all(&top)?;
        make.add(name, format!("deep-make {} {levels} {length}", top.display()));
        read.add(name, format!("deep-read {} {levels} {length}", top.display()));
    }
    for (name, line) in make.alone(lab)? {
        ensure!(line.starts_with("ok"), "{name}: cannot make the directories: {line}");
    }
    let batch = read.run(lab)?;
    batch.refused("long")?;
    batch.refused("deep")?;
    batch.worked("fits")?;
    let beyond = batch.events.violations().filter(|event| {
        let flagged = event.field("truncated") == Some(&true.into());
        flagged && event.text("reason") == "bound" && batch.is_denied(event)
    });
    ensure!(beyond.count() == 2 && batch.events.violations().count() == 2, "{batch}");
    Ok(())
}

/// What may be read and executed is named from the root.
const ROOTED: &str = r#"
[files]
read = ["/srv/e2e-allowed/**", "${HOME}/plain/**", "${HOME}/cases", "/proc/**"]
[exec]
allow = ["/srv/e2e-allowed/**"]
[response]
unlisted = { read = "deny", write = "allow", exec = "deny", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

fn detached_mount_does_not_take_on_an_allowed_name(lab: &Lab) -> Result<()> {
    lab.policy(ROOTED)?;
    let tree = lab.path("tree").display().to_string();
    let program = lab.file("tree/srv/e2e-allowed/program", "")?;
    fs::copy(lab.actor()?, &program)?;
    let plain = lab.file("plain/notes", "plain\n")?;
    let mut cases = Cases::new();
    cases.add("read", format!("open-tree {tree} srv/e2e-allowed/program"));
    cases.add("exec", format!("open-tree-exec {tree} srv/e2e-allowed/program say hi"));
    let key = lab.file(".ssh/id_work", "secret\n")?;
    cases.add("key", format!("open-tree {}/.ssh id_work", lab.home().display()));
    cases.add("plain", format!("read {}", plain.display()));
    for (name, line) in cases.alone(lab)? {
        ensure!(line.starts_with("ok"), "{name} without the monitor: {line}");
    }
    let batch = cases.run(lab)?;
    batch.refused("read")?;
    batch.refused("exec")?;
    batch.refused("key")?;
    ensure!(key.exists(), "{batch}");
    for category in ["file_read", "exec"] {
        let mut violations = batch.events.violations();
        let found = violations.any(|event| {
            event.text("category") == category && batch.is_denied(event)
        });
        ensure!(found, "no violation ({category})\n{batch}");
    }
    batch.worked("plain")?;
    batch.quiet_about(&plain)
}

fn file_of_an_overlay_is_judged_by_its_own_path(lab: &Lab) -> Result<()> {
    // What lies behind the overlay is in no rule, and needs none. Its working directory is read
    // when it is mounted.
    let read = "${HOME}/scratch/m/w/**\", \"${HOME}/scratch/m/o/allowed";
    lab.policy(&ROOTED.replace("${HOME}/plain/**", read))?;
    for name in ["allowed", "unlisted"] {
        lab.file(format!("lower/{name}"), "plain\n")?;
    }
    fs::create_dir_all(lab.path("scratch"))?;
    let overlay = OVERLAY.replace("{scratch}", "scratch").replace("{dir}", "lower");
    let mut cases = Cases::new();
    cases.add("allowed", overlay.replace("{name}", "allowed"));
    // Each case has its own mount namespace, but the mount point is made only once.
    let again = overlay.replacen("mkdir scratch/m , ", "", 1);
    cases.add("unlisted", again.replace("{name}", "unlisted"));
    let free = cases.alone(lab)?;
    if !free.values().all(|line| line.starts_with("ok")) {
        return crate::skip(format!("this kernel has no overlay: {free:?}"));
    }
    fs::remove_dir(lab.path("scratch/m"))?;
    let batch = cases.run(lab)?;
    batch.worked("allowed")?;
    batch.quiet_about(lab.path("scratch/m/o/allowed"))?;
    batch.refused("unlisted")?;
    batch.denied("open", "file_read", lab.path("scratch/m/o/unlisted")).map(|_| ())
}
