//! What the agent tells Prometheus, read by the real one: its checks, the shipped alert rules, and
//! every expression of the shipped dashboard.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    Lab,
    host::Host,
    run::{MARKER, eventually},
    skip,
};

// Prometheus is on the host alone, and the host has the tracepoint backend.
crate::tests! {
    tracepoint: [prometheus_scrapes_the_agent_and_knows_all_that_we_ship],
}

const ALERTS: &str = include_str!("../../../monitor/packaging/alerts.yml");
const ALERTS_TEST: &str = include_str!("../../../monitor/packaging/alerts.test.yml");
const DASHBOARD: &str = include_str!("../../../monitor/packaging/dashboard.json");

fn prometheus_scrapes_the_agent_and_knows_all_that_we_ship(lab: &Lab) -> Result<()> {
    let Some(programs) = env::var_os("MCP_MONITOR_PROMETHEUS").map(PathBuf::from) else {
        return skip("no Prometheus here: `cargo xtask test` takes it out of Debian's package");
    };
    let promtool = programs.join("promtool");
    for (name, text) in [("alerts.yml", ALERTS), ("alerts.test.yml", ALERTS_TEST)] {
        fs::write(lab.folder().join(name), text)?;
    }
    succeeds(lab, &promtool, &["check", "rules", "alerts.yml"], "")?;
    succeeds(lab, &promtool, &["test", "rules", "alerts.test.yml"], "")?;

    let host = Host::start(lab)?;
    let mut served = host.serve(&[], "cat /etc/hostname")?;
    ensure!(served.finish()? == 0, "{}", served.stderr());
    host.ask(&["reload"])?;
    let metrics = host.metrics()?;
    let (_, text) = metrics.split_once("\r\n\r\n").context("no metrics")?;
    succeeds(lab, &promtool, &["check", "metrics"], text)?;

    let server = Prometheus::start(lab, &programs, host.port())?;
    eventually("the agent is scraped", || {
        server.ask("up{job=\"mcp-monitor\"} == 1").is_ok_and(|found| found > 0)
    })?;
    ensure!(server.ask("mcp_monitor_events_total{type=\"open\"}")? > 0, "no opens are told");
    ensure!(server.ask("mcp_monitor_no_such_thing")? == 0, "a name that is nobody's");
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().context("no targets")? {
            expressions.push(target["expr"].as_str().context("no expression")?);
        }
    }
    ensure!(expressions.len() > 10, "{expressions:?}");
    for expression in expressions {
        server.ask(expression)?;
        for name in expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let is_metric = name.starts_with("mcp_monitor_");
            // A family without a series has no line at all.
            let known = text.contains(&format!("# TYPE {name} ")) || UNSEEN.contains(&name);
            ensure!(!is_metric || known, "{name} of {expression:?} is no metric");
        }
    }
    Ok(())
}

/// Families that have no series while nothing runs and nothing has gone wrong.
const UNSEEN: [&str; 5] = [
    "mcp_monitor_instances",
    "mcp_monitor_alerts_total",
    "mcp_monitor_denials_total",
    "mcp_monitor_kills_total",
    "mcp_monitor_lost_total",
];

fn succeeds(lab: &Lab, program: &Path, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(lab.folder()).env(MARKER, lab.marker());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start promtool")?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(())
}

/// A Prometheus that scrapes the agent every second.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(lab: &Lab, programs: &Path, scraped: u16) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let configuration = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [alerts.yml]\n\
             scrape_configs:\n\
             - job_name: mcp-monitor\n  static_configs: [{{ targets: ['127.0.0.1:{scraped}'] }}]\n"
        );
        fs::write(lab.folder().join("prometheus.yml"), configuration)?;
        let mut command = Command::new(programs.join("prometheus"));
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=prometheus");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.current_dir(lab.folder()).env(MARKER, lab.marker());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot start prometheus")?;
        let server = Self { child, port };
        eventually("Prometheus answers", || server.ask("vector(1)").is_ok_and(|found| found == 1))?;
        Ok(server)
    }

    /// How many series an expression gives.
    fn ask(&self, expression: &str) -> Result<usize> {
        let encoded: String =
            expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let path = format!("/api/v1/query?query={encoded}");
        write!(stream, "GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").context("no answer")?;
        let answer: Value = serde_json::from_str(body)?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().context("no result")?.len())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both do nothing for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
