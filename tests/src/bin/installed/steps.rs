//! The steps.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    machine::{eventually, journal as journal_lines, packages, property, said, sh, status, try_sh},
    served::{ATTEMPTS, FOLDER, Served},
};

/// What the project promises of `systemd-analyze security`.
const EXPOSURE_MAX: f64 = 4.0;

const RULES: &str = "schema = 1\nserver = \"subject\"\ninclude = [\"base\"]\n\
    [files]\nread = [\"/srv/subject/*\"]\ndeny = [\"/srv/subject/forbidden\"]\n\
    [exec]\nallow = [\"/usr/bin/{sh,dash,cat,sleep}\"]\n\
    [resources]\nmemory = \"256M\"\npids = 64\ncpu = \"150%\"\n\
    [response]\nmode = \"enforce\"\n\
    unlisted = { read = \"alert\", write = \"deny\", exec = \"deny\", connect = \"deny\", listen = \"deny\", unix = \"deny\" }\n";
const RULE_FILE: &str = "/etc/mcp-monitor/rules.d/servers/subject.toml";

pub fn install() -> Result<()> {
    let [package, _] = packages()?;
    sh(&format!("dpkg --install {}", package.display()))?;
    ensure!(property("ActiveState")? == "active", "{}", sh("journalctl -u mcp-monitor")?);
    ensure!(property("Type")? == "notify" && property("UnitFileState")? == "enabled");
    // On this kernel, with the unit's limits on capabilities and calls, nothing less will do.
    ensure!(status()?["backend"] == "lsm", "{}", status()?);
    for (line, wanted) in [
        ("getent group mcp-monitor", "mcp-monitor:"),
        ("cat /var/lib/dpkg/info/mcp-monitor.conffiles", "/etc/mcp-monitor/agent.toml"),
        ("cat /usr/share/man/man1/mcp-monitor-run.1", ".TH mcp-monitor-run 1"),
        ("bash -n /usr/share/bash-completion/completions/mcp-monitor && echo fine", "fine"),
        ("cat /usr/share/zsh/vendor-completions/_mcp-monitor", "#compdef mcp-monitor"),
        ("cat /usr/share/fish/vendor_completions.d/mcp-monitor.fish", "complete -c mcp-monitor"),
        ("cat /usr/share/mcp-monitor/rules/servers/filesystem.toml", "server = \"filesystem\""),
        ("cat /usr/share/mcp-monitor/prometheus/alerts.yml", "McpMonitorDown"),
        ("cat /usr/share/mcp-monitor/grafana/dashboard.json", "mcp_monitor_"),
        (
            "mcp-monitor agent --print-config | cmp - /etc/mcp-monitor/agent.toml && echo same",
            "same",
        ),
        ("dpkg --verify mcp-monitor && echo whole", "whole"),
    ] {
        ensure!(sh(line)?.contains(wanted), "{line}: no {wanted}");
    }
    fixture()
}

/// Two users of whom one is in the group, and a server's files and rules.
fn fixture() -> Result<()> {
    sh("useradd --create-home --groups mcp-monitor member && useradd --create-home stranger")?;
    fs::create_dir_all(FOLDER)?;
    fs::create_dir_all(Path::new(RULE_FILE).parent().context("a folder")?)?;
    fs::write(RULE_FILE, RULES)?;
    for name in ["allowed", "forbidden"] {
        fs::write(Path::new(FOLDER).join(name), format!("text of {name}\n"))?;
    }
    Ok(())
}

pub fn exposure() -> Result<()> {
    let said = sh("systemd-analyze security --no-pager mcp-monitor")?;
    let line = said.lines().find(|line| line.contains("Overall exposure level"));
    let line = line.with_context(|| format!("no exposure level in: {said}"))?;
    let level = line.split_whitespace().find_map(|word| word.parse::<f64>().ok());
    let level = level.with_context(|| line.to_owned())?;
    ensure!(level <= EXPOSURE_MAX, "{said}");
    Ok(())
}

