//! What the host agent has to stand: nothing to do, many instances, very many one after another, its
//! own violent end. The tests do a little of each, `cargo xtask bench agent` as much as is promised.

use std::{
    ffi::CString,
    fmt,
    fs::{self, File},
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Backend, Lab,
    host::{Host, Served},
    leftovers::Baseline,
    run::eventually,
};

/// Share of a core that an agent may take that has nothing to do.
pub const IDLE_SHARE_MAX: f64 = 0.001;
/// Memory of an agent that has nothing to do.
pub const IDLE_BYTES_MAX: u64 = 20 << 20;
/// By how much its memory may differ after very many instances: the allocator's own.
const GROWTH_BYTES_MAX: u64 = 4 << 20;
/// After the start, until the agent has nothing to do.
const SETTLED: Duration = Duration::from_secs(3);
/// Longest wait before the agent is killed.
const MOMENT_MS: u64 = 400;

/// A server of which `{folder}/forbidden-{name}` is none of the business.
fn rules(lab: &Lab, name: &str) -> Result<()> {
    let folder = lab.folder().display();
    let text = format!(
        "schema = 1\nserver = \"{name}\"\ninclude = [\"base\"]\n\
         [files]\nread = [\"{folder}/*\"]\ndeny = [\"{folder}/forbidden-{name}\"]\n\
         [exec]\nallow = [\"/bin/{{sh,dash,cat,sleep,busybox}}\", \"/usr/bin/{{sh,dash,cat,sleep}}\"]\n\
         [response]\nmode = \"enforce\"\nunlisted = {{ read = \"alert\", write = \"deny\", \
         exec = \"deny\", connect = \"deny\", listen = \"deny\", unix = \"deny\" }}\n"
    );
    lab.rule_file(&format!("servers/{name}.toml"), &text)?;
    fs::write(lab.folder().join(format!("forbidden-{name}")), format!("text of {name}\n"))?;
    Ok(())
}

/// Does this on a fixture of its own, and leaves nothing.
pub fn alone<T>(backend: Backend, body: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    let before = Baseline::take()?;
    let lab = Lab::new(backend)?;
    let result = body(&lab);
    lab.end()?;
    before.compare()?;
    result
}

/// What an idle agent takes.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Of a core.
    pub share: f64,
    /// RssAnon, bytes.
    pub bytes: u64,
}

/// Has an agent do nothing for so long.
pub fn idle(lab: &Lab, length: Duration) -> Result<Idle> {
    let host = Host::start(lab)?;
    thread::sleep(SETTLED);
    let (before, start) = (cpu_ns(host.id()?)?, Instant::now());
    thread::sleep(length);
    let spent_ns = cpu_ns(host.id()?)? - before;
    let share = spent_ns as f64 / start.elapsed().as_nanos() as f64;
    Ok(Idle { share, bytes: rss_anon(host.id()?)? })
}

/// Processor time of all threads of a process, ns.
fn cpu_ns(process: u32) -> Result<u64> {
    let mut all = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        all += text.split(' ').next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(all)
}

fn rss_anon(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.context("RssAnon")?.trim().trim_end_matches(" kB");
    Ok(kilobytes.parse::<u64>()? << 10)
}

/// Runs so many servers at once, each under rules of its own: it is refused its own forbidden file
/// and reads its neighbour's. The agent's memory meanwhile.
pub fn at_once(lab: &Lab, count: usize) -> Result<u64> {
    let host = Host::start(lab)?;
    let folder = lab.folder().display();
    for number in 0..count {
        rules(lab, &format!("s{number}"))?;
    }
    let mut gate = gate(lab)?;
    let mut servers = Vec::new();
    for number in 0..count {
        let neighbour = (number + 1) % count;
        let script = format!(
            "echo begun; read line <{folder}/gate; \
             cat {folder}/forbidden-s{neighbour}; cat {folder}/forbidden-s{number}; echo end"
        );
        servers.push(host.serve(&["--server", &format!("s{number}")], &script)?);
        // So that launchers do not all wait for the agent's patience to end.
        servers[number].wait_for("begun")?;
    }
    let all = host.status()?["instances"].as_array().map_or(0, Vec::len);
    ensure!(all == count, "{all} instances of {count}");
    let bytes = rss_anon(host.id()?)?;
    // A line for each: whoever waits takes one.
    gate.write_all(&vec![b'\n'; count])?;
    for (number, server) in servers.iter_mut().enumerate() {
        let code = server.finish()?;
        let (own, others) = (format!("text of s{number}\n"), server.stdout());
        ensure!(others.contains("text of s") && !others.contains(&own), "{number}: {others}");
        ensure!(code == code_of_refusal(lab), "{number}: {code}: {}", server.stderr());
    }
    Ok(bytes)
}

