//! Recordings of several hosts in an engine that is not ours: the statements of `docs/fleet.md`,
//! run as they stand there by DuckDB.

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::MARKER;
use crate::{Lab, Mode, skip};

// DuckDB is on the host alone, and the host has the tracepoint backend.
crate::tests! {
    tracepoint: [duckdb_answers_the_questions_of_the_documentation],
}

const DOCUMENTATION: &str = include_str!("../../../docs/fleet.md");
const SCRIPT: &str = include_str!("../../fixtures/fleet.py");

fn duckdb_answers_the_questions_of_the_documentation(lab: &Lab) -> Result<()> {
    let Some(python) = env::var_os("MCP_MONITOR_DUCKDB") else {
        return skip("no DuckDB here: `cargo xtask test` installs it, with python3 and pip");
    };
    let key = lab.file(".ssh/id_ed25519", "not a key")?;
    let quiet = lab.file("notes.txt", "plain")?;
    let script = format!("cat {}; exec 3<>/dev/tcp/127.0.0.1/9", key.display());
    let outcome = lab.run(Mode::Observe).command(["/bin/bash", "-c", &script])?;
    outcome.events.violation("open", "secret", &key)?;
    lab.run(Mode::Observe).command(["/bin/cat".as_ref(), quiet.as_os_str()])?;

    // Three hosts: the second is the first with a contact beyond its machine, the third is honest.
    let fleet = tempfile::tempdir_in(lab.folder())?;
    let recording = |number: u32| fs::read_to_string(lab.folder().join(format!("events-{number}.jsonl")));
    place(fleet.path(), "near", &recording(1)?)?;
    place(fleet.path(), "far", &recording(1)?.replace("127.0.0.1", "203.0.113.7"))?;
    place(fleet.path(), "honest", &recording(2)?)?;
    let answers = ask(lab, Path::new(&python), fleet.path())?;

    let [_, _, alarmed, left, rare, lost] = answers.as_slice() else {
        anyhow::bail!("{} statements", answers.len());
    };
    let secret = alarmed.iter().find(|row| row[0] == "secret").context("no alert is told")?;
    ensure!(secret[2] == "2", "on two of three hosts: {secret:?}");
    let key = key.to_string_lossy();
    ensure!(!left.is_empty(), "nothing could have left");
    for row in left {
        ensure!(row[0] == "far" && row[2] == key && row[3] == "203.0.113.7", "{row:?}");
    }
    ensure!(rare.iter().any(|row| row[1] == "203.0.113.7" && row[3] == "far"), "{rare:?}");
    ensure!(lost.is_empty(), "{lost:?}");
    Ok(())
}

/// A recording as one of another host: its header names it, and each boot has an id of its own.
fn place(fleet: &Path, host: &str, recording: &str) -> Result<()> {
    let directory = fleet.join("fleet").join(host);
    fs::create_dir_all(&directory)?;
    let (header, events) = recording.split_once('\n').context("a recording has a header")?;
    let mut header: serde_json::Value = serde_json::from_str(header)?;
    header["host"] = host.into();
    header["boot_id"] = format!("boot of {host}").into();
    fs::write(directory.join("run.000001.jsonl"), format!("{header}\n{events}"))?;
    Ok(())
}

/// The rows of each statement.
fn ask(lab: &Lab, python: &Path, fleet: &Path) -> Result<Vec<Vec<Vec<String>>>> {
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).current_dir(fleet).env(MARKER, lab.marker());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start Python")?;
    child.stdin.take().context("has standard input")?.write_all(DOCUMENTATION.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
