//! Servers that others start: known by what they execute, held until they are under their rules,
//! adopted when they run already.

use std::{
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::{
    Backend, Lab,
    host::{Host, NOBODY},
    run::{MARKER, eventually},
};

crate::tests! {
    both: [
        servers_that_others_start_are_judged_from_their_first_act,
        processes_that_are_no_servers_are_left_alone,
        a_watched_process_does_not_become_another_server,
        servers_are_known_by_arguments_and_cgroup,
        servers_that_begin_while_others_are_adopted_are_let_go,
        a_server_that_is_held_gets_nothing_while_no_agent_runs,
        running_servers_are_adopted_with_their_descendants,
        matched_servers_are_taken_over,
        a_home_is_no_secret_to_its_owner,
    ],
}

/// How many short-lived servers are started, each of which does something forbidden first.
const STARTS: usize = 300;
/// How many are started while the agent reloads without pause.
const STARTS_AT_RELOADS: usize = 60;

/// Rules of a server that `[[match]]` tables begin; it may read what is public.
fn rules(matches: &str) -> String {
    format!(
        "include = [\"base\"]\n{matches}\n[files]\nread = [\"/tmp/mcp-monitor-e2e-*/**\"]\ndeny = [\"/**/forbidden\"]\n\
         [response]\nmode = \"enforce\"\n\
         unlisted = {{ read = \"alert\", write = \"alert\", exec = \"alert\" }}\n"
    )
}

/// A program of its own, so that nothing else on the machine is matched.
fn program(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab.folder().join(name);
    fs::copy(lab.actor()?, &path)?;
    Ok(path)
}

/// Rules by which `server` is known, files to read, and an agent.
fn fixture(lab: &Lab) -> Result<(Host<'_>, PathBuf)> {
    let server = program(lab, "server")?;
    lab.policy(&rules(&format!("[[match]]\nexe = [\"{}\"]", server.display())))?;
    write_files(lab)?;
    Ok((Host::start(lab)?, server))
}

fn write_files(lab: &Lab) -> Result<()> {
    for name in ["allowed", "forbidden"] {
        fs::write(lab.folder().join(name), format!("text of {name}\n"))?;
    }
    Ok(())
}

/// Started by us, as an editor would.
fn command(lab: &Lab, program: &PathBuf, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).current_dir(lab.folder()).env(MARKER, lab.marker());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(lab: &Lab, program: &PathBuf, words: &[&str]) -> Result<Output> {
    output_of(command(lab, program, words).spawn().context("cannot start the server")?)
}

/// What a child says, unless it does not end, as one that is never let go.
fn output_of(mut child: Child) -> Result<Output> {
    if let Err(error) = eventually("it has ended", || !matches!(child.try_wait(), Ok(None))) {
        let state = state(&child);
        child.kill()?;
        let output = child.wait_with_output()?;
        bail!("{error}: its state was {state:?}, it has said {output:?}");
    }
    Ok(child.wait_with_output()?)
}

/// What of that is on its standard output.
fn stdout_of(child: Child) -> Result<String> {
    Ok(String::from_utf8(output_of(child)?.stdout)?)
}

/// Whether a forbidden file was not read, as far as the backend can see to it.
fn is_kept_from(lab: &Lab, output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stdout);
    match lab.backend() {
        Backend::Lsm => said.contains("denied") && said.contains("call=open"),
        Backend::Tracepoint => output.status.signal() == Some(libc::SIGKILL) && said.is_empty(),
    }
}

fn has_read(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains("ok bytes=") && output.status.success()
}

fn servers_that_others_start_are_judged_from_their_first_act(lab: &Lab) -> Result<()> {
    let (host, server) = fixture(lab)?;
    let mut kept = 0;
    for _ in 0..STARTS {
        kept += usize::from(is_kept_from(lab, &run(lab, &server, &["read", "forbidden"])?));
    }
    ensure!(kept == STARTS, "{kept} of {STARTS}: {}", host.said());
    let twin = run(lab, &server, &["read", "allowed"])?;
    ensure!(has_read(&twin), "{twin:?} {}", host.said());
    eventually("all of them have ended", || {
        host.status().is_ok_and(|all| all["instances"].as_array().is_some_and(Vec::is_empty))
    })?;
    let matched = host.said().matches("is server subject; held for").count();
    ensure!(matched == STARTS + 1, "{matched} were matched");
    Ok(())
}

fn processes_that_are_no_servers_are_left_alone(lab: &Lab) -> Result<()> {
    let (host, server) = fixture(lab)?;
    let other = program(lab, "other")?;
    for words in [&["read", "forbidden"][..], &["fork", "read", "forbidden"]] {
        let output = run(lab, &other, words)?;
        ensure!(has_read(&output), "{words:?}: {output:?} {}", host.said());
    }
    // And its neighbour that is one does allowed work, of which nobody speaks.
    let quiet = run(lab, &server, &["fork", "read", "allowed"])?;
    ensure!(has_read(&quiet), "{quiet:?} {}", host.said());
    let alerts = host.ask(&["alerts"])?;
    ensure!(!String::from_utf8_lossy(&alerts.stdout).contains("file_read"), "{alerts:?}");
    ensure!(host.said().matches("is server subject").count() == 1, "{}", host.said());
    Ok(())
}

