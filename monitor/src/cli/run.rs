//! `mcp-monitor run`: starts one server under watch and is otherwise not there.
//!
//! What can fail without the server is done first: rules, privileges, kernel programs, the
//! recording. Only then a process is made. Whatever fails, nothing of it stays behind.

mod by_agent;
mod watch;

use std::{
    ffi::OsString,
    fs::File,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use ed25519_dalek::SigningKey;
use monitor_common::record::Record;

use self::watch::Run;
use super::rule_options::is_directory;
use crate::{
    enrich::{Clock, Enricher},
    event::{PolicyText, Privacy, Veil},
    kernel::{self, Backend, Kernel, KernelError, Options},
    launch::{
        self, Account, Cgroup, Ended, Environment, LaunchError, Program, Server, Tree, handed,
        signals::Signals,
    },
    names::Service,
    pipeline::{Pipeline, Sinks},
    rules::{self, Bindings, Compiled, Loaded, Mode, SearchPath},
    segment::{Header, key},
    sink::{
        recording::{Destination, RecordingOptions, SegmentWriter, Sync},
        stderr::Stderr,
        summary::Summary,
        terminal::{Terminal, shows_colour},
    },
};

/// Exit code of the monitor's own failures.
pub(super) const FAILED: u8 = 125;
/// Number of the only policy of a run.
const POLICY: u32 = 1;

/// Starts an MCP server under watch.
///
/// Standard input and output are the server's own, and so are signals and the exit code (128 +
/// signal when it was killed; 125 when the monitor itself fails, 126 and 127 when the command
/// cannot be run or found). When the server's first process ends, what it left running is ended.
#[derive(Args)]
pub struct Arguments {
    /// Use the rules of this server (servers/NAME.toml) [default: the built-in default policy]
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Look for rules here first
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Record verdicts, or carry them out [default: what the rules say]
    #[arg(long, value_name = "MODE")]
    mode: Option<ModeArgument>,
    /// How the kernel is asked
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    backend: BackendArgument,
    /// What ${HOME} in rules means [default: the user's home in passwd]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Record events here [default: a bounded recording in $XDG_STATE_HOME/mcp-monitor]
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// What of the arguments of programs is recorded and shown
    #[arg(long, value_name = "HOW", default_value = "full")]
    privacy: Privacy,
    /// When the recording waits for the disk
    #[arg(long, value_name = "WHEN", default_value = "checkpoint")]
    sync: Sync,
    /// Sign checkpoints of the recording with this key; made when missing
    #[arg(long, value_name = "FILE", default_value = key::HOST_KEY)]
    key: PathBuf,
    /// Print what the kernel programs log about their own faults
    #[arg(long)]
    diagnostics: bool,
    #[command(flatten)]
    agent: super::ask::Agent,
    /// The server's command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArgument {
    Observe,
    Enforce,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendArgument {
    Auto,
    Lsm,
    Tracepoint,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&super::describe(&error));
            ExitCode::from(error.downcast_ref().map_or(FAILED, LaunchError::exit_code))
        }
    }
}

/// A line to people before the server runs. That nobody reads it changes nothing.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "mcp-monitor: {text}");
}

fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        return run_by_agent(arguments);
    }
    // Before anything is opened here.
    let handed = handed::files();
    let account = Account::of_caller()?;
    let (loaded, compiled) = load_rules(arguments, &account)?;
    check_privileges()?;
    let signals = Signals::block().context("cannot take over signals")?;
    let mut kernel = load_kernel(arguments, loaded.mode)?;
    if compiled.answers_dns() {
        kernel.attach_dns()?;
    }
    let (instance, cgroup) = Cgroup::create(random)?;
    cgroup.limit(&loaded.resources)?;
    let options = RecordingOptions {
        privacy: arguments.privacy,
        sync: arguments.sync,
        key: arguments.key.clone(),
        ..RecordingOptions::default()
    };
    let key = signing_key(&options.key);
    let veil = Veil::new(options.privacy, key.as_ref().map(SigningKey::as_bytes))?;
    let policy = veil.policy(loaded.text(POLICY, instance));
    let recording = open_recording(arguments, &account, policy, &kernel, options, key)?;
    let slot = kernel.install(POLICY, &compiled)?;
    kernel.label_all(&compiled.labels)?;
    kernel.label_all(&compiled.labels_of_homes)?;
    let compiled = Arc::new(compiled);
    let names = compiled
        .answers_dns()
        .then(|| Service::start(&mut kernel, instance, POLICY, slot, compiled.clone()));

    if let Some(signal) = signals.asked_to_end()? {
        return Ok(Ended::Killed(signal).exit_code());
    }
    let is_root = account.is_root();
    let (rings, tags) = (kernel.take_rings()?, kernel.take_tags()?);
    let tree = Tree::new(cgroup, Box::new(move || tags.members(instance)));
    kernel::give_memory_back();
    let environment =
        Environment::new(std::env::vars_os(), &loaded.pass, loaded.mode == Mode::Enforce);
    let program = Program {
        command: &arguments.command,
        environment: &environment,
        account: &account,
        inherited: signals.inherited(),
    };
    let resolver = names.as_ref().map_or(0, Service::port);
    let bind = |kernel: &mut Kernel| {
        kernel.bind(instance, slot)?;
        kernel.answer_dns(instance, resolver);
        Ok(())
    };
    let server = start(program, tree, &mut kernel, instance, bind)?;
    let mut enricher = Enricher::new(recording.next_seq(), Clock::measure());
    enricher.name(instance, &loaded.server);
    enricher.veil(veil);
    let terminal = Terminal::new(Stderr::new(), shows_colour(&io::stderr()));
    let terminal = terminal.with_checkpoints(!io::stderr().is_terminal());
    let sinks = Sinks { recording, terminal, audience: Summary::default(), account };
    let mut pipeline = Pipeline::new(rings, enricher, sinks);
    pipeline.explain(POLICY, compiled.clone());
    for file in &handed {
        if let Some((record, path)) = file.record(&compiled, server.pid().as_raw() as u32) {
            pipeline.told(Record { instance, policy: POLICY, ..record }, [path, &[], &[], &[]]);
        }
    }
    if let Some(message) = environment.message() {
        pipeline.agent(instance, "environment", &message);
    }
    let name = loaded.server;
    Run { server, pipeline, signals, kernel, names, instance, name, sentenced: false }
        .watch(is_root)
}

