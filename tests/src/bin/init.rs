//! Process 1 of the test machines that `cargo xtask vm-test` boots.
//!
//! Mounts what a distribution's init would, loads the modules in `/modules`, runs the command that
//! stands behind `--` of the kernel's command line, writes its output to the second serial port
//! (the first is the kernel's console), and powers off. Its last line, `init: exit code N`, says
//! how the command ended.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, io, ptr};

use anyhow::{Context, Result, bail};

const OUTPUT: &str = "/dev/ttyS1";
/// What npm installed, where the image has it.
const REAL_SERVERS: &str = "/usr/lib/real-servers";

/// Source, place, type.
const MOUNTS: [(&str, &str, &str); 12] = [
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("devpts", "/dev/pts", "devpts"),
    ("tmpfs", "/dev/shm", "tmpfs"),
    ("mqueue", "/dev/mqueue", "mqueue"),
    ("tmpfs", "/run", "tmpfs"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2"),
    ("bpf", "/sys/fs/bpf", "bpf"),
    ("securityfs", "/sys/kernel/security", "securityfs"),
    ("tracefs", "/sys/kernel/tracing", "tracefs"),
    ("debugfs", "/sys/kernel/debug", "debugfs"),
];

fn main() {
    let code = match prepare().and_then(|output| run(&output)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("init: {error:#}");
            125
        }
    };
    if let Ok(mut output) = OpenOptions::new().write(true).open(OUTPUT) {
        // Nobody is left to tell if this fails; the missing line is a failure to xtask.
        let _ = writeln!(output, "init: exit code {code}");
        // SAFETY: the descriptor is open; draining changes no memory.
        unsafe { libc::tcdrain(output.as_raw_fd()) };
    }
    // SAFETY: sync and reboot take no pointers. Everything is written by then.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

fn prepare() -> Result<File> {
    for (source, place, kind) in MOUNTS {
        mount(source, place, kind)?;
    }
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu")
        .context("cannot enable cgroup controllers")?;
    let output = OpenOptions::new().write(true).open(OUTPUT).context(OUTPUT)?;
    make_raw(&output)?;
    for module in fs::read_dir(modules()?).into_iter().flatten().flatten() {
        load(&module.path())?;
    }
    loopback_up()?;
    fs::write("/proc/sys/kernel/hostname", "test-machine").context("cannot name the machine")?;
    Ok(output)
}

fn mount(source: &str, place: &str, kind: &str) -> Result<()> {
    let what = || format!("cannot mount {kind} on {place}");
    if !Path::new(place).is_dir() {
        fs::create_dir(place).with_context(what)?;
    }
    let (source, place, kind) = (CString::new(source)?, CString::new(place)?, CString::new(kind)?);
    // SAFETY: the three strings end with NUL and live across the call; no data is passed.
    let result =
        unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
    // devtmpfs is there already where the kernel mounts it by itself.
    if result != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EBUSY) {
        return Err(io::Error::last_os_error()).with_context(what);
    }
    Ok(())
}

/// Keeps the terminal from turning line ends into two characters.
fn make_raw(terminal: &File) -> Result<()> {
    // SAFETY: termios is plain numbers, for which zero is valid; the calls fill and read it.
    let done = unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) == 0 && {
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings) == 0
        }
    };
    if !done {
        bail!("cannot set up {OUTPUT}: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// The folder of this kernel's modules: the image serves all kernels of the matrix.
fn modules() -> Result<OsString> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("/modules/{}", release.trim()).into())
}

fn load(module: &Path) -> Result<()> {
    let file = File::open(module)?;
    // SAFETY: the descriptor is open, and the parameter string is empty and ends with NUL.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result != 0 {
        bail!("cannot load {}: {}", module.display(), io::Error::last_os_error());
    }
    Ok(())
}

fn loopback_up() -> Result<()> {
    // SAFETY: ifreq is plain numbers, for which zero is valid; its name ends with NUL; the socket
    // is closed with the process, which lives as long as the machine.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request)
    };
    if result != 0 {
        bail!("cannot bring lo up: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Runs the command and, as process 1 must, reaps whoever is orphaned meanwhile.
fn run(output: &File) -> Result<i32> {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().context("the kernel's command line has no command behind --")?;
    let mut command = Command::new(&program);
    command.args(arguments).env_clear();
    if Path::new(REAL_SERVERS).is_dir() {
        command.env("MCP_MONITOR_REAL_SERVERS", REAL_SERVERS);
    }
    let child = command
        .env("PATH", "/usr/lib/mcp-monitor-tests:/usr/sbin:/usr/bin")
        .env("HOME", "/root")
        .env("USER", "root")
        .env("RUST_BACKTRACE", "1")
        .current_dir("/root")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    loop {
        let mut status = 0;
        // SAFETY: the status is written where it points to.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            bail!("the command is gone: {}", io::Error::last_os_error());
        }
        if u32::try_from(ended) == Ok(child.id()) {
            return Ok(match libc::WIFEXITED(status) {
                true => libc::WEXITSTATUS(status),
                false => 128 + libc::WTERMSIG(status),
            });
        }
    }
}
