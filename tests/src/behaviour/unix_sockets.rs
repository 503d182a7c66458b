//! AF_UNIX peers are known by where they are bound, not by what they are called: rows 17 and 19
//! of the threat list in the documentation.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Lab, Mode, guard::results};

crate::tests! {
    both: [
        peers_are_judged_by_where_they_are_bound,
        container_engine_socket_is_a_way_out,
    ],
}

const SOCKETS: &str = r#"
[network]
unix = ["${HOME}/allowed/**", "@actor-allowed-*"]
[response]
unlisted = { read = "allow", write = "allow", exec = "allow", connect = "allow", listen = "allow", unix = "deny" }
sets = { secrets = "allow", sensitive = "allow", persistence = "allow", mcp_config = "allow", processes = "allow", escape = "allow", metadata = "allow" }
"#;

/// The peers of one side.
struct Peers {
    stream: UnixListener,
    datagram: UnixDatagram,
    named: UnixListener,
    named_datagram: UnixDatagram,
    dir: PathBuf,
}

impl Peers {
    fn open(lab: &Lab, side: &str) -> Result<Self> {
        let dir = lab.path(side);
        std::fs::create_dir_all(&dir)?;
        let stream = UnixListener::bind(dir.join("stream"))?;
        let datagram = UnixDatagram::bind(dir.join("datagram"))?;
        let id = std::process::id();
        let named = SocketAddr::from_abstract_name(format!("actor-{side}-{id}"))?;
        let named = UnixListener::bind_addr(&named)?;
        let named_datagram = SocketAddr::from_abstract_name(format!("actor-{side}-d-{id}"))?;
        let named_datagram = UnixDatagram::bind_addr(&named_datagram)?;
        stream.set_nonblocking(true)?;
        named.set_nonblocking(true)?;
        datagram.set_nonblocking(true)?;
        named_datagram.set_nonblocking(true)?;
        Ok(Self { stream, datagram, named, named_datagram, dir })
    }

    fn arrived(&self) -> usize {
        let mut count = 0;
        while self.stream.accept().is_ok() || self.named.accept().is_ok() {
            count += 1;
        }
        while self.datagram.recv(&mut [0; 64]).is_ok()
            || self.named_datagram.recv(&mut [0; 64]).is_ok()
        {
            count += 1;
        }
        count
    }
}

/// Name, steps, and whether the tracepoint backend, which sees only the caller's own words, can
/// tell whom it is about.
const WAYS: &[(&str, &str, bool)] = &[
    ("stream", "unix-stream {dir}/stream", true),
    ("datagram", "unix-datagram {dir}/datagram", true),
    ("sendto", "unix-sendto {dir}/datagram", true),
    ("relative", "chdir {dir} , unix-stream stream", false),
    ("symlink", "symlink {dir}/stream {dir}/link , unix-stream {dir}/link", false),
    ("dots", "unix-stream {dir}/../{side}//stream", false),
    ("relative-sendto", "chdir {dir} , unix-sendto ./datagram", false),
    ("abstract", "unix-abstract actor-{side}-{id}", true),
    ("abstract-sendto", "unix-abstract-sendto actor-{side}-d-{id}", true),
    ("forked", "double-fork unix-stream {dir}/stream", true),
];

fn peers_are_judged_by_where_they_are_bound(lab: &Lab) -> Result<()> {
    lab.policy(SOCKETS)?;
    let peers = [Peers::open(lab, "allowed")?, Peers::open(lab, "forbidden")?];
    let mut text = String::new();
    for (name, steps, _) in WAYS {
        for (side, peer) in ["allowed", "forbidden"].into_iter().zip(&peers) {
            let steps = steps
                .replace("{dir}", &peer.dir.to_string_lossy())
                .replace("{side}", side)
                .replace("{id}", &std::process::id().to_string());
            text.push_str(&format!("{name}.{side} {steps}\n"));
        }
    }
    let cases = lab.file("cases", text)?;
    let free = results(&lab.actor_alone(["batch".as_ref(), cases.as_os_str()])?);
    ensure!(free.values().all(|line| line.starts_with("ok")), "without the monitor: {free:#?}");
    for peer in &peers {
        peer.arrived();
        std::fs::remove_file(peer.dir.join("link"))?;
    }

    let enforcing = lab.backend() == Backend::Lsm;
    let mode = if enforcing { Mode::Enforce } else { Mode::Observe };
    let outcome = lab.run(mode).actor(["batch".as_ref(), cases.as_os_str()])?;
    let said = results(&outcome.stdout);
    let mut wrong = Vec::new();
    for (name, _, by_argument) in WAYS {
        let [yes, no] = ["allowed", "forbidden"]
            .map(|side| said.get(&format!("{name}.{side}")).map_or("no result", String::as_str));
        if !yes.starts_with("ok") {
            wrong.push(format!("{name}.allowed: {yes}"));
        }
        if enforcing != no.starts_with("denied errno=1") {
            wrong.push(format!("{name}.forbidden: {no}"));
        }
        let _ = by_argument;
    }
    let expected = WAYS.iter().filter(|(.., by_argument)| enforcing || *by_argument).count();
    let found = outcome.events.violations().filter(|event| {
        let forbidden = event.text("path").contains("forbidden");
        event.kind() == "unix" && event.text("category") == "unix" && forbidden
    });
    let found = found.count();
    if found < expected {
        wrong.push(format!("{found} violations of at least {expected}"));
    }
    for event in outcome.events.violations().filter(|event| event.text("path").contains("allowed")) {
        wrong.push(format!("not expected: {event}"));
    }
    let arrived = peers[1].arrived();
    ensure!(!enforcing || arrived == 0, "{arrived} arrived at forbidden sockets");
    ensure!(wrong.is_empty(), "{wrong:#?}\n{}", outcome.events);
    Ok(())
}

fn container_engine_socket_is_a_way_out(lab: &Lab) -> Result<()> {
    lab.policy(&SOCKETS.replace("escape = \"allow\"", "escape = \"deny\"").replace(
        "unix = \"deny\"",
        "unix = \"allow\"",
    ))?;
    let path = std::path::Path::new("/run/docker.sock");
    if path.exists() {
        return crate::skip("a container engine runs here");
    }
    let engine = Removed(UnixListener::bind(path).context("/run/docker.sock")?);
    let link = lab.path("innocent.sock");
    std::os::unix::fs::symlink(path, &link)?;
    let given = if lab.backend() == Backend::Lsm { link.as_path() } else { path };
    let outcome = lab.run(Mode::Enforce).actor(["unix-stream".as_ref(), given.as_os_str()])?;
    outcome.events.violation("unix", "escape", path)?;
    ensure!(!outcome.stdout.starts_with("ok"), "{outcome}");
    drop(engine);
    let other = UnixListener::bind(lab.path("other.sock"))?;
    let path = lab.path("other.sock");
    let twin = lab.run(Mode::Enforce).actor(["unix-stream".as_ref(), path.as_os_str()])?;
    ensure!(twin.stdout.starts_with("ok") && other.local_addr().is_ok(), "{twin}");
    twin.events.assert_quiet()
}

/// Takes the socket's file away in the end.
struct Removed(UnixListener);

impl Drop for Removed {
    fn drop(&mut self) {
        let address = self.0.local_addr();
        if let Some(path) = address.as_ref().ok().and_then(|address| address.as_pathname()) {
            let _ = std::fs::remove_file(path);
        }
    }
}
