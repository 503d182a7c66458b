//! The smallest monitor: launches, handles signals, ends. No kernel programs.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::AsFd as _,
    process::ExitCode,
};

use mcp_monitor::launch::{self, Account, Cgroup, Environment, Program, Tree, signals::Signals};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Makes the launcher's `watch` step fail, as a full tag table would.
pub const WATCH_FAILS: &str = "LAUNCH_TEST_WATCH_FAILS";

/// File that names a process which has left the cgroup, as the kernel's table of tags would.
pub const STRAY: &str = "LAUNCH_TEST_STRAY";

pub fn main(command: &[OsString]) -> ExitCode {
    match run(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("launch: {error:#}");
            let code = error.downcast_ref().map_or(125, launch::LaunchError::exit_code);
            ExitCode::from(code)
        }
    }
}

fn run(command: &[OsString]) -> anyhow::Result<u8> {
    let signals = Signals::block()?;
    let account = Account::of_caller()?;
    let number = || std::process::id();
    let (instance, cgroup) = Cgroup::create(number)?;
    eprintln!("cgroup={}", cgroup.path().display());
    let watch = |_| match std::env::var_os(WATCH_FAILS).as_deref() == Some(OsStr::new("1")) {
        true => Err(io::Error::other(format!("instance {instance} cannot be tagged"))),
        false => Ok(()),
    };
    let tree = Tree::new(cgroup, Box::new(strays));
    let environment = Environment::new(std::env::vars_os(), &BTreeSet::new(), false);
    let inherited = signals.inherited();
    let program = Program { command, environment: &environment, account: &account, inherited };
    let mut server = launch::start(program, tree, watch)?;
    eprintln!("server={}", server.pid());
    eprintln!("guard={}", server.guard_pid());
    eprintln!("capabilities={}", server.undoing_capabilities().unwrap_or_default().join(","));
    launch::let_go_of_streams(&File::open("/dev/null")?)?;
    let ended = loop {
        poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        if let Some(ended) = server.handle(&signals)? {
            break ended;
        }
    };
    eprintln!("left={}", server.tree().end()?);
    Ok(ended.exit_code())
}

fn strays() -> Vec<u32> {
    let read = |path| std::fs::read_to_string(path).ok();
    let text = std::env::var_os(STRAY).and_then(read).unwrap_or_default();
    let alive = |tgid: &u32| std::fs::metadata(format!("/proc/{tgid}/exe")).is_ok();
    text.lines().filter_map(|line| line.parse().ok()).filter(alive).collect()
}
