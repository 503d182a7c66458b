//! What is executed comes under the rules, whatever it is called and wherever it comes from: rows
//! 6 to 9 of `docs/evasions.md`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    Backend, Lab,
    cases::Cases,
    guard::{Guard, Technique, technique},
};

crate::tests! {
    both: [
        programs_are_judged_by_whatever_call,
        dynamic_loader_does_not_hide_its_program,
        memory_and_deleted_programs_have_no_name_to_be_allowed_by,
        long_argument_vector_is_flagged,
        script_and_interpreter_are_both_recorded,
    ],
}

/// Programs beneath one directory may run, and what tests themselves need.
const PROGRAMS: &str = r#"
[exec]
allow = ["${HOME}/allowed/**"]
[response]
unlisted = { read = "allow", write = "allow", exec = "deny", connect = "allow", listen = "allow", unix = "allow" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

const GUARD: Guard<'_> = Guard {
    policy: PROGRAMS,
    allowed: "allowed",
    forbidden: "forbidden",
    categories: &["exec"],
    furnish,
};

/// A copy of the actor, and a script that it interprets.
fn furnish(lab: &Lab, dir: &Path) -> Result<()> {
    let program = dir.join("program");
    fs::copy(lab.actor()?, &program)?;
    executable(&dir.join("script"), &format!("#!{} say\n", program.display()))?;
    Ok(())
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

const EXECS: &[Technique] = &[
    technique("execve", "exec", "exec {dir}/program say hi"),
    technique("execveat", "exec", "execveat {dir}/program say hi"),
    technique("proc-fd", "exec", "exec-fd {dir}/program say hi"),
    technique("script", "exec", "exec {dir}/script hi"),
    technique("relative", "exec", "chdir {dir} , exec ./program say hi"),
    technique("symlink", "exec", "symlink {dir}/program {scratch}/p , exec {scratch}/p say hi"),
    technique("thread", "exec", "thread exec {dir}/program say hi"),
    technique("double-fork", "exec", "double-fork exec {dir}/program say hi"),
    technique("long", "exec", "exec-long {dir}/program 100000 say hi"),
    technique("argv0", "exec", "execveat {dir}/program say {home}/allowed/innocent"),
];

fn programs_are_judged_by_whatever_call(lab: &Lab) -> Result<()> {
    GUARD.check(lab, EXECS)
}

fn dynamic_loader_does_not_hide_its_program(lab: &Lab) -> Result<()> {
    let loader = fs::canonicalize("/lib64/ld-linux-x86-64.so.2").context("no dynamic loader")?;
    let mut cases = Cases::new();
    let mut programs = Vec::new();
    for side in ["allowed", "forbidden"] {
        let program = lab.file(format!("{side}/shell"), "")?;
        fs::copy("/bin/sh", &program)?;
        let (loader, program) = (loader.display(), program.display());
        cases.add(side, format!("exec {loader} {program} -c 'echo ok'"));
        programs.push(program.to_string());
    }
    let loader_too = format!("allow = [\"{}\", ", loader.display());
    lab.policy(&PROGRAMS.replace("allow = [", &loader_too))?;
    let batch = cases.run(lab)?;
    batch.worked("allowed")?;
    if lab.backend() == Backend::Tracepoint {
        // Mappings have no tracepoint; that the loader read the program is seen.
        batch.events.event("open", &programs[1])?;
        return Ok(());
    }
    // The refused mapping makes the loader give up: it is the one to say so.
    ensure!(!batch.line("forbidden").starts_with("ok"), "{batch}");
    batch.denied("exec", "exec", &programs[1])?;
    batch.quiet_about(&programs[0])
}

fn memory_and_deleted_programs_have_no_name_to_be_allowed_by(lab: &Lab) -> Result<()> {
    lab.policy(PROGRAMS)?;
    fs::create_dir(lab.path("allowed"))?;
    let actor = lab.actor()?.display().to_string();
    let (kept, gone) = (lab.path("allowed/kept"), lab.path("scratch-gone"));
    fs::copy(&actor, &kept)?;
    let mut cases = Cases::new();
    cases.add("memory", format!("memfd {actor} say hi"));
    cases.add("deleted", format!("exec-deleted {actor} {} say hi", gone.display()));
    cases.add("kept", format!("exec {} say hi", kept.display()));
    let batch = cases.run(lab)?;
    batch.refused("memory")?;
    batch.refused("deleted")?;
    let flagged = batch.events.violations().filter(|event| {
        event.field("fileless") == Some(&true.into()) && batch.is_denied(event)
    });
    ensure!(flagged.count() == 2, "{batch}");
    batch.worked("kept")?;
    batch.quiet_about(&kept)
}

fn long_argument_vector_is_flagged(lab: &Lab) -> Result<()> {
    lab.policy(&PROGRAMS.replace("exec = \"deny\"", "exec = \"allow\""))?;
    let actor = lab.actor()?.display().to_string();
    let mut cases = Cases::new();
    cases.add("short", format!("exec-long {actor} 1000 say short"));
    cases.add("long", format!("exec-long {actor} 100000 say long"));
    let batch = cases.run(lab)?;
    for (name, long) in [("short", false), ("long", true)] {
        batch.worked(name)?;
        let flagged = batch.events.of("exec").any(|event| {
            let own = event.lists("argv", name) || (long && !event.lists("argv", "short"));
            own && event.lists("flags", "argv_truncated")
        });
        ensure!(flagged == long, "{name}: {}", batch.events);
    }
    Ok(())
}

fn script_and_interpreter_are_both_recorded(lab: &Lab) -> Result<()> {
    lab.policy(PROGRAMS)?;
    let program = lab.file("allowed/program", "")?;
    furnish(lab, &lab.path("allowed"))?;
    let script = lab.path("allowed/script");
    // Allowed itself, with an interpreter that is not; and the other way round.
    let forbidden = lab.file("forbidden/program", "")?;
    fs::copy(lab.actor()?, &forbidden)?;
    let (borrowing, lending) = (lab.path("allowed/borrowing"), lab.path("forbidden/lending"));
    executable(&borrowing, &format!("#!{} say\n", forbidden.display()))?;
    executable(&lending, &format!("#!{} say\n", program.display()))?;
    let mut cases = Cases::new();
    for (name, path) in [("script", &script), ("borrowing", &borrowing), ("lending", &lending)] {
        cases.add(name, format!("exec {} hi", path.display()));
    }
    let batch = cases.run(lab)?;
    batch.worked("script")?;
    let both = batch.events.of("exec").any(|event| {
        let named = [event.text("path"), event.text("interpreter")];
        named.contains(&&*script.to_string_lossy()) && named.contains(&&*program.to_string_lossy())
    });
    ensure!(both, "no exec of the script by its interpreter: {}", batch.events);
    batch.quiet_about(&script)?;
    batch.refused("borrowing")?;
    batch.denied("exec", "exec", &forbidden)?;
    if lab.backend() == Backend::Lsm {
        // The tracepoint backend sees the script only as the string that was executed.
        batch.refused("lending")?;
        batch.denied("exec", "exec", &lending)?;
    }
    Ok(())
}
