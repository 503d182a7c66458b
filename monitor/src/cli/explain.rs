//! `mcp-monitor explain`: what would be decided about one access, by which rule, and what each
//! backend makes of it.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write},
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    slice,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use monitor_common::{
    network::{mapped_v4, protocol},
    policy::{Decision, access, reason, set, verdict},
};
use serde_json::{Value, json};

use super::{
    exit, finish,
    rule_options::{BackendOption, RuleOptions, effect, effect_on_arguments},
};
use crate::{
    event::World,
    kernel::Backend,
    replay::last_policy,
    rules::{
        self, Compiled, Explanation, Loaded, RuleRef, Standing, Subject, is_host_name,
        resolved_path,
    },
};

/// Says which rule decides about one access.
///
/// Examples: explain --server github read ~/.ssh/id_rsa; explain exec /usr/bin/git clone URL;
/// explain connect api.github.com:443; explain connect 10.0.0.1:53/udp; explain unix @/tmp/.X11-unix/X0
#[derive(Args)]
pub struct Arguments {
    /// What is asked
    #[arg(value_name = "ACCESS")]
    access: Access,
    /// A path, an address or host with its port (/tcp unless /udp), or @NAME of an abstract socket
    #[arg(value_name = "TARGET")]
    target: OsString,
    /// The arguments of a program, behind all options
    #[arg(value_name = "ARGUMENTS", allow_hyphen_values = true)]
    arguments: Vec<OsString>,
    #[command(flatten)]
    rules: RuleOptions,
    /// Ask the rules that were last in force in this recording (or --rules in their place), on the
    /// machine that it is from
    #[arg(long, value_name = "PATH", conflicts_with_all = ["home", "command"])]
    events: Option<PathBuf>,
    /// Whose abilities are shown
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    backend: BackendOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Access {
    Read,
    Write,
    Exec,
    Connect,
    Listen,
    Unix,
}

impl Access {
    fn bit(self) -> u8 {
        match self {
            Self::Read => access::READ,
            Self::Write => access::WRITE,
            Self::Exec => access::EXEC,
            Self::Connect => access::CONNECT,
            Self::Listen => access::LISTEN,
            Self::Unix => access::UNIX,
        }
    }
}

/// What is asked about, as the kernel would put it.
enum Target {
    Path(Vec<u8>),
    Address { address: [u8; 16], port: u16, protocol: u8 },
    Host { name: String, port: u16, protocol: u8 },
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    let target = target(arguments.access, &arguments.target).and_then(|target| {
        match (arguments.access, arguments.arguments.first()) {
            (Access::Exec, _) | (_, None) => Ok(target),
            (_, Some(first)) => bail!("{}: only programs have arguments", first.display()),
        }
    });
    let target = match target {
        Ok(target) => target,
        Err(error) => {
            let _ = writeln!(io::stderr(), "mcp-monitor: {error:#}");
            return ExitCode::from(exit::USAGE);
        }
    };
    finish(run(arguments, target).map(|()| 0))
}

fn target(access: Access, text: &OsStr) -> anyhow::Result<Target> {
    let bytes = text.as_bytes();
    let is_path = bytes.starts_with(b"/") || bytes.starts_with(b"@") || bytes.starts_with(b".");
    match access {
        Access::Connect => address(access, text),
        Access::Listen if !is_path => address(access, text),
        _ if bytes.starts_with(b"@") && matches!(access, Access::Unix | Access::Listen) => {
            Ok(Target::Path(bytes.to_vec()))
        }
        _ if bytes.is_empty() => bail!("a path is expected"),
        _ => Ok(Target::Path(bytes.to_vec())),
    }
}

/// The path as the kernel would put it, there where it is asked.
fn place_in(path: &[u8], world: Option<&World>) -> anyhow::Result<Vec<u8>> {
    if path.starts_with(b"@") {
        return Ok(path.to_vec());
    }
    let path = Path::new(OsStr::from_bytes(path));
    let path = match world {
        Some(world) => Path::new(OsStr::from_bytes(world.cwd.as_bytes())).join(path),
        None => std::path::absolute(path)?,
    };
    Ok(resolved_path(&path, world))
}

fn address(access: Access, text: &OsStr) -> anyhow::Result<Target> {
    let hint = match access {
        Access::Connect => {
            "write an address or a host with its port, such as 10.0.0.1:443, [::1]:53/udp or \
             api.github.com:443"
        }
        _ => "write an address with its port, such as 10.0.0.1:443 or [::1]:53/udp",
    };
    let text = text.to_str().context(hint)?;
    let (place, protocol) = match text.rsplit_once('/') {
        Some((place, "udp")) => (place, protocol::UDP),
        Some((place, "tcp")) => (place, protocol::TCP),
        _ => (text, protocol::TCP),
    };
    if let (Access::Connect, Some((name, port))) = (access, place.rsplit_once(':'))
        && is_host_name(name)
    {
        let port = port.parse().with_context(|| format!("{text:?}: {hint}"))?;
        return Ok(Target::Host { name: name.to_owned(), port, protocol });
    }
    let socket: SocketAddr = place.parse().with_context(|| format!("{text:?}: {hint}"))?;
    let address = match socket.ip() {
        IpAddr::V4(v4) => mapped_v4(u32::from(v4)),
        IpAddr::V6(v6) => v6.octets(),
    };
    Ok(Target::Address { address, port: socket.port(), protocol })
}

fn run(arguments: &Arguments, mut target: Target) -> anyhow::Result<()> {
    let (loaded, world) = load(arguments)?;
    let compiled = rules::compile(&loaded)?;
    let vector: Vec<&[u8]> = arguments.arguments.iter().map(|text| text.as_bytes()).collect();
    let (subject, labels) = match &mut target {
        Target::Path(path) => {
            *path = place_in(path, world.as_ref())?;
            // Which inodes carried labels elsewhere is not known; their paths say most of it.
            let labels = match world {
                Some(_) => 0,
                None => compiled.labels_of(Path::new(OsStr::from_bytes(path))),
            };
            match arguments.access {
                // What an interpreter runs has no arguments of its own.
                Access::Exec if world.is_none() && is_script(path) => (Subject::Path(path), labels),
                Access::Exec => (Subject::Program { path, arguments: &vector }, labels),
                _ => (Subject::Path(path), labels),
            }
        }
        Target::Address { address, port, protocol } => {
            (Subject::Address { address: *address, port: *port, protocol: *protocol }, 0)
        }
        Target::Host { name, port, protocol } => {
            (Subject::Host { name, port: Some((*port, *protocol)) }, 0)
        }
    };
    let explanation = compiled.explain(subject, labels, arguments.access.bit());
    if arguments.json {
        print_json(arguments, &target, &loaded, &compiled, &explanation)?;
    } else {
        print_text(arguments, &target, &loaded, &explanation)?;
        if let Target::Host { name, .. } = &target {
            print_host(&compiled, name, explanation.decision)?;
        }
    }
    Ok(())
}

/// Whether a file is there that the processor does not run by itself.
fn is_script(path: &[u8]) -> bool {
    let mut head = [0; 4];
    let opened = File::open(OsStr::from_bytes(path));
    opened.is_ok_and(|mut file| file.read_exact(&mut head).is_err() || head != *b"\x7fELF")
}

/// A script that rules name with arguments, which are those of its interpreter.
fn is_refused_script(arguments: &Arguments, target: &Target, explanation: &Explanation) -> bool {
    let Target::Path(path) = target else { return false };
    let unnamed = explanation.decision.reason == reason::ARGUMENTS;
    unnamed && arguments.events.is_none() && is_script(path)
}

/// What a backend makes of the decision.
fn outcome(backend: Backend, decision: Decision, script: bool) -> String {
    let Decision { verdict, access, .. } = decision;
    match (decision.reason, backend) {
        (reason::ARGUMENTS, Backend::Tracepoint) if script => {
            "allowed: this backend judges the interpreter alone".to_owned()
        }
        (reason::ARGUMENTS, _) if !script => effect_on_arguments(verdict),
        _ => effect(backend, access, verdict),
    }
}

/// The rules that are asked, and the machine that they are from when it is another one.
fn load(arguments: &Arguments) -> anyhow::Result<(Loaded, Option<World>)> {
    let server = arguments.rules.server.as_deref();
    let Some(path) = &arguments.events else {
        let bindings = arguments.rules.bindings()?;
        return Ok((rules::load(&arguments.rules.search()?, server, &bindings)?, None));
    };
    let policy = last_policy(slice::from_ref(path), server)?;
    let Some(loaded) = rules::load_recorded(&policy, arguments.rules.directory()?)? else {
        bail!("{}: the recording lacks what its rules need", path.display());
    };
    Ok((loaded, policy.world))
}

fn shown(arguments: &Arguments, target: &Target) -> String {
    match target {
        Target::Path(path) => path.escape_ascii().to_string(),
        Target::Address { .. } | Target::Host { .. } => {
            arguments.target.as_bytes().escape_ascii().to_string()
        }
    }
}

fn verdict_name(explanation: &Explanation) -> &'static str {
    verdict::NAMES.get(usize::from(explanation.decision.verdict)).copied().unwrap_or("deny")
}