/// A pipe with a name at which servers wait without doing anything.
fn gate(lab: &Lab) -> Result<File> {
    let path = lab.folder().join("gate");
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the name ends with NUL and lives across the call.
    ensure!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) } == 0, "{}", io::Error::last_os_error());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    // Opened for both ends it does not wait for the other one.
    Ok(File::options().read(true).write(true).open(path)?)
}

/// How a server ends that has tried what is forbidden: it is refused it, or killed.
fn code_of_refusal(lab: &Lab) -> i32 {
    match lab.backend() {
        Backend::Lsm => 0,
        Backend::Tracepoint => 137,
    }
}

/// What an agent holds that it might not give back.
#[derive(Clone, Debug)]
pub struct Held {
    /// RssAnon, bytes.
    pub bytes: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Entries of each of the kernel's tables.
    pub entries: Vec<(String, u64)>,
    /// Files of instances. Their cgroups are looked for when everything is over.
    pub instances: usize,
}

impl Held {
    fn of(lab: &Lab, host: &Host<'_>) -> Result<Self> {
        let metrics = host.metrics()?;
        let entry = |line: &str| {
            let (map, count) =
                line.strip_prefix("mcp_monitor_map_entries{map=\"")?.split_once("\"} ")?;
            Some((map.to_owned(), count.trim().parse().ok()?))
        };
        let count = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().count();
        Ok(Self {
            bytes: rss_anon(host.id()?)?,
            descriptors: count(Path::new(&format!("/proc/{}/fd", host.id()?))),
            entries: metrics.lines().filter_map(entry).collect(),
            instances: count(&lab.folder().join("run/instances")),
        })
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, descriptors, entries, instances } = self;
        let megabytes = *bytes as f64 / f64::from(1 << 20);
        let entries: u64 = entries.iter().map(|(_, count)| count).sum();
        write!(
            f,
            "RssAnon {megabytes:.1} MB, {descriptors} descriptors, {entries} table entries, {instances} left of instances"
        )
    }
}

/// Starts and ends so many servers, and compares what the agent holds after a tenth of them and after
/// all.
pub fn one_after_another(lab: &Lab, count: usize) -> Result<(Held, Held)> {
    let host = Host::start(lab)?;
    rules(lab, "brief")?;
    let warm = (count / 10).max(2);
    let before = run_briefly(lab, &host, warm)?;
    let after = run_briefly(lab, &host, count - warm)?;
    // The connection of whoever asks may be closed a moment later.
    ensure!(after.descriptors <= before.descriptors + 2, "{before}; {after}");
    ensure!(after.bytes < before.bytes + GROWTH_BYTES_MAX, "{before}; {after}");
    Ok((before, after))
}

/// Until nothing of any instance is left, which the metrics tell with a second's delay.
fn until_all_have_ended(lab: &Lab, host: &Host<'_>) -> Result<Held> {
    let running = || -> Result<bool> {
        let all = &host.status()?["instances"];
        Ok(!all.as_array().is_some_and(Vec::is_empty))
    };
    eventually("no instance runs", || matches!(running(), Ok(false)))?;
    let mut last = Held::of(lab, host)?;
    eventually("nothing is left of instances", || {
        Held::of(lab, host).is_ok_and(|held| {
            last = held;
            last.instances == 0 && last.entries.iter().all(|(_, count)| *count == 0)
        })
    })
    .with_context(|| format!("{last:?}"))?;
    ensure!(last.entries.iter().any(|(map, _)| map == "tags"), "{last:?}");
    Ok(last)
}