pub fn watchdog() -> Result<()> {
    const DROP_IN: &str = "/etc/systemd/system/mcp-monitor.service.d";
    ensure!(property("WatchdogUSec")? == "1min", "{}", property("WatchdogUSec")?);
    sh(&format!(
        "mkdir {DROP_IN} && printf '[Service]\\nWatchdogSec=10\\n' >{DROP_IN}/test.conf && \
         systemctl daemon-reload && systemctl restart mcp-monitor"
    ))?;
    let before = property("MainPID")?;
    // It says that it lives: longer than the watchdog's patience nothing happens.
    let told = property("WatchdogTimestampMonotonic")?;
    eventually("the agent has told the watchdog", || {
        Ok(seconds(&property("WatchdogTimestampMonotonic")?)? > seconds(&told)? + 12.0)
    })?;
    ensure!(property("MainPID")? == before && property("NRestarts")? == "0");
    sh(&format!("kill -STOP {before}"))?;
    eventually("it is restarted", || {
        Ok(property("NRestarts")? == "1" && property("ActiveState")? == "active")
    })?;
    ensure!(property("MainPID")? != before);
    sh(&format!("rm -r {DROP_IN} && systemctl daemon-reload && systemctl restart mcp-monitor"))?;
    Ok(())
}

fn seconds(microseconds: &str) -> Result<f64> {
    Ok(microseconds.parse::<f64>()? / 1e6)
}

pub fn serve() -> Result<()> {
    let script = "echo begun; while [ ! -e /srv/subject/go ]; do sleep 0.1; done; \
         cat /srv/subject/allowed; cat /srv/subject/forbidden; echo end";
    let mut served = Served::start("member", "judged", script)?;
    served.wait_for("begun")?;
    let status = status()?;
    let one = &status["instances"][0];
    ensure!(one["server"] == "subject" && one["mode"] == "enforce", "{status}");
    let agent = sh(&format!("cat /proc/{}/cgroup", property("MainPID")?))?;
    ensure!(agent == "0::/system.slice/mcp-monitor.service", "{agent}");
    let own = sh(&format!("cat /proc/{}/cgroup", one["pid"]))?;
    ensure!(own == format!("0::/mcp-monitor/{}", one["instance"]), "{own}");
    let limit = sh(&format!("cat /sys/fs/cgroup/mcp-monitor/{}/cpu.max", one["instance"]))?;
    ensure!(limit == "150000 100000", "{limit}");
    fs::write(Path::new(FOLDER).join("go"), "")?;
    ensure!(served.finish()? == 0, "{}", served.said());
    let said = served.said();
    ensure!(said.contains("text of allowed") && said.contains("end"), "{said}");
    ensure!(!said.contains("text of forbidden"), "{said}");
    // Who is not in the group starts nothing.
    let mut refused = Served::start("stranger", "refused", "echo ran")?;
    ensure!(refused.finish()? == 125 && !refused.said().contains("ran\n"), "{}", refused.said());
    Ok(())
}

pub fn journal() -> Result<()> {
    let alerts = journal_lines("MCP_SERVER=subject MCP_CATEGORY=file_read")?;
    let alert = alerts.first().context("no alert in the journal")?;
    for (field, wanted) in [
        ("PRIORITY", "3"),
        ("SYSLOG_IDENTIFIER", "mcp-monitor"),
        ("_SYSTEMD_UNIT", "mcp-monitor.service"),
    ] {
        ensure!(alert[field] == wanted, "{field}: {alert}");
    }
    let message = alert["MESSAGE"].as_str().unwrap_or_default();
    ensure!(message.contains("/srv/subject/forbidden"), "{alert}");
    let instance = alert["MCP_INSTANCE"].as_str().unwrap_or_default();
    ensure!(instance.parse::<u32>().is_ok(), "{alert}");
    // What a server did that was allowed is in the recording and not in the journal.
    let mut quiet = Served::start("member", "quiet", "cat /srv/subject/allowed")?;
    ensure!(quiet.finish()? == 0, "{}", quiet.said());
    let lines = journal_lines("_SYSTEMD_UNIT=mcp-monitor.service")?;
    let of_others = |line: &&Value| line["MCP_INSTANCE"].as_str() != Some(instance);
    ensure!(lines.iter().any(|line| line["MESSAGE"].is_string() && of_others(&line)), "{lines:?}");
    let others: Vec<_> = lines.iter().filter(of_others).collect();
    ensure!(others.iter().all(|line| line["MCP_CATEGORY"].is_null()), "{others:?}");
    Ok(())
}

