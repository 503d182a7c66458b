//! The host agent: servers of ordinary users, rules that only root sets, and programs that go on
//! judging without it.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    Backend, Lab, endurance,
    host::{Host, NOBODY, Served, send},
    run::eventually,
};

crate::tests! {
    both: [
        servers_of_a_user_run_under_the_agent,
        user_may_tighten_rules_and_not_loosen_them,
        callers_get_what_is_theirs,
        denials_go_on_without_the_agent,
        agent_that_is_restarted_takes_over,
        agent_of_another_build_takes_over_without_a_gap,
        agent_that_is_stopped_loses_nothing,
        rules_are_reloaded_while_servers_run,
        server_dies_with_its_launcher,
        hostile_requests_change_nothing,
        slow_and_many_callers_keep_nobody_out,
        metrics_tell_what_happened,
        detaching_leaves_nothing,
    ],
}

/// A server that may read what is public, and run nothing but the shell, cat and sleep.
const RULES: &str = "include = [\"base\"]\n\
    [files]\nread = [\"/tmp/mcp-monitor-e2e-*/*\"]\ndeny = [\"/**/forbidden\"]\n\
    [exec]\nallow = [\"/bin/{sh,dash,cat,sleep,busybox}\", \"/usr/bin/{sh,dash,cat,sleep}\"]\n\
    [response]\nmode = \"enforce\"\n\
    unlisted = { read = \"alert\", write = \"deny\", exec = \"deny\", connect = \"deny\", listen = \"deny\", unix = \"deny\" }\n";

/// Waits for a file, then reads an allowed and a forbidden one.
fn script(lab: &Lab) -> String {
    let folder = lab.folder().display();
    format!(
        "echo begun; while [ ! -e {folder}/go ]; do sleep 0.05; done; cat {folder}/allowed; \
         cat {folder}/forbidden; echo end"
    )
}

fn fixture(lab: &Lab) -> Result<Host<'_>> {
    lab.policy(RULES)?;
    for name in ["allowed", "forbidden"] {
        fs::write(lab.folder().join(name), format!("text of {name}\n"))?;
    }
    Host::start(lab)
}

fn go(lab: &Lab) -> Result<()> {
    fs::write(lab.folder().join("go"), "").context("cannot let the server go on")
}

/// The allowed file was read; the forbidden one was not, or the server died of it.
fn ensure_judged(lab: &Lab, served: &mut Served) -> Result<()> {
    let code = served.finish()?;
    let out = served.stdout();
    ensure!(out.contains("text of allowed"), "{out} {}", served.stderr());
    match lab.backend() {
        Backend::Lsm => ensure!(
            code == 0 && out.contains("end") && !out.contains("text of forbidden"),
            "{code}: {out}"
        ),
        Backend::Tracepoint => {
            ensure!(code == 137 && !out.contains("end"), "{code}: {out} {}", served.stderr());
        }
    }
    Ok(())
}

fn servers_of_a_user_run_under_the_agent(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    let status = host.status()?;
    let one = &status["instances"][0];
    ensure!(one["server"] == "subject" && one["mode"] == "enforce", "{status}");
    ensure!(one["uid"] == NOBODY, "{status}");
    go(lab)?;
    ensure_judged(lab, &mut served)?;
    let said = served.stderr();
    ensure!(said.contains("forbidden") && said.contains("summary of subject"), "{said}");
    let alerts = host.ask(&["alerts"])?;
    let alerts = String::from_utf8_lossy(&alerts.stdout);
    ensure!(alerts.contains("forbidden") && !alerts.contains("allowed"), "{alerts}");
    // Its twin does nothing forbidden, and is not spoken of.
    let mut twin = host.serve(&["--server", "subject"], "echo quiet; exit 5")?;
    ensure!(twin.finish()? == 5 && twin.stdout() == "quiet\n", "{}", twin.stderr());
    ensure!(twin.stderr().contains("alarmed    nothing"), "{}", twin.stderr());
    ensure!(host.status()?["instances"].as_array().is_some_and(Vec::is_empty));
    Ok(())
}

