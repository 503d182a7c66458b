//! Servers in containers that podman starts as Debian has set it up: with systemd's scopes, as root
//! and as an ordinary user.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::machine::{eventually, journal, said, sh, status};

/// One of them is in the group, and has keys.
const USER: &str = "member";
const IMAGE: &str = "/srv/image";
const RULE_FILE: &str = "/etc/mcp-monitor/rules.d/servers/contained.toml";
const RULES: &str = "schema = 1\nserver = \"contained\"\ninclude = [\"base\"]\n\
    [[match]]\ncgroup = [\"/**/libpod-[0-9a-f][0-9a-f]*/**\"]\n\
    [files]\nread = [\"/srv/**\", \"/keys/**\", \"/notes/**\"]\ndeny = [\"/srv/forbidden\"]\n\
    [response]\nmode = \"enforce\"\n\
    unlisted = { read = \"alert\", write = \"alert\", exec = \"alert\" }\n";

pub fn of_root() -> Result<()> {
    fs::create_dir_all(Path::new(IMAGE).join("srv"))?;
    let own = std::env::current_exe()?;
    fs::copy(own.with_file_name("actor"), Path::new(IMAGE).join("srv/server"))?;
    for name in ["allowed", "forbidden"] {
        fs::write(Path::new(IMAGE).join("srv").join(name), "text\n")?;
    }
    for (folder, file) in [(".ssh", "innocent"), ("notes", "plain")] {
        let folder = Path::new("/home").join(USER).join(folder);
        fs::create_dir(&folder)?;
        fs::write(folder.join(file), "text\n")?;
    }
    sh(&format!("chown -R {USER} /home/{USER}"))?;
    fs::write(RULE_FILE, RULES)?;
    ensure!(sh("mcp-monitor check --server contained")?.contains("matches"));
    sh("systemctl reload mcp-monitor")?;
    let root = Engine { user: "root", home: "/root" };
    root.judges("/var/lib/containers/storage/overlay")
}

pub fn of_a_user() -> Result<()> {
    let uid = sh(&format!("id -u {USER}"))?;
    sh(&format!("loginctl enable-linger {USER}"))?;
    let bus = format!("/run/user/{uid}/bus");
    eventually("the user's manager runs", || Ok(Path::new(&bus).exists()))?;
    let home = format!("/home/{USER}");
    let own = Engine { user: USER, home: &home };
    own.judges(&format!("{home}/.local/share/containers/storage"))?;
    sh(&format!("loginctl disable-linger {USER}; rm {RULE_FILE}; systemctl reload mcp-monitor"))?;
    eventually("the user's manager has ended", || Ok(!Path::new(&bus).exists()))
}

/// podman of somebody.
struct Engine<'a> {
    user: &'a str,
    home: &'a str,
}

impl Engine<'_> {
    /// Containers of his are judged. `storage` is where he has their files.
    fn judges(&self, storage: &str) -> Result<()> {
        let tar = format!("tar -c -C {IMAGE} . | podman import - mcp-server");
        let imported = self.output(&["sh", "-c", &tar])?;
        ensure!(imported.status.success(), "{}", said(&imported));
        let before = matched()?.len();
        let (denied, allowed) = (self.reads("/srv/forbidden")?, self.reads("/srv/allowed")?);
        ensure!(is_denied(&denied) && !is_denied(&allowed), "{denied:?} {allowed:?}");
        ensure!(said(&allowed).contains("ok bytes="), "{allowed:?}");
        // Files of the host.
        let (secret, plain) = (self.reads("/keys/innocent")?, self.reads("/notes/plain")?);
        ensure!(is_denied(&secret) && said(&plain).contains("ok bytes="), "{secret:?} {plain:?}");
        let matched = matched()?;
        let is_server = |message: &&String| message.contains("(/srv/server), started by process");
        let servers = matched[before..].iter().filter(is_server).count();
        ensure!((servers, matched.len()) == (4, before + 4), "{matched:?}");
        let alerts = journal("MCP_SERVER=contained MCP_CATEGORY=secret")?;
        let alert = alerts.last().context("no alert in the journal")?;
        let wanted = format!("/keys/innocent (on the host /home/{USER}/.ssh/innocent)");
        ensure!(alert["MESSAGE"].as_str().is_some_and(|said| said.contains(&wanted)), "{alert}");
        let alerts = journal("MCP_SERVER=contained MCP_CATEGORY=file_read")?;
        let alert = alerts.last().context("no alert in the journal")?;
        let wanted = format!("/srv/forbidden (on the host {storage}/");
        ensure!(alert["MESSAGE"].as_str().is_some_and(|said| said.contains(&wanted)), "{alert}");
        eventually("all of them have ended", || {
            Ok(status()?["instances"].as_array().is_some_and(Vec::is_empty))
        })
    }

    /// Has a server in a container read a file.
    fn reads(&self, path: &str) -> Result<Output> {
        let mounts = [".ssh:/keys", "notes:/notes"].map(|at| format!("/home/{USER}/{at}"));
        let [keys, notes] = &mounts;
        let run = ["podman", "run", "--interactive", "--rm", "--network", "none"];
        let mounts = ["--volume", keys, "--volume", notes];
        let server = ["mcp-server", "/srv/server", "read", path];
        self.output(&[&run[..], &mounts, &server].concat())
    }

    fn output(&self, words: &[&str]) -> Result<Output> {
        let uid = sh(&format!("id -u {}", self.user))?;
        let runtime = format!("/run/user/{uid}");
        let mut command = Command::new("runuser");
        command.args(["-u", self.user, "--"]).args(words).current_dir("/").stdin(Stdio::null());
        // As from a login: a service's podman leaves its monitor in the service's cgroup.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.home);
        if self.user != "root" {
            command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={runtime}/bus"));
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        command.output().context("runuser")
    }
}

fn is_denied(output: &Output) -> bool {
    said(output).contains("denied errno=1 call=open")
}

/// What the agent has said of servers that it found.
fn matched() -> Result<Vec<String>> {
    let lines = journal("_SYSTEMD_UNIT=mcp-monitor.service")?;
    let messages = lines.iter().filter_map(|line| line["MESSAGE"].as_str());
    Ok(messages.filter(|message| message.contains("is server ")).map(str::to_owned).collect())
}
