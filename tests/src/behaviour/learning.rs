//! Rules that are learned from a real server's work allow that work, and nothing that it did not do.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::demo::turncoat::{Reach, attempt};
use crate::demo::{SERVER, Scene, honest};
use crate::run::MARKER;
use crate::{Lab, Mode};

use super::real_server::{block_on, installed};

crate::tests! {
    both: [
        learned_work_is_quiet_under_what_was_learned,
        what_was_not_done_is_stopped_by_what_was_learned,
        secrets_are_told_and_not_learned,
    ],
}

/// The server's task, recorded and learned from; the rules directory.
fn learned(lab: &Lab, scene: &Scene) -> Result<std::path::PathBuf> {
    let script = honest::script(&installed()?)?;
    let honest = block_on(honest::perform(scene, &script))?;
    honest.verify()?;
    let text = learn(lab, &[scene.recording("honest.jsonl").as_os_str()])?;
    fs::remove_file(scene.recording("honest.jsonl"))?;
    let rules = lab.folder().join("learned");
    fs::create_dir_all(rules.join("servers"))?;
    fs::write(rules.join("servers").join(format!("{SERVER}.toml")), text)?;
    Ok(rules)
}

fn learn(lab: &Lab, arguments: &[&std::ffi::OsStr]) -> Result<String> {
    let mut command = Command::new(lab.monitor()?);
    let output = command.arg("learn").args(arguments).output();
    let output = output.context("cannot start mcp-monitor learn")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn scene(lab: &Lab, name: &str) -> Result<Scene> {
    let folder = lab.folder().join(name);
    fs::create_dir(&folder)?;
    let scene = Scene::new(&folder, &lab.monitor()?, Some(lab.backend()))?;
    Ok(scene.env(MARKER, lab.marker()))
}

fn learned_work_is_quiet_under_what_was_learned(lab: &Lab) -> Result<()> {
    let rules = learned(lab, &scene(lab, "first")?)?;
    // Another home, another project, other names of temporary files.
    let again = scene(lab, "second")?.rules(&rules);
    let script = honest::script(&installed()?)?;
    let honest = block_on(honest::perform(&again, &script))?;
    let policies = honest.events.header()?.field("policies").context("no policies")?;
    let used = policies[0]["sources"][0]["path"].as_str().unwrap_or_default();
    ensure!(Path::new(used).starts_with(&rules), "other rules were used: {used}");
    honest.verify()
}

fn what_was_not_done_is_stopped_by_what_was_learned(lab: &Lab) -> Result<()> {
    let rules = learned(lab, &scene(lab, "first")?)?;
    let scene = scene(lab, "second")?.rules(&rules);
    block_on(async { attempt(&scene, Reach::Key, true).await?.verify_stopped() })
}

fn secrets_are_told_and_not_learned(lab: &Lab) -> Result<()> {
    let key = lab.file(".ssh/id_ed25519", "not a key")?;
    let notes = lab.file("notes.txt", "notes")?;
    let script = format!("cat {} {}", key.display(), notes.display());
    lab.run(Mode::Observe).command(["/bin/sh", "-c", &script])?;
    let recording = lab.folder().join("events-1.jsonl");
    let text = learn(lab, &["--server".as_ref(), "s".as_ref(), recording.as_os_str()])?;
    let is_rule = |line: &str| line.trim_start().starts_with('"');
    let rules: Vec<&str> = text.lines().filter(|line| is_rule(line)).collect();
    ensure!(rules.iter().any(|line| line.contains("notes.txt")), "{text}");
    ensure!(!rules.iter().any(|line| line.contains(".ssh")), "{text}");
    ensure!(text.contains("# secrets: read \"${HOME}/.ssh/id_ed25519\""), "{text}");
    ensure!(Path::new(&recording).exists(), "a reading verb has removed it");
    Ok(())
}
