//! What is done about servers that are not trusted any more: cut off, kept from starting, and
//! answered by a command of the host's own.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Backend, Lab,
    host::{Host, NOBODY, Served},
    run::eventually,
};

crate::tests! {
    both: [
        isolated_instance_sends_nothing_and_its_twin_goes_on,
        isolation_holds_without_the_agent,
        server_in_quarantine_is_stopped_and_does_not_start,
        alert_starts_the_command_once,
        flood_of_alerts_starts_few_commands,
    ],
}

/// A server that may connect to loopback and whose forbidden file only raises an alert.
const RULES: &str = "[files]\nread = [\"/**\"]\n[exec]\nallow = [\"/**\"]\n\
    [network]\nconnect = [\"127.0.0.1\"]\n\
    [response]\nmode = \"enforce\"\n\
    unlisted = { read = \"allow\", write = \"allow\", exec = \"allow\", connect = \"deny\", listen = \"deny\", unix = \"allow\" }\n\
    sets = { secrets = \"alert\", sensitive = \"alert\", persistence = \"alert\", mcp_config = \"alert\", processes = \"alert\", escape = \"alert\", metadata = \"deny\" }\n";

/// A server with a connection, which it sends on each time that a file appears.
struct Talker<'a> {
    lab: &'a Lab,
    name: &'static str,
    served: Served,
    listener: TcpListener,
    stream: TcpStream,
    step: u32,
}

impl<'a> Talker<'a> {
    fn start(lab: &'a Lab, host: &Host<'_>, name: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let actor = lab.actor()?.display().to_string();
        let files = [1, 2, 3].map(|step| file(lab, name, step).display().to_string()).join(" ");
        let again = file(lab, name, 4);
        let script = format!(
            "{actor} tcp-when 127.0.0.1 {port} {files} & echo begun; \
             while [ ! -e {} ]; do sleep 0.05; done; {actor} tcp 127.0.0.1 {port}; echo tried; wait",
            again.display()
        );
        let mut served = host.serve(&["--server", "subject"], &script)?;
        served.wait_for("begun")?;
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { lab, name, served, listener, stream, step: 0 })
    }

    /// Has it send once more.
    fn send(&mut self) -> Result<()> {
        self.step += 1;
        Ok(fs::write(file(self.lab, self.name, self.step), "")?)
    }

    /// What it has sent arrives.
    fn arrives(&mut self) -> Result<()> {
        let mut data = [0; 6];
        self.stream.read_exact(&mut data).with_context(|| format!("{}: nothing came", self.name))?;
        ensure!(&data == b"actor\n", "{data:?}");
        Ok(())
    }

    /// What it has sent has not arrived.
    fn has_not_arrived(&mut self) -> Result<()> {
        self.stream.set_nonblocking(true)?;
        let read = self.stream.read(&mut [0; 6]);
        self.stream.set_nonblocking(false)?;
        ensure!(read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{read:?}");
        Ok(())
    }

    /// The result of another connect.
    fn connects(&mut self) -> Result<String> {
        fs::write(file(self.lab, self.name, 4), "")?;
        self.served.wait_for("tried")?;
        self.listener.set_nonblocking(true)?;
        let (out, came) = (self.served.stdout(), self.listener.accept().is_ok());
        ensure!(came == out.contains("ok"), "{}: {out}", self.name);
        Ok(out)
    }
}

fn file(lab: &Lab, name: &str, step: u32) -> PathBuf {
    lab.folder().join(format!("send-{name}-{step}"))
}

fn newest(host: &Host<'_>, known: &[String]) -> Result<String> {
    let mut numbers = numbers(host)?.into_iter();
    numbers.find(|number| !known.contains(number)).context("no other instance runs")
}

fn numbers(host: &Host<'_>) -> Result<Vec<String>> {
    let status = host.status()?;
    let all = status["instances"].as_array().context("has instances")?;
    Ok(all.iter().map(|one| one["instance"].to_string()).collect())
}

