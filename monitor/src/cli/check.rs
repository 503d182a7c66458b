//! `mcp-monitor check`: what is wrong with rules, what they stand for on this machine, and what
//! each backend can enforce of them.

use std::{
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
};

use clap::Args;
use monitor_common::policy::{access, verdict};
use serde_json::{Value, json};

use super::{
    exit,
    rule_options::{BackendOption, RuleOptions, effect},
};
use crate::{
    kernel::Backend,
    rules::{
        self, Blind, Compiled, Finding, Loaded, RuleError, Severity, SourceKind, lint, lint_servers,
    },
};

/// Checks rules without starting anything.
///
/// Without --server all servers, includes and sets are checked. Exit code 1 when there is
/// something to say about them.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    rules: RuleOptions,
    /// Whose abilities are shown
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    backend: BackendOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of rule files, for editors, and check nothing
    #[arg(long)]
    schema: bool,
}

struct Report {
    server: String,
    findings: Vec<Finding>,
    policy: Option<(Loaded, Compiled)>,
}

/// Runs the verb.
pub fn main(arguments: &Arguments) -> ExitCode {
    let code = run(arguments).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "mcp-monitor: {error:#}");
        exit::DATA
    });
    ExitCode::from(code)
}

fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    if arguments.schema {
        writeln!(io::stdout(), "{:#}", rules::schema())?;
        return Ok(0);
    }
    let search = arguments.rules.search()?;
    let bindings = arguments.rules.bindings()?;
    let mut names = Vec::new();
    let mut unused = Vec::new();
    match &arguments.rules.server {
        Some(name) => names.push(name.clone()),
        None => {
            names = search.names(SourceKind::Server)?;
            unused = rules::audit(&search)?;
        }
    }
    let blind = match arguments.backend {
        BackendOption::Tracepoint => Blind::ToLoaders,
        BackendOption::Auto | BackendOption::Lsm => Blind::No,
    };
    let mut reports = Vec::new();
    for server in names {
        let (findings, policy) = match rules::load(&search, Some(&server), &bindings) {
            Ok(loaded) if loaded.is_default => anyhow::bail!(
                "there are no rules for server {server}: write servers/{server}.toml in a rules \
                 directory and name that with --rules"
            ),
            Ok(loaded) => match rules::compile(&loaded) {
                Ok(compiled) => {
                    let findings = loaded.warnings.iter().cloned().chain(lint(&loaded, blind));
                    (findings.collect(), Some((loaded, compiled)))
                }
                Err(error) => (findings_of(error)?, None),
            },
            Err(error) => (findings_of(error)?, None),
        };
        reports.push(Report { server, findings, policy });
    }
    let loaded: Vec<&Loaded> =
        reports.iter().filter_map(|report| Some(&report.policy.as_ref()?.0)).collect();
    unused.extend(lint_servers(&loaded));
    unused.retain(|finding| {
        !reports.iter().any(|report| report.findings.iter().any(|f| same(f, finding)))
    });
    let found = !unused.is_empty() || reports.iter().any(|report| !report.findings.is_empty());
    if arguments.json {
        print_json(&reports, &unused, arguments.backend.backends())?;
    } else {
        print_text(&reports, &unused, arguments.backend.backends())?;
    }
    Ok(if found { exit::FINDINGS } else { 0 })
}

fn findings_of(error: RuleError) -> Result<Vec<Finding>, RuleError> {
    match error {
        RuleError::Findings(findings) => Ok(findings),
        error => Err(error),
    }
}

fn same(one: &Finding, other: &Finding) -> bool {
    one.source.path == other.source.path && one.span == other.span && one.message == other.message
}

fn print_text(reports: &[Report], unused: &[Finding], backends: &[Backend]) -> io::Result<()> {
    let stdout = io::stdout();
    let color = stdout.is_terminal();
    let mut out = stdout.lock();
    // A set that is wrong is wrong for every server: once is enough.
    let mut shown: Vec<&Finding> = Vec::new();
    for finding in reports.iter().flat_map(|report| &report.findings).chain(unused) {
        if !shown.iter().any(|earlier| same(earlier, finding)) {
            shown.push(finding);
            writeln!(out, "{}\n", finding.render(color))?;
        }
    }
    for report in reports {
        match &report.policy {
            None => writeln!(out, "{}: cannot be loaded\n", report.server)?,
            Some((loaded, compiled)) => policy_text(&mut out, loaded, compiled, backends)?,
        }
    }
    Ok(())
}

