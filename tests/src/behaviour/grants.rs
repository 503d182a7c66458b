//! Rights for a while: in the kernel at once, and gone again by themselves.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Backend, Lab,
    host::{Host, NOBODY, Served},
    run::eventually,
};

crate::tests! {
    both: [
        file_is_readable_for_as_long_as_it_is_granted,
        grant_ends_by_itself,
        grant_to_one_instance_is_for_no_other,
        grant_ends_in_the_kernel_when_no_agent_runs,
        grants_that_are_not_over_come_back_with_the_next_agent,
        address_is_reachable_for_as_long_as_it_is_granted,
        grants_are_roots_and_outranked_by_deny_and_sets,
    ],
}

/// After the end of a grant, until the kernel waits for no agent any more; and a second.
const PATIENCE: Duration = Duration::from_secs(4);

/// A server that may read what its shell needs, and connect nowhere.
fn rules(lab: &Lab) -> Result<String> {
    let folder = lab.folder().display();
    Ok(format!(
        "include = [\"base\"]\n\
         [files]\nread = [\"/bin/**\", \"/usr/**\", \"/sbin/**\", \"/proc/**\", \"{folder}/go-*\", \"{actor}\"]\n\
         deny = [\"/**/never\"]\n\
         [exec]\nallow = [\"/bin/{{sh,dash,cat,sleep,busybox}}\", \"/usr/bin/{{sh,dash,cat,sleep}}\", \"{actor}\"]\n\
         [response]\nmode = \"enforce\"\n\
         unlisted = {{ read = \"deny\", write = \"deny\", exec = \"deny\", connect = \"deny\", listen = \"deny\", unix = \"deny\" }}\n",
        actor = lab.actor()?.display(),
    ))
}

fn fixture(lab: &Lab) -> Result<Host<'_>> {
    lab.policy(&rules(lab)?)?;
    for name in ["wanted", "never"] {
        fs::write(lab.folder().join(name), format!("text of {name}\n"))?;
    }
    Host::start(lab)
}

fn wanted(lab: &Lab) -> String {
    lab.folder().join("wanted").display().to_string()
}

/// A server that does something each time that it is told to go on.
struct Steps<'a> {
    lab: &'a Lab,
    name: String,
    served: Served,
    step: u32,
}

impl<'a> Steps<'a> {
    /// Starts a server called `name` that runs `what` three times.
    fn start(lab: &'a Lab, host: &Host<'_>, name: &str, what: &str) -> Result<Self> {
        let folder = lab.folder().display();
        let script = format!(
            "echo begun; for step in 1 2 3; do while [ ! -e {folder}/go-{name}-$step ]; do \
             sleep 0.05; done; {what}; echo step $step; done"
        );
        let mut served = host.serve(&["--server", "subject"], &script)?;
        served.wait_for("begun")?;
        Ok(Self { lab, name: name.to_owned(), served, step: 0 })
    }

    /// Lets it go on once, and returns what it wrote in that step.
    fn go(&mut self) -> Result<String> {
        self.step += 1;
        let before = self.served.stdout().len();
        fs::write(self.lab.folder().join(format!("go-{}-{}", self.name, self.step)), "")?;
        self.served.wait_for(&format!("step {}", self.step))?;
        Ok(self.served.stdout().split_off(before))
    }

    /// Lets it read the file; it must come to it.
    fn reads(&mut self) -> Result<()> {
        let out = self.go()?;
        ensure!(out.contains("text of wanted"), "{out} {}", self.served.stderr());
        Ok(())
    }

    /// Lets it read the file; it must not come to it, or dies of it.
    fn cannot_read(mut self) -> Result<()> {
        match self.lab.backend() {
            Backend::Lsm => {
                let out = self.go()?;
                let said = self.served.stderr();
                ensure!(!out.contains("text of") && said.contains("not permitted"), "{out} {said}");
            }
            Backend::Tracepoint => {
                ensure!(self.go().is_err(), "{}", self.served.stdout());
                let (code, said) = (self.served.finish()?, self.served.stderr());
                ensure!(code == 137, "{code}: {said}");
            }
        }
        Ok(())
    }
}

