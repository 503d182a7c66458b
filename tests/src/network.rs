//! A network of a test's own, with hosts and a resolver: namespaces that only the thread of the
//! test, and what it starts, are in. They go when the test ends, with everything in them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Lab, eventually};

/// Where the resolver of the network listens.
pub const RESOLVER: &str = "127.0.0.9";
/// The same for questions over IPv6.
pub const RESOLVER6: &str = "::1";

/// See the module.
pub struct Network {
    resolver: Option<Child>,
    log: PathBuf,
    /// Where the thread was before.
    home: [File; 2],
}

impl Network {
    /// Makes the network with these addresses, and with `/etc/hosts` and `/etc/resolv.conf` of its
    /// own.
    pub fn new(lab: &Lab, addresses: &[&str], hosts: &str, resolv_conf: &str) -> Result<Self> {
        let here = |kind: &str| File::open(format!("/proc/thread-self/ns/{kind}"));
        let home = [here("net")?, here("mnt")?];
        // SAFETY: unshare only takes flags.
        if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot make a network");
        }
        let network = Self { resolver: None, log: lab.folder().join("resolver.log"), home };
        mount(None, "/", libc::MS_REC | libc::MS_PRIVATE)?;
        for (name, text) in [("hosts", hosts), ("resolv.conf", resolv_conf)] {
            let file = lab.folder().join(name);
            fs::write(&file, text)?;
            mount(Some(&file), &format!("/etc/{name}"), libc::MS_BIND)?;
        }
        busybox(&["ip", "link", "set", "lo", "up"])?;
        for address in addresses {
            let length = if address.contains(':') { 128 } else { 32 };
            busybox(&["ip", "addr", "add", &format!("{address}/{length}"), "dev", "lo"])?;
        }
        Ok(network)
    }

    /// Starts the resolver with these records, written as options of dnsmasq.
    pub fn resolve(&mut self, lab: &Lab, records: &[&str]) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("dnsmasq");
        command.args(["--conf-file=/dev/null", "--no-daemon", "--no-resolv", "--no-hosts"]);
        command.args(["--user=root", "--group=root", "--pid-file=", "--log-facility=-"]);
        command.args(["--log-queries", "--bind-interfaces", "--local=/#/"]);
        command.args([RESOLVER, RESOLVER6].map(|address| format!("--listen-address={address}")));
        command.args(records.iter().map(|record| format!("--{record}")));
        command.env(crate::run::MARKER, lab.marker());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.resolver = Some(command.spawn().context("cannot start dnsmasq")?);
        let question = b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01";
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(std::time::Duration::from_millis(100)))?;
        eventually("the resolver answers", || {
            // Fails until it listens.
            let _ = socket.send_to(question, (RESOLVER, 53));
            socket.recv(&mut [0; 512]).is_ok()
        })
    }

    /// Ends the resolver.
    pub fn stop_resolver(&mut self) {
        if let Some(mut resolver) = self.resolver.take() {
            let _ = resolver.kill();
            let _ = resolver.wait();
        }
    }

    /// Whether the resolver has been asked for this name.
    pub fn was_asked_for(&self, name: &str) -> Result<bool> {
        let log = fs::read_to_string(&self.log)?;
        Ok(log.lines().any(|line| {
            line.split_whitespace().skip_while(|word| !word.starts_with("query[")).nth(1)
                == Some(name)
        }))
    }

    /// Somebody who listens at this address and port, or at any port.
    pub fn host(&self, address: &str, port: u16) -> Result<TcpListener> {
        let target = SocketAddr::new(address.parse()?, port);
        TcpListener::bind(target).with_context(|| format!("nobody can listen at {target}"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop_resolver();
        for namespace in &self.home {
            // SAFETY: setns only takes a descriptor, which is open.
            if unsafe { libc::setns(namespace.as_raw_fd(), 0) } != 0 {
                // Any further test of this thread would run in the wrong place.
                std::process::abort();
            }
        }
    }
}

fn busybox(arguments: &[&str]) -> Result<()> {
    let status = Command::new("busybox").args(arguments).status().context("busybox is missing")?;
    ensure!(status.success(), "busybox {}: {status}", arguments.join(" "));
    Ok(())
}

fn mount(from: Option<&Path>, to: &str, flags: libc::c_ulong) -> Result<()> {
    let text = |path: &str| std::ffi::CString::new(path);
    let from = from.map(|path| text(&path.to_string_lossy())).transpose()?;
    let (to, none) = (text(to)?, std::ptr::null());
    let source = from.as_ref().map_or(none, |path| path.as_ptr());
    // SAFETY: strings that end in NUL and outlive the call; no data.
    let mounted = unsafe { libc::mount(source, to.as_ptr(), none, flags, none.cast()) };
    if mounted != 0 {
        bail!("cannot mount {}: {}", to.to_string_lossy(), io::Error::last_os_error());
    }
    Ok(())
}

/// Mounts an empty file system of its own at a place, in the thread's namespace.
pub fn mount_empty(place: &str) -> Result<()> {
    let (place, kind) = (std::ffi::CString::new(place)?, c"tmpfs");
    // SAFETY: strings that end in NUL and outlive the call; no data.
    let mounted =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    ensure!(mounted == 0, "cannot mount a tmpfs: {}", io::Error::last_os_error());
    Ok(())
}
