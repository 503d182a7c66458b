//! What is executed comes under the rules, whatever it is called and wherever it comes from: rows
//! 6 to 10 of the threat list in the documentation.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Lab, Mode, Outcome,
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
    refuses: false,
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

/// The machine's dynamic loader, and a program that needs it.
fn dynamic(lab: &Lab) -> Result<(PathBuf, PathBuf)> {
    let loader = fs::canonicalize("/lib64/ld-linux-x86-64.so.2").context("no dynamic loader")?;
    let echo = ["/usr/bin/echo", "/bin/echo"].into_iter().find(|path| Path::new(path).exists());
    let program = lab.path("forbidden/echo");
    fs::create_dir_all(lab.path("forbidden"))?;
    fs::copy(echo.context("no echo")?, &program)?;
    Ok((loader, program))
}

fn dynamic_loader_does_not_hide_its_program(lab: &Lab) -> Result<()> {
    let (loader, program) = dynamic(lab)?;
    let allowed = lab.path("allowed/echo");
    fs::create_dir_all(lab.path("allowed"))?;
    fs::copy(&program, &allowed)?;
    let loader_too = format!("allow = [\"{}\", ", loader.display());
    lab.policy(&PROGRAMS.replace("allow = [", &loader_too))?;
    for (program, forbidden) in [(&program, true), (&allowed, false)] {
        let words = ["exec".as_ref(), loader.as_os_str(), program.as_os_str(), "spoke".as_ref()];
        let outcome = lab.run(Mode::Enforce).actor(words)?;
        if forbidden {
            let mut violations = outcome.events.violations();
            let found = violations.any(|event| {
                event.names(&program.to_string_lossy()) && event.text("category") == "exec"
            });
            ensure!(found && !outcome.stdout.contains("spoke"), "{outcome}");
        } else {
            ensure!(outcome.stdout.contains("spoke"), "{outcome}");
            outcome.events.assert_quiet()?;
        }
    }
    Ok(())
}

fn memory_and_deleted_programs_have_no_name_to_be_allowed_by(lab: &Lab) -> Result<()> {
    let actor = lab.actor()?;
    let gone = lab.path("scratch/gone");
    fs::create_dir(lab.path("scratch"))?;
    let memory = ["memfd".as_ref(), actor.as_os_str(), "say".as_ref(), "hi".as_ref()];
    let deleted = [
        "exec-deleted".as_ref(),
        actor.as_os_str(),
        gone.as_os_str(),
        "say".as_ref(),
        "hi".as_ref(),
    ];
    lab.policy(PROGRAMS)?;
    for words in [&memory[..], &deleted[..]] {
        let outcome = lab.run(Mode::Enforce).actor(words)?;
        let mut violations = outcome.events.violations();
        let found = violations
            .find(|event| event.text("category") == "exec")
            .with_context(|| format!("no violation: {outcome}"))?;
        ensure!(found.field("fileless") == Some(&true.into()), "not flagged: {found}");
        ensure!(!outcome.stdout.contains("say=hi"), "{outcome}");
    }
    // Where everything may run they do, and are flagged.
    lab.policy(&PROGRAMS.replace("exec = \"deny\"", "exec = \"allow\""))?;
    for words in [&memory[..], &deleted[..]] {
        let twin = lab.run(Mode::Enforce).actor(words)?;
        ensure!(twin.stdout.contains("say=hi"), "{twin}");
        let flagged = twin.events.of("exec").any(|event| event.field("fileless").is_some());
        ensure!(flagged, "not flagged: {twin}");
    }
    Ok(())
}

fn long_argument_vector_is_flagged(lab: &Lab) -> Result<()> {
    lab.policy(&PROGRAMS.replace("exec = \"deny\"", "exec = \"allow\""))?;
    let actor = lab.actor()?;
    let run = |bytes: &str| -> Result<Outcome> {
        let words = ["exec-long".as_ref(), actor.as_os_str(), bytes.as_ref()];
        lab.run(Mode::Enforce).actor(words.into_iter().chain(["say".as_ref(), "hi".as_ref()]))
    };
    for (bytes, long) in [("1000", false), ("100000", true)] {
        let outcome = run(bytes)?;
        ensure!(outcome.stdout.contains("say=hi"), "{outcome}");
        let last = outcome.events.of("exec").last().context("no exec")?;
        ensure!(last.lists("flags", "argv_truncated") == long, "{bytes} bytes: {last}");
    }
    Ok(())
}

fn script_and_interpreter_are_both_recorded(lab: &Lab) -> Result<()> {
    lab.policy(PROGRAMS)?;
    let dir = lab.path("allowed");
    fs::create_dir(&dir)?;
    furnish(lab, &dir)?;
    let forbidden = lab.path("forbidden");
    fs::create_dir(&forbidden)?;
    fs::copy(lab.actor()?, forbidden.join("program"))?;
    let borrowed = dir.join("borrowed");
    executable(&borrowed, &format!("#!{}/program say\n", forbidden.display()))?;

    let script = dir.join("script");
    let twin = lab.run(Mode::Enforce).actor(["exec".as_ref(), script.as_os_str()])?;
    ensure!(twin.stdout.contains("ok say="), "{twin}");
    let exec = twin.events.of("exec").last().context("no exec")?;
    ensure!(exec.text("path") == script.to_string_lossy(), "{exec}");
    ensure!(exec.text("interpreter") == dir.join("program").to_string_lossy(), "{exec}");

    // An allowed script does not allow its interpreter.
    let outcome = lab.run(Mode::Enforce).actor(["exec".as_ref(), borrowed.as_os_str()])?;
    let mut violations = outcome.events.violations();
    ensure!(violations.any(|event| event.text("category") == "exec"), "{outcome}");
    ensure!(!outcome.stdout.contains("ok say="), "{outcome}");
    Ok(())
}
