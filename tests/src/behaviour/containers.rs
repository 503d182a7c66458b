//! Servers in containers, which podman starts: known by their cgroup and by what they execute,
//! judged by the paths that they see, from their first act.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Lab, host::Host, podman::Podman, run::eventually};

crate::tests! {
    both: [
        servers_in_containers_are_judged_from_their_first_act,
        a_client_talks_to_a_server_in_a_container,
        rules_mean_paths_as_the_container_sees_them,
        files_of_the_host_stay_what_they_are_in_a_container,
        containers_that_run_already_are_adopted,
    ],
}

const IMAGE: &str = "mcp-server";
/// Containers and nothing else: what starts them lives in cgroups beside theirs.
const BY_CGROUP: &str = "cgroup = [\"/**/libpod-[0-9a-f][0-9a-f]*/**\"]";

/// Rules of a server that is known by this; it may read what lies in `/srv`.
fn rules(known_by: &str) -> String {
    format!(
        "include = [\"base\"]\n[[match]]\n{known_by}\n\
         [files]\nread = [\"/srv/**\"]\ndeny = [\"/srv/forbidden\"]\n\
         [response]\nmode = \"enforce\"\n\
         unlisted = {{ read = \"alert\", write = \"alert\", exec = \"alert\" }}\n"
    )
}

/// The root directory of an image with the actor in it.
struct Root(PathBuf);

impl Root {
    fn new(lab: &Lab) -> Result<Self> {
        let root = Self(lab.folder().join("image"));
        root.program(lab, "srv/server")?;
        for name in ["allowed", "forbidden"] {
            root.file(&format!("srv/{name}"), &format!("text of {name}\n"))?;
        }
        Ok(root)
    }

    fn file(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        Ok(fs::write(path, text)?)
    }

    fn program(&self, lab: &Lab, name: &str) -> Result<()> {
        self.file(name, "")?;
        fs::copy(lab.actor()?, self.0.join(name))?;
        Ok(())
    }

    fn link(&self, name: &str, target: &str) -> Result<()> {
        Ok(symlink(target, self.0.join(name))?)
    }
}

/// podman with the image of a server.
fn image(lab: &Lab) -> Result<Podman<'_>> {
    let podman = Podman::of(lab)?;
    podman.import(&Root::new(lab)?.0, IMAGE)?;
    Ok(podman)
}

/// Whether a forbidden file was not read, as far as the backend can see to it.
fn is_kept_from(lab: &Lab, output: &Output) -> bool {
    /// Of a process that was killed.
    const KILLED: i32 = 128 + libc::SIGKILL;
    let said = String::from_utf8_lossy(&output.stdout);
    match lab.backend() {
        Backend::Lsm => said.contains("denied") && said.contains("call=open"),
        Backend::Tracepoint => output.status.code() == Some(KILLED) && said.is_empty(),
    }
}

fn has_read(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains("ok bytes=") && output.status.success()
}

/// How many servers the agent says it has found.
fn found(host: &Host<'_>) -> usize {
    host.said().matches("is server subject").count()
}

fn instances(host: &Host<'_>) -> Result<usize> {
    Ok(host.status()?["instances"].as_array().context("no instances")?.len())
}

fn servers_in_containers_are_judged_from_their_first_act(lab: &Lab) -> Result<()> {
    let podman = image(lab)?;
    lab.policy(&rules(BY_CGROUP))?;
    let host = Host::start(lab)?;
    let kept = podman.run(&[], IMAGE, &["/srv/server", "read", "/srv/forbidden"])?;
    ensure!(is_kept_from(lab, &kept), "{kept:?} {}", host.said());
    let twin = podman.run(&[], IMAGE, &["/srv/server", "read", "/srv/allowed"])?;
    ensure!(has_read(&twin), "{twin:?} {}", host.said());
    // Neither podman nor its monitor nor its runtime has become a server.
    let said = host.said();
    let of_containers = said.matches("(/srv/server), started by process").count();
    ensure!((found(&host), of_containers) == (2, 2), "{said}");
    eventually("both have ended", || instances(&host).is_ok_and(|count| count == 0))
}

