//! AF_UNIX peers are known by where they are bound, not by what they are called: rows 17 and 19 of
//! `docs/evasions.md`.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{Lab, cases::Cases};

crate::tests! {
    both: [
        peers_are_judged_by_where_they_are_bound,
        listening_is_judged_by_the_path,
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
    let mut cases = Cases::new();
    for (name, steps, _) in WAYS {
        for (side, peer) in ["allowed", "forbidden"].into_iter().zip(&peers) {
            let steps = steps
                .replace("{dir}", &peer.dir.to_string_lossy())
                .replace("{side}", side)
                .replace("{id}", &std::process::id().to_string());
            cases.add(&format!("{name}.{side}"), steps);
        }
    }
    let free = cases.alone(lab)?;
    ensure!(free.values().all(|line| line.starts_with("ok")), "without the monitor: {free:#?}");
    for peer in &peers {
        peer.arrived();
        std::fs::remove_file(peer.dir.join("link"))?;
    }
    let batch = cases.run(lab)?;
    for (name, ..) in WAYS {
        batch.worked(&format!("{name}.allowed"))?;
        batch.refused(&format!("{name}.forbidden"))?;
    }
    let expected = WAYS.iter().filter(|(.., by_argument)| batch.enforcing || *by_argument).count();
    let found = batch.events.violations().filter(|event| {
        let right = event.kind() == "unix" && event.text("category") == "unix";
        right && event.text("path").contains("forbidden") && batch.is_denied(event)
    });
    let found = found.count();
    ensure!(found >= expected, "{found} violations of at least {expected}\n{batch}");
    let mut violations = batch.events.violations();
    ensure!(!violations.any(|event| event.text("path").contains("allowed")), "{batch}");
    let arrived = peers[1].arrived();
    ensure!(!batch.enforcing || arrived == 0, "{arrived} arrived at forbidden sockets");
    Ok(())
}

fn listening_is_judged_by_the_path(lab: &Lab) -> Result<()> {
    let listen = "listen = [\"${HOME}/allowed/**\"]\n[response]";
    let rules = SOCKETS.replace("[response]", listen).replace("listen = \"allow\"", "listen = \"deny\"");
    lab.policy(&rules)?;
    let mut cases = Cases::new();
    for side in ["allowed", "forbidden"] {
        std::fs::create_dir(lab.path(side))?;
        cases.add(side, format!("unix-listen {}", lab.path(format!("{side}/socket")).display()));
    }
    let batch = cases.run(lab)?;
    batch.refused("forbidden")?;
    batch.denied("listen", "listen", lab.path("forbidden/socket"))?;
    batch.worked("allowed")?;
    batch.quiet_about(lab.path("allowed/socket"))
}

fn container_engine_socket_is_a_way_out(lab: &Lab) -> Result<()> {
    let lenient = SOCKETS.replace("unix = \"deny\"", "unix = \"allow\"");
    lab.policy(&lenient.replace("escape = \"allow\"", "escape = \"deny\""))?;
    let path = Path::new("/run/docker.sock");
    if path.exists() {
        return crate::skip("a container engine runs here");
    }
    let _engine = Removed(UnixListener::bind(path).context("/run/docker.sock")?);
    let other = lab.path("other.sock");
    let _other = UnixListener::bind(&other)?;
    let link = lab.path("innocent.sock");
    symlink(path, &link)?;
    let mut cases = Cases::new();
    cases.add("plain", format!("unix-stream {}", path.display()));
    cases.add("link", format!("unix-stream {}", link.display()));
    cases.add("other", format!("unix-stream {}", other.display()));
    let batch = cases.run(lab)?;
    batch.refused("plain")?;
    batch.refused("link")?;
    batch.denied("unix", "escape", path)?;
    batch.worked("other")?;
    batch.quiet_about(&other)
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