fn grant(host: &Host<'_>, rights: &[&str]) -> Result<Output> {
    let mut verb = vec!["grant", "--json"];
    verb.extend(rights);
    host.ask(&verb)
}

/// Grants, and returns the number of the grant.
fn granted(host: &Host<'_>, rights: &[&str]) -> Result<String> {
    let output = grant(host, rights)?;
    ensure!(output.status.success(), "{output:?}");
    let given: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(given["grant"]["by"]["user"].is_string(), "{given}");
    Ok(given["grant"]["id"].to_string())
}

fn instances(host: &Host<'_>) -> Result<Vec<String>> {
    let status = host.status()?;
    let all = status["instances"].as_array().context("has instances")?;
    Ok(all.iter().map(|one| one["instance"].to_string()).collect())
}

fn file_is_readable_for_as_long_as_it_is_granted(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    Steps::start(lab, &host, "without", &format!("cat {}", wanted(lab)))?.cannot_read()?;
    let mut server = Steps::start(lab, &host, "with", &format!("cat {}", wanted(lab)))?;
    let id = granted(&host, &["--server", "subject", "--read", &wanted(lab), "--for", "1h"])?;
    server.reads()?;
    // Whoever begins meanwhile has it, too; and a reload takes nothing away.
    let mut later = Steps::start(lab, &host, "later", &format!("cat {}", wanted(lab)))?;
    later.reads()?;
    let reloaded = host.ask(&["reload"])?;
    ensure!(reloaded.status.success(), "{reloaded:?}");
    later.reads()?;
    let list = host.ask(&["grant", "--list"])?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    ensure!(list.contains(&wanted(lab)) && list.contains(&format!("grant {id} ")), "{list}");
    let revoked = host.ask(&["grant", "--revoke", &id])?;
    ensure!(revoked.status.success(), "{revoked:?}");
    server.cannot_read()?;
    later.cannot_read()?;
    ensure!(host.said().contains(&format!("revoke: grant {id}")), "{}", host.said());
    let list = host.ask(&["grant", "--list"])?;
    ensure!(list.stdout == b"nothing is granted\n", "{list:?}");
    Ok(())
}

fn grant_ends_by_itself(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let mut server = Steps::start(lab, &host, "server", &format!("cat {}", wanted(lab)))?;
    let longer = granted(&host, &["--server", "subject", "--exec", "/usr/bin/true", "--for", "1h"])?;
    let id = granted(&host, &["--server", "subject", "--read", &wanted(lab), "--for", "20s"])?;
    server.reads()?;
    let told = format!("expire: grant {id}");
    eventually(&told, || host.said().contains(&told))?;
    server.cannot_read()?;
    let list = host.ask(&["grant", "--list"])?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    ensure!(list.contains(&format!("grant {longer} ")) && !list.contains("wanted"), "{list}");
    Ok(())
}

fn grant_to_one_instance_is_for_no_other(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let what = format!("cat {}", wanted(lab));
    let mut one = Steps::start(lab, &host, "one", &what)?;
    let before = instances(&host)?;
    let twin = Steps::start(lab, &host, "twin", &what)?;
    granted(&host, &["--instance", &before[0], "--read", &wanted(lab), "--for", "1h"])?;
    one.reads()?;
    twin.cannot_read()?;
    one.reads()?;
    // With the instance its grant is over.
    one.go()?;
    one.served.finish()?;
    eventually("the grant has ended", || host.said().contains("end: grant 1"))
}

fn grant_ends_in_the_kernel_when_no_agent_runs(lab: &Lab) -> Result<()> {
    let mut host = fixture(lab)?;
    let mut server = Steps::start(lab, &host, "server", &format!("cat {}", wanted(lab)))?;
    let id = granted(&host, &["--server", "subject", "--read", &wanted(lab), "--for", "30s"])?;
    let over = Instant::now() + Duration::from_secs(30) + PATIENCE;
    server.reads()?;
    host.end_by(libc::SIGKILL)?;
    // Nobody watches, and it is not over.
    server.reads()?;
    thread::sleep(over.saturating_duration_since(Instant::now()));
    server.cannot_read()?;
    host.begin()?;
    let told = format!("expire: grant {id}");
    eventually(&told, || host.said().contains(&told))
}