fn a_client_talks_to_a_server_in_a_container(lab: &Lab) -> Result<()> {
    let podman = image(lab)?;
    lab.policy(&rules(BY_CGROUP))?;
    let host = Host::start(lab)?;
    // As a user of whom only the container knows.
    let mut server = podman.start(&["--user", "54321:54321"], IMAGE, &["/srv/server", "batch"])?;
    let mut stdin = server.stdin()?;
    writeln!(stdin, "first read /srv/allowed")?;
    server.wait_for("first ok bytes=")?;
    let status = host.status()?;
    let one = &status["instances"][0];
    ensure!(one["server"] == "subject" && one["uid"] == 54321, "{status}");
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", one["pid"]))?;
    ensure!(cgroup.contains("/libpod-"), "{cgroup}");
    writeln!(stdin, "second read /srv/forbidden")?;
    drop(stdin);
    let end = server.finish()?;
    let said = server.said();
    ensure!(!said.contains("second ok"), "{said} {}", host.said());
    // It was asked for by a process that the server had started.
    let is_kept = match lab.backend() {
        Backend::Lsm => said.contains("second denied") && end.status.success(),
        Backend::Tracepoint => !end.status.success(),
    };
    ensure!(is_kept, "{end:?} {}", host.said());
    ensure!(found(&host) == 1, "{}", host.said());
    Ok(())
}

fn rules_mean_paths_as_the_container_sees_them(lab: &Lab) -> Result<()> {
    let podman = Podman::of(lab)?;
    let root = Root::new(lab)?;
    // Directories where the host has links, and links that it has not.
    root.program(lab, "bin/server")?;
    root.program(lab, "bin/tool")?;
    root.program(lab, "usr/bin/tool")?;
    for name in ["opt/one/notes", "opt/two/notes", "opt/two/secret"] {
        root.file(name, "text\n")?;
    }
    root.link("opt/current", "one")?;
    root.link("opt/other", "/opt/two")?;
    podman.import(&root.0, IMAGE)?;
    let matches = format!("{BY_CGROUP}\nexe = [\"/bin/server\"]");
    lab.policy(&format!(
        "include = [\"base\"]\n[[match]]\n{matches}\n\
         [files]\nread = [\"/opt/current/**\", \"/opt/two/*\"]\ndeny = [\"/opt/other/secret\"]\n\
         [exec]\nallow = [\"/bin/tool\"]\n\
         [response]\nmode = \"enforce\"\nunlisted = {{ read = \"deny\", exec = \"deny\" }}\n"
    ))?;
    let host = Host::start(lab)?;
    let run = |words: &[&str]| podman.run(&[], IMAGE, words);
    let allowed = run(&[
        "/bin/server", "read", "/opt/current/notes", ",", "read", "/opt/two/notes", ",", "exec",
        "/bin/tool", "read", "/opt/one/notes",
    ])?;
    ensure!(has_read(&allowed), "{allowed:?} {}", host.said());
    for path in ["/opt/two/secret", "/srv/allowed"] {
        let kept = run(&["/bin/server", "read", path])?;
        ensure!(is_kept_from(lab, &kept), "{path}: {kept:?} {}", host.said());
    }
    let refused = run(&["/bin/server", "exec", "/usr/bin/tool", "read", "/opt/one/notes"])?;
    ensure!(!has_read(&refused), "{refused:?} {}", host.said());
    // Another container that is no server does as it likes.
    let neighbour = run(&["/bin/tool", "read", "/opt/two/secret"])?;
    ensure!(has_read(&neighbour) && found(&host) == 4, "{neighbour:?} {}", host.said());
    Ok(())
}