fn policy_text(
    out: &mut impl Write,
    loaded: &Loaded,
    compiled: &Compiled,
    backends: &[Backend],
) -> io::Result<()> {
    let file = loaded.sources.first().map_or("", |source| source.path.as_str());
    let states: Vec<String> = compiled.tables.iter().map(|t| t.states.to_string()).collect();
    writeln!(out, "{} ({file})", loaded.server)?;
    writeln!(
        out,
        "  mode {}, tables of {} states, {} address prefixes, {} labels",
        loaded.mode,
        states.join(" + "),
        compiled.addresses.len(),
        compiled.labels.len() + compiled.labels_of_homes.len()
    )?;
    if !loaded.open.is_empty() {
        let names: Vec<String> = loaded.open.iter().map(|name| format!("${{{name}}}")).collect();
        writeln!(out, "  left out without a value (-- COMMAND ARGS): {}", names.join(", "))?;
    }
    if loaded.matches() > 0 {
        let matches = loaded.matches();
        writeln!(out, "  {matches} matches: by them `mcp-monitor agent` knows the server")?;
    }
    for pattern in loaded.resolved() {
        let (file, line) = (pattern.file, pattern.line);
        writeln!(out, "  {} -> {}  ({file}:{line})", pattern.written, pattern.resolved)?;
    }
    for backend in backends {
        for (name, bit) in strongest(compiled) {
            let effect = effect(*backend, 1 << access_bit(name), bit);
            writeln!(out, "  {backend}: {name}: {effect}")?;
        }
    }
    writeln!(out)
}

/// The strongest verdict that an access of each class can get, where it is more than a report.
fn strongest(compiled: &Compiled) -> Vec<(&'static str, u8)> {
    let policy = &compiled.policy;
    let rulings = policy.sets.iter().zip(policy.unlisted);
    let all = access::NAMES.into_iter().zip(rulings).map(|(name, (rulings, unlisted))| {
        // The ruling at position 0 is the one of the weakest verdict above `allow`.
        let by_sets = rulings.iter().zip(1..).filter(|(sets, _)| **sets != 0).map(|(_, v)| v).max();
        (name, by_sets.unwrap_or(verdict::ALLOW).max(unlisted))
    });
    all.filter(|(_, verdict)| *verdict > verdict::ALERT).collect()
}

fn access_bit(name: &str) -> usize {
    access::NAMES.iter().position(|known| *known == name).unwrap_or(0)
}

fn print_json(reports: &[Report], unused: &[Finding], backends: &[Backend]) -> io::Result<()> {
    let servers: Vec<Value> = reports
        .iter()
        .map(|report| {
            let mut value = json!({
                "server": report.server,
                "loaded": report.policy.is_some(),
                "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
            });
            if let Some((loaded, compiled)) = &report.policy {
                value["mode"] = json!(loaded.mode.to_string());
                value["sources"] = loaded.sources.iter().map(|s| json!(s.path)).collect();
                value["bindings"] = json!(loaded.bindings);
                value["left_out"] = json!(loaded.open);
                value["matches"] = json!(loaded.matches());
                value["resolved"] = loaded
                    .resolved()
                    .iter()
                    .map(|p| json!({"file": p.file, "line": p.line, "written": p.written, "resolved": p.resolved}))
                    .collect();
                value["states"] = compiled.tables.iter().map(|t| json!(t.states)).collect();
                value["addresses"] = json!(compiled.addresses.len());
                value["labels"] = json!(compiled.labels.len() + compiled.labels_of_homes.len());
                for backend in backends {
                    for (name, verdict) in strongest(compiled) {
                        let effect = effect(*backend, 1 << access_bit(name), verdict);
                        value["backends"][backend.to_string()][name] = json!(effect);
                    }
                }
            }
            value
        })
        .collect();
    let unused: Vec<Value> = unused.iter().map(finding_json).collect();
    writeln!(io::stdout(), "{:#}", json!({"servers": servers, "findings": unused}))
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "severity": match finding.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        },
        "file": finding.source.path,
        "line": finding.line(),
        "column": finding.column(),
        "message": finding.message,
        "help": finding.help,
    })
}