fn user_may_tighten_rules_and_not_loosen_them(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let mut loosened =
        host.serve(&["--server", "subject", "--mode", "observe"], "echo ran")?;
    ensure!(loosened.finish()? == 125 && loosened.stdout().is_empty());
    ensure!(loosened.stderr().contains("are enforced on this host"), "{}", loosened.stderr());
    let mut elsewhere = host.serve(&["--home", "/tmp"], "echo ran")?;
    ensure!(elsewhere.finish()? == 125 && elsewhere.stdout().is_empty());
    lab.policy(&RULES.replace("enforce", "observe"))?;
    let mut observed = host.serve(&["--server", "subject"], &format!("cat {}", forbidden(lab)))?;
    ensure!(observed.finish()? == 0 && observed.stdout().contains("text of forbidden"));
    let options = ["--server", "subject", "--mode", "enforce"];
    let mut tightened = host.serve(&options, &format!("cat {}", forbidden(lab)))?;
    ensure!(tightened.finish()? != 0, "{}", tightened.stdout());
    Ok(())
}

fn forbidden(lab: &Lab) -> String {
    lab.folder().join("forbidden").display().to_string()
}

fn callers_get_what_is_theirs(lab: &Lab) -> Result<()> {
    const OTHER: u32 = 12_345;
    let host = fixture(lab)?;
    open_to_all(&host.socket())?;
    let monitor = lab.folder().join("mcp-monitor");
    let ask = format!("{} status --socket {}", monitor.display(), host.socket().display());
    lab.policy(&RULES.replace("\"/bin/{sh", &format!("\"{}\", \"/bin/{{sh", monitor.display())))?;
    let inside = format!("echo begun; while [ ! -e {0}/go ]; do sleep 0.05; done; {ask}; echo $?",
        lab.folder().display());
    let options = ["--server", "subject", "--mode", "enforce"];
    let mut served = host.serve(&options, &inside)?;
    served.wait_for("begun")?;
    let number = host.status()?["instances"][0]["instance"].to_string();
    let seen = |uid| -> Result<bool> {
        let output = host.ask_as(uid, &["status", "--json"])?;
        Ok(String::from_utf8_lossy(&output.stdout).contains(&number))
    };
    ensure!(seen(NOBODY)? && !seen(OTHER)?, "whose instances are shown");
    for verb in [&["stop", &number][..], &["reload"]] {
        let refused = host.ask_as(OTHER, verb)?;
        ensure!(refused.status.code() == Some(4), "{verb:?}: {refused:?}");
    }
    ensure!(seen(0)?, "it must run on");
    go(lab)?;
    served.finish()?;
    ensure!(!served.stdout().contains("INSTANCE"), "{}", served.stdout());
    let mut twin = host.serve(&options, "while :; do sleep 1; done")?;
    eventually("it runs", || host.status().is_ok_and(|all| all["instances"][0].is_object()))?;
    let number = host.status()?["instances"][0]["instance"].to_string();
    let stopped = host.ask_as(NOBODY, &["stop", &number])?;
    ensure!(stopped.status.success(), "{stopped:?}");
    ensure!(twin.finish()? == 137, "{}", twin.stderr());
    Ok(())
}

/// Lets everybody connect, so that what is refused is refused by the agent.
fn open_to_all(socket: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?)
}

fn denials_go_on_without_the_agent(lab: &Lab) -> Result<()> {
    let mut host = fixture(lab)?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    host.end_by(libc::SIGKILL)?;
    go(lab)?;
    ensure_judged(lab, &mut served)?;
    ensure!(served.stderr().contains("the agent has gone"), "{}", served.stderr());
    // What happened meanwhile is told by the next one.
    host.begin()?;
    eventually("the alert is told", || host.said().contains("forbidden"))?;
    ensure!(host.said().contains("took over 1 instances"), "{}", host.said());
    Ok(())
}

fn agent_that_is_restarted_takes_over(lab: &Lab) -> Result<()> {
    let mut host = fixture(lab)?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        host.end_by(signal)?;
        host.begin()?;
        let status = host.status()?;
        ensure!(status["instances"][0]["server"] == "subject", "{status}");
    }
    go(lab)?;
    ensure_judged(lab, &mut served)?;
    eventually("the alert is told", || host.said().contains("forbidden"))?;
    ensure!(served.stderr().contains("summary of subject"), "{}", served.stderr());
    Ok(())
}

