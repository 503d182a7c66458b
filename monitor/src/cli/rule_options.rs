//! Options of the verbs that read rules without starting a server.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use monitor_common::policy::{access, verdict};

use crate::{
    kernel::Backend,
    launch::Account,
    rules::{Bindings, SearchPath},
};

/// Where rules come from and what their variables mean.
#[derive(Args)]
pub struct RuleOptions {
    /// Look for rules here first
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// The rules of this server (servers/NAME.toml)
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// What ${HOME} in rules means [default: the user's home in passwd]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// The server's command, for variables that depend on it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl RuleOptions {
    /// The search path.
    pub fn search(&self) -> anyhow::Result<SearchPath> {
        Ok(SearchPath::new(self.directory()?))
    }

    /// What --rules names.
    pub fn directory(&self) -> anyhow::Result<Option<&Path>> {
        is_directory(self.rules.as_deref())
    }

    /// Values of variables for the person who asks.
    pub fn bindings(&self) -> anyhow::Result<Bindings> {
        let uid = Account::of_caller()?.uid.as_raw();
        Ok(Bindings::of_user(uid, self.home.as_deref(), &self.command)?)
    }
}

/// Refuses a --rules that is no directory.
pub fn is_directory(rules: Option<&Path>) -> anyhow::Result<Option<&Path>> {
    match rules {
        Some(rules) if !rules.is_dir() => {
            anyhow::bail!("--rules {}: not a directory", rules.display())
        }
        rules => Ok(rules),
    }
}

/// Whose abilities are shown.
#[derive(Clone, Copy, ValueEnum)]
pub enum BackendOption {
    /// Each of them
    Auto,
    /// BPF LSM
    Lsm,
    /// Tracepoints and cgroup hooks
    Tracepoint,
}

impl BackendOption {
    /// The backends meant.
    pub fn backends(self) -> &'static [Backend] {
        match self {
            Self::Auto => &[Backend::Lsm, Backend::Tracepoint],
            Self::Lsm => &[Backend::Lsm],
            Self::Tracepoint => &[Backend::Tracepoint],
        }
    }
}

/// What a backend makes of a verdict in enforce mode, in words.
pub fn effect(backend: Backend, asked: u8, verdict: u8) -> String {
    let end = match verdict {
        verdict::ALLOW => return "allowed".to_owned(),
        verdict::ALERT => return "allowed and reported".to_owned(),
        verdict::KILL => ", and the process is killed",
        verdict::KILL_TREE => ", and the whole tree is killed",
        _ => "",
    };
    if backend == Backend::Lsm {
        return format!("refused{end}");
    }
    // Whatever could not be refused ends the tree, see docs/run.md.
    let killed = ": the process is killed in the kernel, then the whole tree";
    match asked {
        access::CONNECT => format!("refused{end}"),
        access::READ => format!(
            "not refused{killed}, right after the open; threads that share its descriptors may \
             have read"
        ),
        access::WRITE => format!("not refused{killed}, after the change took effect"),
        access::EXEC => format!("not refused{killed}, as the program starts"),
        access::LISTEN => format!("not refused{killed}, once it listens"),
        _ => format!("not refused{killed}, judged by the name that the call gave"),
    }
}

/// What every backend makes of a verdict on the arguments of a program.
pub fn effect_on_arguments(verdict: u8) -> String {
    let end = if verdict == verdict::KILL_TREE { ", and the whole tree" } else { "" };
    match verdict {
        verdict::ALLOW => "allowed".to_owned(),
        verdict::ALERT => "allowed and reported".to_owned(),
        _ => format!("killed before the program runs an instruction{end}"),
    }
}