pub fn on_alert() -> Result<()> {
    const CONFIG: &str = "/etc/mcp-monitor/agent.toml";
    const COMMAND: &str = "/usr/local/bin/told";
    const TOLD: &str = "/var/lib/mcp-monitor/told";
    let before = fs::read_to_string(CONFIG)?;
    let with_command = before.replace("#command = []", &format!("command = [\"{COMMAND}\"]"));
    ensure!(with_command != before, "{before}");
    fs::write(COMMAND, format!("#!/bin/sh\ncat >{TOLD}\n"))?;
    fs::set_permissions(COMMAND, fs::Permissions::from_mode(0o755))?;
    fs::write(CONFIG, with_command)?;
    let outcome = sh("systemctl restart mcp-monitor").and_then(|_| told_of_what_is_forbidden(TOLD));
    // The steps that follow are about the package as it came.
    fs::write(CONFIG, before)?;
    sh(&format!("rm -f {TOLD} {COMMAND}; systemctl restart mcp-monitor"))?;
    outcome
}

/// What is allowed starts no command; what is not has its alert written to a file by it.
fn told_of_what_is_forbidden(told: &str) -> Result<()> {
    let text = || fs::read_to_string(told).unwrap_or_default();
    for (file, is_told) in [("allowed", false), ("forbidden", true)] {
        let mut served = Served::start("member", file, &format!("cat {FOLDER}/{file}"))?;
        served.finish()?;
        if is_told {
            eventually("the command has got the alert", || Ok(text().contains("forbidden")))?;
        } else {
            ensure!(text().is_empty(), "{}", text());
        }
    }
    Ok(())
}

pub fn reload() -> Result<()> {
    let script = "echo begun; while [ ! -e /srv/subject/go-on ]; do sleep 0.1; done; \
         cat /srv/subject/allowed || echo refused";
    let mut served = Served::start("member", "reloaded", script)?;
    served.wait_for("begun")?;
    // What cannot be loaded is told, and changes nothing.
    fs::write(RULE_FILE, "no rules")?;
    ensure!(!try_sh("systemctl reload mcp-monitor")?.status.success());
    ensure!(status()?["instances"][0]["stale"].is_string(), "{}", status()?);
    fs::write(RULE_FILE, RULES.replace("deny = [", "deny = [\"/srv/subject/allowed\", "))?;
    sh("systemctl reload mcp-monitor")?;
    fs::write(Path::new(FOLDER).join("go-on"), "")?;
    served.finish()?;
    ensure!(served.said().contains("refused"), "{}", served.said());
    ensure!(!served.said().contains("text of"), "{}", served.said());
    fs::write(RULE_FILE, RULES)?;
    Ok(())
}

pub fn restart() -> Result<()> {
    let mut served = Served::start("member", "restarted", ATTEMPTS)?;
    served.wait_for("tick")?;
    let before = property("MainPID")?;
    sh("systemctl restart mcp-monitor")?;
    ensure!(property("MainPID")? != before);
    same_server_is_judged(&mut served)
}