fn agent_of_another_build_takes_over_without_a_gap(lab: &Lab) -> Result<()> {
    let mut host = fixture(lab)?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    let mut busy = Vec::new();
    // A refusal is the end of a server on the other one.
    if lab.backend() == Backend::Lsm {
        busy.push(host.serve(&["--server", "subject"], &endurance::attempts(lab, "forbidden"))?);
        busy[0].wait_for("tick")?;
    }
    let before = host.programs()?;
    host.end_by(libc::SIGTERM)?;
    host.rebuild()?;
    host.begin()?;
    let after = host.programs()?;
    ensure!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
    let all = 1 + busy.len();
    ensure!(host.said().contains(&format!("took over {all} instances")), "{}", host.said());
    go(lab)?;
    ensure_judged(lab, &mut served)?;
    fs::write(lab.folder().join("stop"), "")?;
    for mut server in busy {
        server.finish()?;
        let out = server.stdout();
        ensure!(!out.contains("LEAK") && !out.contains("text of"), "{out}");
    }
    eventually("the alert is told", || host.said().contains("forbidden"))
}

fn agent_that_is_stopped_loses_nothing(lab: &Lab) -> Result<()> {
    let mut host = fixture(lab)?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    for _ in 0..2 {
        host.end_by(libc::SIGTERM)?;
        host.begin()?;
    }
    go(lab)?;
    ensure_judged(lab, &mut served)?;
    host.end_by(libc::SIGTERM)?;
    let mut verify = host.command();
    verify.arg("verify").arg(lab.folder().join("agent"));
    let verified = verify.arg("--key").arg(lab.key().with_extension("pub")).output()?;
    let said = String::from_utf8_lossy(&verified.stdout);
    ensure!(verified.status.success() && said.contains("with a trusted key"), "{verified:?}");
    ensure!(!said.contains("lost"), "{said}");
    Ok(())
}

fn rules_are_reloaded_while_servers_run(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    lab.policy(&RULES.replace("/**/forbidden", "/**/nothing"))?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    lab.policy("this is no policy")?;
    let failed = host.ask(&["reload"])?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    ensure!(host.status()?["instances"][0]["stale"].is_string(), "the old rules are in force");
    lab.policy(RULES)?;
    let reloaded = host.ask(&["reload"])?;
    ensure!(reloaded.status.success(), "{reloaded:?}");
    go(lab)?;
    ensure_judged(lab, &mut served)
}

fn server_dies_with_its_launcher(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let script = "setsid sleep 1000 & echo begun; while :; do sleep 1; done";
    let mut served = host.serve(&[], script)?;
    served.wait_for("begun")?;
    served.kill()?;
    eventually("nothing of it is left", || {
        host.status().is_ok_and(|all| all["instances"].as_array().is_some_and(Vec::is_empty))
    })
}

fn hostile_requests_change_nothing(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let own = std::process::id();
    let stranger = format!(
        "{{\"pid\":{own},\"server\":null,\"mode\":null,\"command\":[\"x\"],\"environment\":[],\
         \"cwd\":\"/\",\"home\":null}}"
    );
    for (request, code) in [
        ("\0\u{1}\u{2}garbage\r\n\r\n".to_owned(), " 400 "),
        (post("/v1/instances", "{"), " 400 "),
        (post("/v1/instances", &"[".repeat(100_000)), " 400 "),
        (post("/v1/instances", &stranger), " 403 "),
        (post("/v1/instances", &stranger.replace("\"home\"", "\"rules\"")), " 400 "),
        (post("/v1/instances", &stranger.replace("[\"x\"]", "\"x\"")), " 400 "),
        (post("/v1/instances", &stranger.replace("null", "\"\\uD800\"")), " 400 "),
        (post("/v1/grants", "{\"server\":\"subject\",\"seconds\":-1}"), " 400 "),
        (post("/v1/grants", "{\"server\":\"subject\",\"seconds\":60,\"deny\":[\"/\"]}"), " 400 "),
        (post("/v1/grants", "{\"seconds\":60,\"read\":[\"/srv/x\"]}"), " 400 "),
        (post("/v1/instances/1/isolation", ""), " 404 "),
        (post("/v1/servers/..%2F..%2Fx/quarantine", ""), " 404 "),
        (post("/v1/instances/4294967295/end", ""), " 404 "),
        (post("/v1/instances/x/end", ""), " 400 "),
        (post("/v2/status", ""), " 404 "),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20)), " 4"),
        ("POST /v1/instances HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n"
            .to_owned(), " 400 "),
    ] {
        let answer = host.send(request.as_bytes())?;
        let shown: String = request.chars().take(60).collect();
        ensure!(answer.lines().next().unwrap_or_default().contains(code), "{shown:?}: {answer}");
    }
    ensure!(host.status()?["instances"][0]["server"] == "subject");
    go(lab)?;
    ensure_judged(lab, &mut served)
}

