//! The `mcp-monitor` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mcp_monitor::cli::main()
}