/// Without the rights to load programs, the agent has to.
fn run_by_agent(arguments: &Arguments) -> anyhow::Result<u8> {
    for (given, option) in [
        (arguments.rules.is_some(), "--rules"),
        (arguments.events.is_some(), "--events"),
        (arguments.diagnostics, "--diagnostics"),
    ] {
        if given {
            bail!("{option} is for root: the agent's rules and recording are the host's");
        }
    }
    by_agent::run(arguments, &arguments.agent.socket()?)
}

fn load_rules(arguments: &Arguments, account: &Account) -> anyhow::Result<(Loaded, Compiled)> {
    let uid = account.uid.as_raw();
    let bindings = Bindings::of_user(uid, arguments.home.as_deref(), &arguments.command)?;
    let search = SearchPath::new(is_directory(arguments.rules.as_deref())?);
    let mut loaded = rules::load(&search, arguments.server.as_deref(), &bindings)?;
    for warning in &loaded.warnings {
        say(&warning.to_string());
    }
    if !loaded.open.is_empty() {
        let names: Vec<String> = loaded.open.iter().map(|name| format!("${{{name}}}")).collect();
        let names = names.join(", ");
        say(&format!("what the rules allow by {names} is left out: this start gives no value"));
    }
    if let (true, Some(server)) = (loaded.is_default, &arguments.server) {
        if matches!(arguments.mode, Some(ModeArgument::Enforce)) {
            bail!(
                "there are no rules for server {server} to enforce: write servers/{server}.toml \
                 in a rules directory and name that with --rules, or leave out --mode enforce"
            );
        }
        say(&format!("there are no rules for server {server}: the default policy is used"));
    }
    match arguments.mode {
        Some(ModeArgument::Observe) => loaded.mode = Mode::Observe,
        Some(ModeArgument::Enforce) => loaded.mode = Mode::Enforce,
        None => {}
    }
    let compiled = rules::compile(&loaded)?;
    Ok((loaded, compiled))
}

fn check_privileges() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(KernelError::Privileges);
    }
    if launch::cgroup::is_inside_an_instance() {
        bail!("this process belongs to a server under watch: start mcp-monitor from outside");
    }
    Ok(())
}

fn load_kernel(arguments: &Arguments, mode: Mode) -> anyhow::Result<Kernel> {
    let backend = match arguments.backend {
        BackendArgument::Auto => None,
        BackendArgument::Lsm => Some(Backend::Lsm),
        BackendArgument::Tracepoint => Some(Backend::Tracepoint),
    };
    let kernel =
        Kernel::load(&Options { backend, diagnostics: arguments.diagnostics, pins: None })?;
    if let Some(reason) = kernel.passed_over() {
        say(&format!("using the tracepoint backend, because {reason}"));
    }
    if kernel.backend() == Backend::Tracepoint && mode == Mode::Enforce {
        say("this backend refuses network calls; files and programs it judges after the call, \
             and kills the server instead of refusing");
    }
    Ok(kernel)
}

/// Numbers of instances; never 0, which means none.
fn random() -> u32 {
    (RandomState::new().build_hasher().finish() as u32).max(1)
}

fn open_recording(
    arguments: &Arguments,
    account: &Account,
    policy: PolicyText,
    kernel: &Kernel,
    options: RecordingOptions,
    key: Option<SigningKey>,
) -> anyhow::Result<SegmentWriter> {
    let mut header = Header::of_host(&kernel.backend().to_string(), kernel.hooks())
        .context("cannot describe this machine")?;
    let destination = match &arguments.events {
        Some(file) => Destination::File(file.clone()),
        None => default_recording(account, &policy.server, policy.instance),
    };
    header.policies = vec![policy];
    let _identity = account.assume_for_files();
    SegmentWriter::open(destination, header, options, key).map_err(|error| {
        anyhow!("{error}: name a file that user {} may write with --events", account.name)
    })
}

/// The key of the host, which the server cannot read unless it is root. Without one the server is
/// watched all the same.
fn signing_key(path: &Path) -> Option<SigningKey> {
    key::open(path).inspect_err(|error| say(&format!("the recording is not signed: {error}"))).ok()
}

fn default_recording(account: &Account, server: &str, instance: u32) -> Destination {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|path| path.is_absolute());
    let state = state.unwrap_or_else(|| account.home.join(".local/state"));
    Destination::Directory {
        directory: state.join("mcp-monitor"),
        stream: format!("{server}-{instance}"),
    }
}

fn start(
    program: Program<'_>,
    tree: Tree,
    kernel: &mut Kernel,
    instance: u32,
    bind: impl FnOnce(&mut Kernel) -> Result<(), KernelError>,
) -> anyhow::Result<Server> {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.context("cannot open /dev/null")?;
    let put_under_watch = |child: nix::unistd::Pid| {
        bind(kernel)?;
        kernel.tag(child.as_raw() as u32, instance)
    };
    let server = launch::start(program, tree, put_under_watch)?;
    launch::let_go_of_streams(&null)?;
    Ok(server)
}