/// Whoever takes its time is let go, and whoever takes all places leaves some for root.
fn slow_and_many_callers_keep_nobody_out(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    open_to_all(&host.socket())?;
    let slow = [
        "GET /v1/status HT",
        "GET /v1/status HTTP/1.1\r\nhost: x\r\nx-",
        "POST /v1/plan HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\n{",
    ];
    let (begun, socket) = (Instant::now(), host.socket());
    let ended: Vec<Result<String>> = thread::scope(|scope| {
        let all = slow.map(|request| scope.spawn(|| send(&socket, request.as_bytes())));
        all.map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("panicked")))).into()
    });
    for (request, answer) in slow.iter().zip(ended) {
        let answer = answer?;
        ensure!(!answer.contains(" 200 "), "{request}: {answer}");
    }
    ensure!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let held = connections_of(NOBODY, &host.socket(), 900)?;
    ensure!(held.len() == 900, "{}", held.len());
    ensure!(host.status()?["instances"].is_array(), "root is kept out");
    drop(held);
    let again = host.ask_as(NOBODY, &["status"])?;
    ensure!(again.status.success(), "{again:?}");
    let metrics = host.metrics()?;
    let name = "mcp_monitor_resident_anonymous_bytes ";
    let bytes = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
    ensure!(bytes.is_some_and(|bytes| bytes < 64e6), "{bytes:?}");
    Ok(())
}

/// Connections that another user has made.
fn connections_of(uid: u32, socket: &Path, count: usize) -> Result<Vec<UnixStream>> {
    thread::scope(|scope| {
        let connect = scope.spawn(|| -> Result<Vec<UnixStream>> {
            // SAFETY: takes numbers. The call itself is of this thread alone, which then ends.
            if unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) } != 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            (0..count).map(|_| Ok(UnixStream::connect(socket)?)).collect()
        });
        connect.join().unwrap_or_else(|_| Err(anyhow!("panicked")))
    })
}

fn metrics_tell_what_happened(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let count = |metrics: &str, line: &str| {
        metrics.lines().find_map(|text| text.strip_prefix(line)?.trim().parse::<f64>().ok())
    };
    let denials = match lab.backend() {
        Backend::Lsm => "mcp_monitor_denials_total{category=\"file_read\",server=\"subject\"}",
        Backend::Tracepoint => "mcp_monitor_kills_total{category=\"file_read\",server=\"subject\"}",
    };
    let mut quiet = host.serve(&["--server", "subject"], "echo quiet")?;
    ensure!(quiet.finish()? == 0, "{}", quiet.stderr());
    ensure!(count(&host.metrics()?, denials).is_none(), "{}", host.metrics()?);
    go(lab)?;
    ensure_judged(lab, &mut host.serve(&["--server", "subject"], &script(lab))?)?;
    let metrics = host.metrics()?;
    ensure!(count(&metrics, denials) == Some(1.0), "{metrics}");
    let opens = "mcp_monitor_events_total{server=\"subject\",type=\"open\"}";
    ensure!(count(&metrics, opens).is_some_and(|opens| opens > 3.0), "{metrics}");
    ensure!(count(&metrics, "mcp_monitor_resident_anonymous_bytes").is_some_and(|bytes| bytes > 0.0));
    Ok(())
}

fn detaching_leaves_nothing(lab: &Lab) -> Result<()> {
    let mut host = fixture(lab)?;
    let mut served = host.serve(&["--server", "subject"], &script(lab))?;
    served.wait_for("begun")?;
    let second = host.command().args(["agent", "--config"]).arg(lab.folder().join("agent.toml")).output()?;
    ensure!(second.status.code() == Some(4), "{second:?}");
    ensure!(String::from_utf8_lossy(&second.stderr).contains("at work already"), "{second:?}");
    let detached = host.detach_all()?;
    ensure!(detached.status.success(), "{detached:?}");
    ensure!(served.finish()? == 137, "{}", served.stderr());
    ensure!(!lab.folder().join("run/instances").exists());
    Ok(())
}