fn run_briefly(lab: &Lab, host: &Host<'_>, count: usize) -> Result<Held> {
    let script = format!("cat {}/forbidden-brief", lab.folder().display());
    for number in 0..count {
        // Every tenth does what is forbidden: alerts may not pile up either.
        let script = if number.is_multiple_of(10) { &script } else { ":" };
        let mut server = host.serve(&["--server", "brief"], script)?;
        let code = server.finish()?;
        ensure!(code == 0 || number.is_multiple_of(10), "{number}: {code}: {}", server.stderr());
        server.remove()?;
    }
    until_all_have_ended(lab, host)
}

/// What came of killing the agent over and over.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// How often it was killed.
    pub times: usize,
    /// Forbidden opens that were tried, before, between and after, and refused or killed for.
    pub refused: usize,
    /// Launches that were under way when it was killed.
    pub launches: usize,
}

/// Kills the agent so many times, each time at a random moment while servers work and one is being
/// launched; then every server must be judged as before.
pub fn kills(lab: &Lab, count: usize) -> Result<Killed> {
    let mut host = Host::start(lab)?;
    rules(lab, "busy")?;
    let mut killed = Killed { times: 0, refused: 0, launches: 0 };
    // A refusal ends a server on the tracepoint backend.
    let busy = match lab.backend() {
        Backend::Lsm => (0..3)
            .map(|_| begin(&host, &attempts(lab, "forbidden-busy")))
            .collect::<Result<Vec<_>>>()?,
        Backend::Tracepoint => Vec::new(),
    };
    for number in 0..count {
        let mut waiting = begin(&host, &waits(lab, number))?;
        let mut late = host.serve(&["--server", "busy"], &waits(lab, number))?;
        thread::sleep(Duration::from_millis(random() % MOMENT_MS));
        host.end_by(libc::SIGKILL)?;
        killed.times += 1;
        fs::write(lab.folder().join(format!("go-{number}")), "")?;
        if random().is_multiple_of(2) {
            ensure_refused(lab, &mut waiting)?;
            host.begin()?;
        } else {
            host.begin()?;
            ensure_refused(lab, &mut waiting)?;
        }
        // It was launched, or it was not; unwatched it did not run.
        late.finish()?;
        ensure!(!late.stdout().contains("text of"), "{}", late.stdout());
        killed.launches += 1;
        killed.refused += 1;
    }
    fs::write(lab.folder().join("stop"), "")?;
    for mut server in busy {
        server.finish()?;
        let out = server.stdout();
        ensure!(!out.contains("LEAK") && !out.contains("text of"), "{out}");
        killed.refused += out.matches("tick").count();
    }
    until_all_have_ended(lab, &host)?;
    let detached = host.detach_all()?;
    ensure!(detached.status.success(), "{detached:?}");
    Ok(killed)
}

fn begin(host: &Host<'_>, script: &str) -> Result<Served> {
    let mut server = host.serve(&["--server", "busy"], script)?;
    server.wait_for("begun")?;
    Ok(server)
}

/// A server that tries a forbidden file over and over until there is a file `stop`; it says `tick` for
/// each refusal, and `LEAK` if one is not refused.
pub fn attempts(lab: &Lab, forbidden: &str) -> String {
    let folder = lab.folder().display();
    format!(
        "echo begun; while [ ! -e {folder}/stop ]; do \
         if cat {folder}/{forbidden} 2>/dev/null; then echo LEAK; else echo tick; fi; done"
    )
}

/// Tries it once it may.
fn waits(lab: &Lab, number: usize) -> String {
    let folder = lab.folder().display();
    format!(
        "echo begun; while [ ! -e {folder}/go-{number} ]; do sleep 0.05; done; \
         cat {folder}/forbidden-busy; echo end"
    )
}

fn ensure_refused(lab: &Lab, server: &mut Served) -> Result<()> {
    let code = server.finish()?;
    let out = server.stdout();
    ensure!(!out.contains("text of"), "{out}");
    ensure!(code == code_of_refusal(lab), "{code}: {out} {}", server.stderr());
    Ok(())
}

fn random() -> u64 {
    RandomState::new().hash_one(Instant::now())
}
