//! Where rules are looked for.

use std::path::{Path, PathBuf};

/// Directories of rules, strongest first; behind them stands the copy inside the binary. What an
/// earlier one lacks, a later one fills in.
#[derive(Clone, Debug)]
pub struct SearchPath {
    directories: Vec<PathBuf>,
}

impl SearchPath {
    /// `--rules DIR` (when given), then `/etc/mcp-monitor/rules.d`, then
    /// `/usr/share/mcp-monitor/rules`, then the copy inside the binary.
    pub fn new(rules: Option<&Path>) -> Self {
        let fixed = ["/etc/mcp-monitor/rules.d", "/usr/share/mcp-monitor/rules"];
        let directories = rules.into_iter().map(Path::to_path_buf);
        Self { directories: directories.chain(fixed.map(PathBuf::from)).collect() }
    }
}
