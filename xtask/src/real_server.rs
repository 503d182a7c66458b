//! A real MCP server, for the demo and for the tests of the rules that come with the product.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command::{run, say};
use crate::{setup, workspace};

const PACKAGE: &str = "@modelcontextprotocol/server-filesystem";
/// The one that the rules were tried with.
const VERSION: &str = "2026.8.31";

/// The folder with the server's `node_modules`; npm installs it there if it is missing.
pub fn installed() -> Result<PathBuf> {
    setup::node()?;
    let folder = workspace::target().join("real-servers").join(VERSION);
    if folder.join("node_modules").join(PACKAGE).join("dist/index.js").is_file() {
        return Ok(folder);
    }
    say(format!("npm installs {PACKAGE} into {}", folder.display()));
    std::fs::create_dir_all(&folder)?;
    let mut npm = Command::new("npm");
    npm.arg("install").arg("--prefix").arg(&folder);
    npm.args(["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
    run(npm.args(["--loglevel", "error"]).arg(format!("{PACKAGE}@{VERSION}")))?;
    Ok(folder)
}