fn files_of_the_host_stay_what_they_are_in_a_container(lab: &Lab) -> Result<()> {
    let podman = image(lab)?;
    let secret = lab.file(".ssh/innocent", "secret\n")?;
    let plain = lab.file("notes/plain", "plain\n")?;
    let home = lab.home();
    lab.rule_file(
        "sets/secrets.toml",
        &format!(
            "schema = 1\nset = \"secrets\"\ndescription = \"keys\"\naccess = [\"read\", \"write\"]\n\
             paths = [\"{}/.ssh/**\"]\n",
            home.display()
        ),
    )?;
    let reads = "allow_secret = [\"/lent/**\"]\nread = [\"/keys/**\", \"/notes/**\", ";
    lab.policy(&rules(BY_CGROUP).replace("read = [", reads))?;
    let host = Host::start(lab)?;
    let mounts = [(".ssh", "/keys"), (".ssh", "/lent"), ("notes", "/notes")];
    let mounts = mounts.map(|(folder, place)| mounted(&home.join(folder), place));
    let options = mounts.iter().flat_map(|mount| ["--volume", mount.as_str()]);
    let options: Vec<&str> = options.collect();
    let kept = podman.run(&options, IMAGE, &["/srv/server", "read", "/keys/innocent"])?;
    ensure!(is_kept_from(lab, &kept), "{kept:?} {}", host.said());
    // A harmless file, and the secret where the rules say so.
    let words = ["/srv/server", "read", "/lent/innocent", ",", "read", "/notes/plain"];
    let twin = podman.run(&options, IMAGE, &words)?;
    ensure!(has_read(&twin), "{twin:?} {}", host.said());
    eventually("both reads are recorded", || {
        host.events().is_ok_and(|events| events.event("open", "/notes/plain").is_ok())
    })?;
    let events = host.events()?;
    let violation = events.violation("open", "secret", "/keys/innocent")?;
    ensure!(Path::new(violation.text("host_path")) == secret, "{violation}");
    ensure!(violation.lists("labels", "secrets"), "{violation}");
    let allowed = events.allowed("open", "/notes/plain")?;
    ensure!(Path::new(allowed.text("host_path")) == plain, "{allowed}");
    let told = format!("/keys/innocent (on the host {})", secret.display());
    ensure!(host.said().contains(&told), "{}", host.said());
    Ok(())
}

/// As podman's option wants it.
fn mounted(folder: &Path, place: &str) -> String {
    format!("{}:{place}", folder.display())
}

fn containers_that_run_already_are_adopted(lab: &Lab) -> Result<()> {
    let podman = image(lab)?;
    let gate = lab.folder().join("gate");
    fs::create_dir(&gate)?;
    fs::write(gate.join("note"), "text\n")?;
    let gate_there = mounted(&gate, "/gate");
    let start = |name: &str| {
        let path = format!("/srv/{name}");
        let words = ["/srv/server", "read", "/gate/note", ",", "await", "/gate/go", ",", "read"];
        podman.start(&["--volume", &gate_there], IMAGE, &[&words[..], &[&path]].concat())
    };
    let mut servers = [start("forbidden")?, start("allowed")?];
    lab.policy(&rules(BY_CGROUP))?;
    eventually("both run", || running(lab).is_ok_and(|count| count == 2))?;
    let mut host = Host::start(lab)?;
    let are_known = |host: &Host<'_>| instances(host).is_ok_and(|count| count == 2);
    eventually("both are adopted", || are_known(&host))?;
    ensure!(host.said().matches("(/srv/server) ran already").count() == 2, "{}", host.said());
    // The next agent knows them, too.
    host.end_by(libc::SIGKILL)?;
    host.begin()?;
    ensure!(are_known(&host), "{}", host.said());
    fs::write(gate.join("go"), "")?;
    let [kept, twin] = [servers[0].finish()?, servers[1].finish()?];
    ensure!(has_read(&twin), "{twin:?} {}", host.said());
    ensure!(is_kept_from(lab, &kept), "{kept:?} {}", host.said());
    eventually("both have ended", || instances(&host).is_ok_and(|count| count == 0))
}

/// Processes in this test's containers.
fn running(lab: &Lab) -> Result<usize> {
    let beneath = lab.cgroups()?.join(format!("mcp-monitor-test-{}", lab.marker()));
    let containers = fs::read_dir(beneath)?.flatten().filter(|entry| {
        let processes = fs::read_to_string(entry.path().join("cgroup.procs"));
        entry.file_name().to_string_lossy().starts_with("libpod-")
            && processes.is_ok_and(|list| !list.is_empty())
    });
    Ok(containers.count())
}