fn a_watched_process_does_not_become_another_server(lab: &Lab) -> Result<()> {
    let (host, server) = fixture(lab)?;
    let other = program(lab, "second")?;
    let lax = format!("[[match]]\nexe = [\"{}\"]", other.display());
    let lax = rules(&lax).replace("/**/forbidden", "/**/nothing");
    lab.rule_file("servers/lax.toml", &format!("schema = 1\nserver = \"lax\"\n{lax}"))?;
    ensure!(host.ask(&["reload"])?.status.success(), "{}", host.said());
    let forbidden = lab.folder().join("forbidden").display().to_string();
    let alone = run(lab, &other, &["read", &forbidden])?;
    ensure!(has_read(&alone), "by itself it is the lax one: {alone:?}");
    let other = other.display().to_string();
    let beneath = run(lab, &server, &["exec", &other, "read", &forbidden])?;
    ensure!(is_kept_from(lab, &beneath), "{beneath:?} {}", host.said());
    ensure!(host.said().matches("is server lax").count() == 1, "{}", host.said());
    Ok(())
}

fn servers_are_known_by_arguments_and_cgroup(lab: &Lab) -> Result<()> {
    let server = program(lab, "server")?;
    let cgroup = lab.cgroups()?.join(format!("e2e-{}", lab.marker()));
    let exe = format!("exe = [\"{}\"]", server.display());
    lab.policy(&rules(&format!(
        "[[match]]\n{exe}\nargs = [\"**/forbidd?n\"]\n\
         [[match]]\n{exe}\nunit = [\"{}\"]",
        cgroup.file_name().and_then(|name| name.to_str()).context("has a name")?
    )))?;
    write_files(lab)?;
    let host = Host::start(lab)?;
    let forbidden = lab.folder().join("forbidden").display().to_string();
    let by_argument = run(lab, &server, &["read", &forbidden])?;
    ensure!(is_kept_from(lab, &by_argument), "{by_argument:?} {}", host.said());
    let by_none = run(lab, &server, &["read", "forbidden"])?;
    ensure!(has_read(&by_none), "{by_none:?} {}", host.said());
    let _removed = Directory::make(cgroup.join("beneath"))?;
    let entered = cgroup.join("beneath/cgroup.procs");
    let mut inside = command(lab, &server, &["read", "forbidden"]);
    // SAFETY: between fork and exec only system calls are made: the path is there already.
    unsafe { inside.pre_exec(move || fs::write(&entered, "0")) };
    let by_cgroup = output_of(inside.spawn()?)?;
    ensure!(is_kept_from(lab, &by_cgroup), "{by_cgroup:?} {}", host.said());
    Ok(())
}

fn servers_that_begin_while_others_are_adopted_are_let_go(lab: &Lab) -> Result<()> {
    let (host, server) = fixture(lab)?;
    let files = ["forbidden", "allowed"].into_iter().cycle().take(STARTS_AT_RELOADS);
    let commands: Vec<_> = files.map(|file| command(lab, &server, &["read", file])).collect();
    let starts = thread::spawn(move || {
        let starts = commands.into_iter().enumerate().map(|(number, mut command)| {
            // Otherwise each begins at the same point of a reload: when the one before was let go.
            thread::sleep(Duration::from_millis(number as u64 * 37 % 100));
            output_of(command.spawn()?)
        });
        starts.collect::<Result<Vec<_>>>()
    });
    // Each reload looks for servers that run and are not watched yet.
    while !starts.is_finished() {
        ensure!(host.ask(&["reload"])?.status.success(), "{}", host.said());
    }
    let outputs = starts.join().map_err(|_| anyhow!("a start has panicked"))??;
    for (number, pair) in outputs.chunks(2).enumerate() {
        let [forbidden, allowed] = pair else { bail!("{STARTS_AT_RELOADS} is even") };
        let is_judged = is_kept_from(lab, forbidden) && has_read(allowed);
        ensure!(is_judged, "pair {number}: {pair:?} {}", host.said());
    }
    Ok(())
}

/// A cgroup and the one above it, until they are dropped.
struct Directory(PathBuf);