fn isolated_instance_sends_nothing_and_its_twin_goes_on(lab: &Lab) -> Result<()> {
    lab.policy(RULES)?;
    let host = Host::start(lab)?;
    let mut subject = Talker::start(lab, &host, "subject")?;
    let number = newest(&host, &[])?;
    let mut twin = Talker::start(lab, &host, "twin")?;
    for one in [&mut subject, &mut twin] {
        one.send()?;
        one.arrives()?;
    }
    fs::set_permissions(host.socket(), fs::Permissions::from_mode(0o666))?;
    let refused = host.ask_as(NOBODY, &["isolate", &number])?;
    ensure!(refused.status.code() == Some(4), "{refused:?}");
    let isolated = host.ask(&["isolate", &number])?;
    ensure!(isolated.status.success(), "{isolated:?}");
    ensure!(host.status()?["instances"].to_string().contains("\"isolated\":true"));
    subject.send()?;
    twin.send()?;
    twin.arrives()?;
    let out = subject.connects()?;
    ensure!(out.contains("denied") && !out.contains("ok"), "{out}");
    let out = twin.connects()?;
    ensure!(out.contains("ok") && !out.contains("denied"), "{out}");
    subject.has_not_arrived()?;
    sockets_are_out_of_reach(lab, &host)?;
    eventually("it is counted", || {
        host.metrics().is_ok_and(|text| text.contains("mcp_monitor_isolated_instances 1"))
    })?;
    let undone = host.ask(&["isolate", &number, "--undo"])?;
    ensure!(undone.status.success(), "{undone:?}");
    // What was held back is sent again.
    subject.arrives()?;
    subject.send()?;
    subject.arrives()?;
    ensure!(host.said().contains("is cut off") && host.said().contains("reaches networks again"));
    Ok(())
}

/// What an isolated instance gets of AF_UNIX sockets that have names, and one that is not.
fn sockets_are_out_of_reach(lab: &Lab, host: &Host<'_>) -> Result<()> {
    let path = lab.folder().join("socket");
    let _listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    let go = lab.folder().join("go-unix");
    let script = format!(
        "echo begun; while [ ! -e {} ]; do sleep 0.05; done; {} unix-stream {}",
        go.display(),
        lab.actor()?.display(),
        path.display()
    );
    let known: Vec<_> = numbers(host)?;
    let mut servers = Vec::new();
    for _ in 0..2 {
        let mut server = host.serve(&["--server", "subject"], &script)?;
        server.wait_for("begun")?;
        servers.push(server);
        if servers.len() == 1 {
            let isolated = host.ask(&["isolate", &newest(host, &known)?])?;
            ensure!(isolated.status.success(), "{isolated:?}");
        }
    }
    fs::write(go, "")?;
    let reached = servers.into_iter().map(|mut server| {
        server.finish()?;
        Ok(server.stdout().contains("ok"))
    });
    let reached = reached.collect::<Result<Vec<_>>>()?;
    // Detected only after it happened it would be a kill, which isolation is not.
    ensure!(reached == [lab.backend() == Backend::Tracepoint, true], "{reached:?}");
    Ok(())
}

fn isolation_holds_without_the_agent(lab: &Lab) -> Result<()> {
    lab.policy(RULES)?;
    let mut host = Host::start(lab)?;
    let mut subject = Talker::start(lab, &host, "subject")?;
    let number = newest(&host, &[])?;
    let mut twin = Talker::start(lab, &host, "twin")?;
    let isolated = host.ask(&["isolate", &number])?;
    ensure!(isolated.status.success(), "{isolated:?}");
    host.end_by(libc::SIGKILL)?;
    subject.send()?;
    twin.send()?;
    twin.arrives()?;
    let out = subject.connects()?;
    ensure!(out.contains("denied"), "{out}");
    host.begin()?;
    subject.has_not_arrived()?;
    ensure!(host.status()?["instances"].to_string().contains("\"isolated\":true"));
    let undone = host.ask(&["isolate", &number, "--undo"])?;
    ensure!(undone.status.success(), "{undone:?}");
    subject.arrives()
}