/// The server that ran before goes on, and is refused what it was refused.
fn same_server_is_judged(served: &mut Served) -> Result<()> {
    let said = served.said();
    let (_, pid) = said.split_once("begun ").with_context(|| said.clone())?;
    let pid = pid.split_whitespace().next();
    let pid: u64 = pid.with_context(|| said.clone())?.parse()?;
    let status = status()?;
    ensure!(status["instances"][0]["pid"] == pid, "{pid}: {status}");
    let ticks = said.matches("tick").count();
    eventually("it goes on", || Ok(served.said().matches("tick").count() > ticks + 3))?;
    let stop = Path::new(FOLDER).join("stop");
    fs::write(&stop, "")?;
    served.finish()?;
    fs::remove_file(stop)?;
    let said = served.said();
    ensure!(!said.contains("LEAK") && !said.contains("text of forbidden"), "{said}");
    Ok(())
}

pub fn upgrade() -> Result<()> {
    let [_, later] = packages()?;
    let before = (property("MainPID")?, refusals()?);
    let mut served = Served::start("member", "upgraded", ATTEMPTS)?;
    served.wait_for("tick")?;
    sh("echo '# by hand' >>/etc/mcp-monitor/agent.toml")?;
    sh(&format!("dpkg --install --force-confold {}", later.display()))?;
    let version = sh("dpkg-query --show --showformat '${Version}' mcp-monitor")?;
    ensure!(version.starts_with("9999999"), "{version}");
    ensure!(property("MainPID")? != before.0 && property("ActiveState")? == "active");
    ensure!(sh("tail -n 1 /etc/mcp-monitor/agent.toml")? == "# by hand");
    same_server_is_judged(&mut served)?;
    // Each of them was recorded, by the agent before, the one after, or the one after for the one
    // before.
    let attempts = served.said().matches("tick").count() as u64;
    eventually("all is recorded", || Ok(refusals()? - before.1 >= attempts))?;
    ensure!(refusals()? - before.1 == attempts, "{attempts} of {}", refusals()? - before.1);
    Ok(())
}

/// Refused opens of the forbidden file in all recordings.
fn refusals() -> Result<u64> {
    // Code 1: there are violations.
    let output = try_sh("mcp-monitor replay --json /var/lib/mcp-monitor/events")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
    let lines = lines.with_context(|| said(&output))?;
    let of_it = lines.iter().filter(|line| line["subject"] == "/srv/subject/forbidden");
    Ok(of_it.map(|line| line["count"].as_u64().unwrap_or(1)).sum())
}

/// What `find` does not see: they are on file systems of the kernel's.
const OF_THE_KERNEL: [&str; 2] = ["/sys/fs/bpf/mcp-monitor", "/sys/fs/cgroup/mcp-monitor"];

pub fn remove() -> Result<()> {
    let mut served = Served::start("member", "removed", ATTEMPTS)?;
    served.wait_for("tick")?;
    sh("dpkg --remove mcp-monitor")?;
    ensure!(served.finish()? == 137, "{}", served.said());
    ensure!(!served.said().contains("LEAK"), "{}", served.said());
    for gone in OF_THE_KERNEL.into_iter().chain(["/usr/bin/mcp-monitor", "/run/mcp-monitor"]) {
        ensure!(!Path::new(gone).exists(), "{gone} is left");
    }
    for kept in ["/etc/mcp-monitor/agent.toml", "/var/lib/mcp-monitor/events"] {
        ensure!(Path::new(kept).exists(), "{kept} is gone");
    }
    // What was configured is in force again.
    let [package, _] = packages()?;
    sh(&format!("dpkg --install {}", package.display()))?;
    ensure!(property("ActiveState")? == "active");
    sh("dpkg --purge mcp-monitor")?;
    let left = sh("find / -xdev -name '*mcp-monitor*' -not -path '/proc/*' -not -path '/opt/*'")?;
    let left: BTreeSet<&str> = left.lines().collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(try_sh("getent group mcp-monitor")?.stdout.is_empty());
    ensure!(try_sh("systemctl cat mcp-monitor")?.stdout.is_empty());
    for gone in OF_THE_KERNEL {
        ensure!(!Path::new(gone).exists(), "{gone} is left");
    }
    Ok(())
}