impl Directory {
    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The kernel may need a moment after its last process has ended.
        let _ = eventually("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

fn a_server_that_is_held_gets_nothing_while_no_agent_runs(lab: &Lab) -> Result<()> {
    let (mut host, server) = fixture(lab)?;
    host.end_by(libc::SIGKILL)?;
    let mut held = command(lab, &server, &["read", "forbidden"]).spawn()?;
    let patient = command(lab, &server, &["read", "allowed"]).spawn()?;
    for child in [&held, &patient] {
        eventually("it is held", || state(child) == Some('T'))?;
    }
    // Somebody lets it go on: it is stopped again by its next call, or refused what it asks for.
    // SAFETY: takes numbers; our own child, which has not been waited for.
    unsafe { libc::kill(held.id() as i32, libc::SIGCONT) };
    eventually("it is stopped again, or has ended", || {
        matches!(state(&held), Some('T' | 'Z')) || held.try_wait().is_ok_and(|end| end.is_some())
    })?;
    host.begin()?;
    let allowed = stdout_of(patient)?;
    ensure!(allowed.contains("ok bytes="), "{allowed} {}", host.said());
    let said = stdout_of(held)?;
    ensure!(!said.contains("ok bytes="), "{said} {}", host.said());
    Ok(())
}

/// State of a process, as procfs calls it.
fn state(child: &Child) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn running_servers_are_adopted_with_their_descendants(lab: &Lab) -> Result<()> {
    let server = program(lab, "server")?;
    let other = program(lab, "other")?;
    write_files(lab)?;
    // A server with a child that waits, then reads; and one that has the forbidden file open.
    let folder = lab.folder().display();
    let wait = "while [ ! -e go ]; do sleep 0.05; done";
    let script = |name: &str| {
        format!("echo begun; {wait}; {folder}/other read {folder}/{name}; echo end")
    };
    let start = |name: &str, open: bool| -> Result<Child> {
        let mut command = Command::new("/bin/sh");
        let redirected = if open { "exec 5< forbidden; " } else { "" };
        command.args(["-c", &format!("{redirected}{}", script(name)), "mcp-server-e2e"]);
        command.current_dir(lab.folder()).env(MARKER, lab.marker());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).uid(NOBODY).gid(NOBODY);
        Ok(command.spawn()?)
    };
    let forbidden = start("forbidden", true)?;
    let allowed = start("allowed", false)?;
    let mut stranger = command(lab, &other, &["sleep", "100000"]).spawn()?;
    let _ = server;
    lab.policy(&rules("[[match]]\nargs = [\"mcp-server-e2e\"]"))?;
    let host = Host::start(lab)?;
    eventually("both are adopted", || {
        host.status().is_ok_and(|all| all["instances"].as_array().is_some_and(|all| all.len() == 2))
    })?;
    let said = host.said();
    ensure!(said.contains("forbidden (read: deny)"), "{said}");
    ensure!(said.contains("is not known"), "{said}");
    fs::write(lab.folder().join("go"), "")?;
    let read = stdout_of(allowed)?;
    ensure!(read.contains("ok bytes=") && read.contains("end"), "{read} {}", host.said());
    let kept = stdout_of(forbidden)?;
    ensure!(!kept.contains("ok bytes="), "{kept} {}", host.said());
    ensure!(stranger.try_wait()?.is_none(), "it was no server");
    stranger.kill()?;
    stranger.wait()?;
    Ok(())
}

fn matched_servers_are_taken_over(lab: &Lab) -> Result<()> {
    let (mut host, server) = fixture(lab)?;
    let words = ["await", "go", ",", "read", "forbidden"];
    let running = command(lab, &server, &words).spawn()?;
    let is_known = |host: &Host<'_>| {
        host.status().is_ok_and(|all| all["instances"].as_array().is_some_and(|all| all.len() == 1))
    };
    eventually("it is matched", || is_known(&host))?;
    host.end_by(libc::SIGKILL)?;
    host.begin()?;
    ensure!(is_known(&host), "{}", host.said());
    fs::write(lab.folder().join("go"), "")?;
    let said = stdout_of(running)?;
    ensure!(!said.contains("ok bytes="), "{said} {}", host.said());
    eventually("it has ended", || !is_known(&host))
}

fn a_home_is_no_secret_to_its_owner(lab: &Lab) -> Result<()> {
    let (host, server) = fixture(lab)?;
    // To others it is: a server of theirs that runs at the same time.
    let mut of_another = command(lab, &server, &["sleep", "100000"]);
    let of_another = of_another.uid(NOBODY).gid(NOBODY).env("HOME", lab.home());
    let mut of_another = of_another.spawn()?;
    eventually("it runs", || {
        host.status().is_ok_and(|all| all["instances"].as_array().is_some_and(|all| all.len() == 1))
    })?;
    let own = tempfile::Builder::new().prefix("mcp-monitor-e2e-").tempdir_in("/root")?;
    let file = own.path().join("notes");
    fs::write(&file, "text\n")?;
    let read = run(lab, &server, &["read", &file.display().to_string()])?;
    ensure!(has_read(&read), "{read:?} {}", host.said());
    of_another.kill()?;
    of_another.wait()?;
    let twin = run(lab, &server, &["read", "forbidden"])?;
    ensure!(is_kept_from(lab, &twin), "{twin:?} {}", host.said());
    Ok(())
}