fn place(rule: &RuleRef) -> String {
    match rule.line {
        0 => format!("{} is not said in {}, so it is {}", rule.list, rule.file, rule.text),
        line => format!("{} {:?} ({}:{line})", rule.list, rule.text, rule.file),
    }
}

fn print_text(
    arguments: &Arguments,
    target: &Target,
    loaded: &Loaded,
    explanation: &Explanation,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let script = is_refused_script(arguments, target, explanation);
    let asked = explanation.decision.access.trailing_zeros() as usize;
    let target = shown(arguments, target);
    writeln!(out, "{}: {} {target}", verdict_name(explanation), access::NAMES[asked])?;
    if loaded.is_default {
        writeln!(out, "  there are no rules for {}: the default policy", loaded.server)?;
    }
    if arguments.target.as_bytes().escape_ascii().to_string() != target {
        writeln!(out, "  written as {}", arguments.target.as_bytes().escape_ascii())?;
    }
    if let Some(rule) = &explanation.by {
        writeln!(out, "  decided by {}", place(rule))?;
    }
    for rule in explanation.matching.iter().filter(|rule| Some(*rule) != explanation.by.as_ref()) {
        writeln!(out, "  also in    {}", place(rule))?;
    }
    if script {
        writeln!(
            out,
            "  it is a script: name its arguments at its interpreter, and it in exec.allow"
        )?;
    }
    if loaded.mode == rules::Mode::Observe {
        writeln!(out, "  mode observe: nothing is refused, the verdict is recorded")?;
    }
    for backend in arguments.backend.backends() {
        writeln!(out, "  {backend}: {}", outcome(*backend, explanation.decision, script))?;
    }
    Ok(())
}