fn grants_that_are_not_over_come_back_with_the_next_agent(lab: &Lab) -> Result<()> {
    let mut host = fixture(lab)?;
    let mut server = Steps::start(lab, &host, "server", &format!("cat {}", wanted(lab)))?;
    let rights = ["--server", "subject", "--read", &wanted(lab), "--for"];
    let longer = granted(&host, &[&rights[..], &["1h"]].concat())?;
    let shorter = granted(&host, &["--server", "subject", "--exec", "/usr/bin/true", "--for", "2s"])?;
    host.end_by(libc::SIGKILL)?;
    thread::sleep(Duration::from_secs(2) + PATIENCE);
    host.begin()?;
    let over = format!("expire: grant {shorter}");
    eventually(&over, || host.said().contains(&over))?;
    server.reads()?;
    let revoked = host.ask(&["grant", "--revoke", &longer])?;
    ensure!(revoked.status.success(), "{revoked:?}");
    let state = lab.folder().join("run/grants.json");
    let state = fs::read_to_string(state)?;
    ensure!(!state.contains("wanted"), "{state}");
    server.cannot_read()
}

fn address_is_reachable_for_as_long_as_it_is_granted(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [granted_to, other] = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    let connect = |to: SocketAddr| -> Result<String> {
        Ok(format!("{} tcp 127.0.0.1 {}", lab.actor()?.display(), to.port()))
    };
    let what = format!("{}; {}", connect(granted_to)?, connect(other)?);
    let mut server = Steps::start(lab, &host, "server", &what)?;
    let results = |out: String| -> Vec<String> {
        let words = out.lines().filter_map(|line| line.split_whitespace().next());
        words.filter(|word| *word != "step").map(str::to_owned).collect()
    };
    let out = results(server.go()?);
    ensure!(out == ["denied", "denied"], "{out:?}");
    let address = granted_to.to_string();
    let id = granted(&host, &["--server", "subject", "--connect", &address, "--for", "1h"])?;
    let out = results(server.go()?);
    ensure!(out == ["ok", "denied"], "{out:?}");
    let revoked = host.ask(&["grant", "--revoke", &id])?;
    ensure!(revoked.status.success(), "{revoked:?}");
    let out = results(server.go()?);
    ensure!(out == ["denied", "denied"], "{out:?}");
    Ok(())
}

fn grants_are_roots_and_outranked_by_deny_and_sets(lab: &Lab) -> Result<()> {
    let host = fixture(lab)?;
    let mut server = Steps::start(lab, &host, "server", &format!("cat {}", wanted(lab)))?;
    let key = PathBuf::from("/root/.ssh/id_ed25519").display().to_string();
    let never = lab.folder().join("never").display().to_string();
    let refusals: [(&[&str], &str); 7] = [
        (&["--read", &never], "files.deny"),
        (&["--read", &key], "sets.secrets"),
        (&["--read", "relative"], "starts with neither"),
        (&["--read", "${HOME}/x"], "no variables"),
        (&["--connect", "no-address"], "connect"),
        (&["--secret", &never], "files.deny"),
        (&[], "names something"),
    ];
    for (rights, why) in refusals {
        let output = grant(&host, &[&["--server", "subject", "--for", "1h"], rights].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(4) && said.contains(why), "{rights:?}: {output:?}");
    }
    let unknown = grant(&host, &["--server", "nobody", "--read", "/srv/x", "--for", "1h"])?;
    ensure!(String::from_utf8_lossy(&unknown.stderr).contains("no server nobody"), "{unknown:?}");
    std::os::unix::fs::chown(host.socket(), None, Some(NOBODY))?;
    let rights = ["--server", "subject", "--read", &wanted(lab), "--for", "1h"];
    for verb in [&[&["grant"], &rights[..]].concat()[..], &["grant", "--list"], &["grant", "--revoke", "1"]] {
        let refused = host.ask_as(NOBODY, verb)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(4) && said.contains("only root"), "{refused:?}");
    }
    let list = host.ask(&["grant", "--list"])?;
    ensure!(list.stdout == b"nothing is granted\n", "{list:?}");
    // Said on purpose, a member of a set can be granted.
    granted(&host, &["--server", "subject", "--secret", &key, "--for", "1h"])?;
    granted(&host, &rights)?;
    server.reads()
}