fn server_in_quarantine_is_stopped_and_does_not_start(lab: &Lab) -> Result<()> {
    lab.policy(RULES)?;
    lab.rule_file("servers/twin.toml", &format!("schema = 1\nserver = \"twin\"\n{RULES}"))?;
    let mut host = Host::start(lab)?;
    let wait = "echo begun; while :; do sleep 0.1; done";
    let mut subject = host.serve(&["--server", "subject"], wait)?;
    subject.wait_for("begun")?;
    let mut twin = host.serve(&["--server", "twin"], wait)?;
    twin.wait_for("begun")?;
    let unknown = host.ask(&["quarantine", "nobody"])?;
    ensure!(unknown.status.code() == Some(4), "{unknown:?}");
    let held = host.ask(&["quarantine", "subject"])?;
    ensure!(held.status.success() && held.stdout.starts_with(b"stopped instance"), "{held:?}");
    ensure!(subject.finish()? == 137, "{}", subject.stderr());
    // Neither now nor under the next agent.
    for restart in [false, true] {
        if restart {
            host.end_by(libc::SIGKILL)?;
            host.begin()?;
        }
        let mut refused = host.serve(&["--server", "subject"], "echo ran")?;
        ensure!(refused.finish()? == 125 && refused.stdout().is_empty(), "{}", refused.stdout());
        ensure!(refused.stderr().contains("is in quarantine since"), "{}", refused.stderr());
        let status = host.status()?;
        ensure!(status["quarantined"][0] == "subject", "{status}");
        ensure!(status["instances"][0]["server"] == "twin", "{status}");
    }
    let released = host.ask(&["quarantine", "subject", "--release"])?;
    ensure!(released.status.success(), "{released:?}");
    let mut started = host.serve(&["--server", "subject"], "echo ran")?;
    ensure!(started.finish()? == 0 && started.stdout() == "ran\n", "{}", started.stderr());
    Ok(())
}

/// The command that gets alerts: it puts each into a file of its own, and may wait.
fn command(lab: &Lab, script: &str) -> Result<String> {
    let path = lab.file("on-alert", format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(format!("[on_alert]\ncommand = [\"{}\", \"argument\"]\nat_once = 2\n", path.display()))
}

fn alerts(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
}

fn alert_starts_the_command_once(lab: &Lab) -> Result<()> {
    lab.policy(RULES)?;
    let told = lab.folder().join("told");
    fs::create_dir(&told)?;
    let script = format!("{{ cat; echo \"$1\"; env; }} > {}/$$.new", told.display());
    let host = Host::start_with(lab, &command(lab, &script)?)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let connect = |address: &str| -> Result<String> {
        let script = format!("{} tcp {address} {port}; exit 0", lab.actor()?.display());
        let mut server = host.serve(&["--server", "subject"], &script)?;
        ensure!(server.finish()? == 0, "{}", server.stderr());
        Ok(server.stdout())
    };
    ensure!(connect("127.0.0.1")?.contains("ok") && connect("127.0.0.9")?.contains("denied"));
    let done = "mcp_monitor_on_alert_total{result=\"done\"} 1";
    eventually("the command has run", || host.metrics().is_ok_and(|text| text.contains(done)))?;
    let all = alerts(&told);
    ensure!(all.len() == 1, "{all:?}");
    let mut lines = all[0].lines();
    let alert: serde_json::Value = serde_json::from_str(lines.next().unwrap_or_default())?;
    ensure!(alert["type"] == "alert" && alert["category"] == "connect", "{alert}");
    ensure!(lines.next() == Some("argument"), "{all:?}");
    ensure!(!all[0].contains("MCP_MONITOR_TEST"), "the environment is not clean: {all:?}");
    Ok(())
}

fn flood_of_alerts_starts_few_commands(lab: &Lab) -> Result<()> {
    lab.policy(RULES)?;
    let told = lab.folder().join("told");
    fs::create_dir(&told)?;
    let go = lab.folder().join("go");
    let script = format!(
        "echo > {}/$$; while [ ! -e {} ]; do sleep 0.05; done",
        told.display(),
        go.display()
    );
    let host = Host::start_with(lab, &command(lab, &script)?)?;
    // Of one instance a few alerts are told at once, and the rest is counted.
    let actor = lab.actor()?.display().to_string();
    let flood = format!(
        "i=1; while [ $i -lt 30 ]; do {actor} tcp 127.0.0.9 $i; i=$((i+1)); done; exit 0"
    );
    for _ in 0..4 {
        let mut server = host.serve(&["--server", "subject"], &flood)?;
        ensure!(server.finish()? == 0, "{}", server.stderr());
    }
    let dropped = || -> Option<f64> {
        let metrics = host.metrics().ok()?;
        let name = "mcp_monitor_on_alert_total{result=\"dropped\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
    };
    eventually("some are dropped", || dropped().is_some_and(|count| count > 0.0))?;
    eventually("that is told", || host.said().contains("because too many alerts waited"))?;
    ensure!(alerts(&told).len() == 2, "{}", alerts(&told).len());
    fs::write(go, "")?;
    Ok(())
}
