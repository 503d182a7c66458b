//! `cargo xtask fuzz`: the fuzz targets of `monitor/fuzz`, each for a while.
//!
//! Each begins with `seeds/NAME`. What makes coverage grow stays in `target/fuzz/corpus`, what crashes a target in
//! `target/fuzz/artifacts`; a crash becomes a test with that input.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{run, say};
use crate::{setup, workspace};

/// What to fuzz.
#[derive(Args)]
pub struct Options {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs the targets one after the other; the first crash is an error.
pub fn targets(options: &Options) -> Result<()> {
    setup::cplusplus()?;
    let all = names()?;
    let wanted = match &options.target {
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("`{name}` is no fuzz target: {}", all.join(", ")),
        None => all,
    };
    for name in wanted {
        say(format!("fuzzing {name} for {} seconds", options.seconds));
        fuzz(&name, options.seconds)?;
    }
    Ok(())
}

fn fuzz(name: &str, seconds: u32) -> Result<()> {
    let corpus = workspace::target().join("fuzz/corpus").join(name);
    let artifacts = workspace::target().join("fuzz/artifacts").join(name);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut command = Command::new("cargo");
    // The instrumentation stands in this folder's .cargo/config.toml, which these would replace.
    command.current_dir(folder()).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("CARGO_TARGET_DIR", workspace::target().join("fuzz"));
    command.args(["run", "--quiet", "--release", "--bin", name, "--"]).arg(&corpus);
    // Only the first folder is written to.
    command.args(Some(folder().join("seeds").join(name)).filter(|seeds| seeds.is_dir()));
    let seeds = folder().join("seeds").join(name);
    command.args(seeds.is_dir().then_some(seeds));
    command.args([format!("-max_total_time={seconds}"), "-timeout=10".into()]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg("-print_final_stats=1");
    run(&mut command)
}

fn names() -> Result<Vec<String>> {
    let sources = folder().join("fuzz_targets");
    let entries = fs::read_dir(&sources)
        .with_context(|| format!("cannot list the fuzz targets in {}", sources.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut names: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn folder() -> PathBuf {
    workspace::root().join("monitor/fuzz")
}