/// What there is to say about a host besides.
fn print_host(compiled: &Compiled, name: &str, decision: Decision) -> io::Result<()> {
    let naming = compiled.judge_name(name, &[]);
    let told = match naming.standing {
        Standing::Named if decision.verdict > verdict::ALLOW => "it is named, with other ports",
        Standing::Named => {
            "its addresses are let in as the agent's answers give them, unless private"
        }
        _ if compiled.refuses_unnamed() => "the question for its address is refused",
        _ => "no rule names it: its address decides, here taken for a public one",
    };
    writeln!(io::stdout(), "  {told}")
}

fn print_json(
    arguments: &Arguments,
    target: &Target,
    loaded: &Loaded,
    compiled: &Compiled,
    explanation: &Explanation,
) -> io::Result<()> {
    let rule = |rule: &RuleRef| json!({"file": rule.file, "line": rule.line, "list": rule.list, "text": rule.text});
    let script = is_refused_script(arguments, target, explanation);
    let sets: Vec<&str> = (0..set::COUNT)
        .filter(|set| explanation.classes & monitor_common::policy::class::of_set(*set) != 0)
        .map(|set| set::NAMES[set])
        .collect();
    let asked = explanation.decision.access.trailing_zeros() as usize;
    let mut value = json!({
        "server": loaded.server,
        "access": access::NAMES[asked],
        "target": shown(arguments, target),
        "verdict": verdict_name(explanation),
        "mode": loaded.mode.to_string(),
        "sets": sets,
        "rule": explanation.by.as_ref().map(rule),
        "matching": explanation.matching.iter().map(rule).collect::<Vec<Value>>(),
        "states": compiled.tables.iter().map(|table| table.states).collect::<Vec<_>>(),
    });
    for backend in arguments.backend.backends() {
        let effect = outcome(*backend, explanation.decision, script);
        value["backends"][backend.to_string()] = json!(effect);
    }
    writeln!(io::stdout(), "{value:#}")
}
