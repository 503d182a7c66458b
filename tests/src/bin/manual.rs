//! Writes what a package holds besides the program: manual pages, completions of shells, and the
//! agent's configuration with its defaults. All of it comes from the program's own definitions.
//!
//! ```text
//! manual FOLDER     # FOLDER/man/*.1, FOLDER/completions/*, FOLDER/agent.toml
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap_complete::Shell;
use mcp_monitor::{agent::config::Config, cli};

const NAME: &str = "mcp-monitor";

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).context("usage: manual FOLDER")?;
    let folder = PathBuf::from(folder);
    pages(&folder.join("man"))?;
    completions(&folder.join("completions"))?;
    let file = folder.join("agent.toml");
    fs::write(&file, Config::default().text()?).with_context(|| file.display().to_string())
}

/// A page for the program and one for each verb: `mcp-monitor-run(1)`.
fn pages(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(cli::command(), folder).context("cannot write the manual pages")
}

/// Under the names by which the shells look for them.
fn completions(folder: &Path) -> Result<()> {
    for (shell, place) in [
        (Shell::Bash, "bash/mcp-monitor"),
        (Shell::Zsh, "zsh/_mcp-monitor"),
        (Shell::Fish, "fish/mcp-monitor.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut cli::command(), NAME, &mut text);
        let file = folder.join(place);
        fs::create_dir_all(file.parent().context("a place without a folder")?)?;
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
