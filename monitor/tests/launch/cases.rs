//! The cases.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Stdio,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    launcher::{STRAY, WATCH_FAILS},
    support::{
        Launched, alive, assert_cgroup_gone, code, eventually, launcher, run, signal, state,
    },
};

type Case = (&'static str, fn());

pub const ALL: &[Case] = &[
    ("exit_code_is_the_servers", exit_code_is_the_servers),
    ("signal_becomes_128_and_its_number", signal_becomes_128_and_its_number),
    ("missing_command_is_127_and_leaves_nothing", missing_command_is_127_and_leaves_nothing),
    ("file_without_x_is_126_and_leaves_nothing", file_without_x_is_126_and_leaves_nothing),
    ("failed_watch_executes_nothing", failed_watch_executes_nothing),
    ("ten_megabytes_pass_byte_for_byte", ten_megabytes_pass_byte_for_byte),
    ("streams_are_the_servers_own", streams_are_the_servers_own),
    ("client_sees_the_end_of_a_closed_stdout", client_sees_the_end_of_a_closed_stdout),
    ("descriptors_above_2_are_closed", descriptors_above_2_are_closed),
    ("sigterm_reaches_the_server", sigterm_reaches_the_server),
    ("signals_of_the_tree_are_not_sent_back", signals_of_the_tree_are_not_sent_back),
    ("ignored_signals_stay_ignored", ignored_signals_stay_ignored),
    ("ignored_children_still_give_an_exit_code", ignored_children_still_give_an_exit_code),
    (
        "escaped_descendant_dies_with_a_killed_monitor",
        escaped_descendant_dies_with_a_killed_monitor,
    ),
    ("daemon_ends_with_its_root", daemon_ends_with_its_root),
    (
        "process_that_left_the_cgroup_dies_all_the_same",
        process_that_left_the_cgroup_dies_all_the_same,
    ),
    ("tree_ends_when_the_guard_is_killed", tree_ends_when_the_guard_is_killed),
    ("server_runs_as_the_person_behind_sudo", server_runs_as_the_person_behind_sudo),
    (
        "server_of_root_stays_root_and_is_named_mighty",
        server_of_root_stays_root_and_is_named_mighty,
    ),
    ("ctrl_c_reaches_the_server_once", ctrl_c_reaches_the_server_once),
    ("ctrl_z_stops_the_job_and_fg_continues_it", ctrl_z_stops_the_job_and_fg_continues_it),
];

fn exit_code_is_the_servers() {
    for expected in [0, 1, 42, 255] {
        let outcome = run(&["sh", "-c", &format!("exit {expected}")]);
        assert_eq!(outcome.status.code(), Some(expected), "{}", outcome.stderr);
        assert_cgroup_gone(&outcome);
    }
}

fn signal_becomes_128_and_its_number() {
    for number in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGRTMIN() + 2] {
        let outcome = run(&["sh", "-c", &format!("kill -{number} $$; sleep 9")]);
        assert_eq!(outcome.status.code(), Some(128 + number), "{}", outcome.stderr);
        assert_cgroup_gone(&outcome);
    }
}

fn missing_command_is_127_and_leaves_nothing() {
    let outcome = run(&["/nonexistent/server", "--stdio"]);
    assert_eq!(outcome.status.code(), Some(127));
    assert!(outcome.stderr.contains("/nonexistent/server"), "{}", outcome.stderr);
    assert_cgroup_gone(&outcome);
}

fn file_without_x_is_126_and_leaves_nothing() {
    let outcome = run(&["/etc/passwd"]);
    assert_eq!(outcome.status.code(), Some(126));
    assert!(outcome.stderr.contains("/etc/passwd"), "{}", outcome.stderr);
    assert_cgroup_gone(&outcome);
}

fn failed_watch_executes_nothing() {
    let outcome =
        Launched::start(launcher(&["sh", "-c", "echo ran"]).env(WATCH_FAILS, "1")).finish();
    assert_eq!(outcome.status.code(), Some(125));
    assert_eq!(outcome.stdout, b"");
    assert!(outcome.stderr.contains("cannot be tagged"), "{}", outcome.stderr);
    assert_cgroup_gone(&outcome);
}

fn ten_megabytes_pass_byte_for_byte() {
    let bytes: Vec<u8> =
        (0..10 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut launched = Launched::start(launcher(&["cat"]).stdin(Stdio::piped()));
    let mut stdin = launched.child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let outcome = launched.finish();
    writer.join().unwrap();
    assert!(outcome.stdout == bytes, "{} bytes came back", outcome.stdout.len());
    assert_eq!(outcome.status.code(), Some(0));
}

fn streams_are_the_servers_own() {
    let mut launched = Launched::start(
        launcher(&["sh", "-c", "readlink /proc/$$/fd/0; read wait"]).stdin(Stdio::piped()),
    );
    let stdin = launched.child.stdin.as_ref().unwrap().as_raw_fd();
    let ours = fs::read_link(format!("/proc/self/fd/{stdin}")).unwrap();
    assert_eq!(launched.line(), ours.to_string_lossy());
    assert_eq!(launched.finish().status.code(), Some(1));
}

fn client_sees_the_end_of_a_closed_stdout() {
    let mut launched =
        Launched::start(launcher(&["sh", "-c", "exec 1>&-; read wait"]).stdin(Stdio::piped()));
    let mut rest = Vec::new();
    launched.child.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
    assert!(launched.child.try_wait().unwrap().is_none(), "the server still runs");
    launched.finish();
}

fn descriptors_above_2_are_closed() {
    let secret = File::open("/etc/hostname").unwrap();
    let mut command = launcher(&["sh", "-c", "ls /proc/$$/fd"]);
    let inherited = secret.as_raw_fd();
    // SAFETY: dup2 clears close-on-exec on the copy; nothing else happens in the child.
    unsafe {
        command.pre_exec(move || match libc::dup2(inherited, 77) {
            77 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let outcome = Launched::start(&mut command).finish();
    assert_eq!(
        String::from_utf8(outcome.stdout).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2"]
    );
}

fn sigterm_reaches_the_server() {
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let mut launched = Launched::start(&mut launcher(&["sh", "-c", script]));
    assert_eq!(launched.line(), "ready");
    signal(launched.pid(), Signal::SIGTERM);
    assert_eq!(launched.finish().status.code(), Some(7));
}

fn signals_of_the_tree_are_not_sent_back() {
    let script = "trap 'echo usr1' USR1; kill -USR1 $PPID; sleep 0.2; echo end";
    let outcome = run(&["sh", "-c", script]);
    assert_eq!(outcome.stdout, b"end\n");
}

fn ignored_signals_stay_ignored() {
    let hup = 1_u64 << (libc::SIGHUP - 1);
    let pipe = 1_u64 << (libc::SIGPIPE - 1);
    // Rust's start-up ignores SIGPIPE; the rest this process was started with.
    let own = masks(&fs::read_to_string("/proc/self/status").unwrap())[1] & !pipe;
    for (ignored, expected) in [(Signal::SIGHUP, own | hup), (Signal::SIGPIPE, own)] {
        let mut command = launcher(&["cat", "/proc/self/status"]);
        ignore(&mut command, ignored);
        let outcome = Launched::start(&mut command).finish();
        let text = String::from_utf8(outcome.stdout).unwrap();
        assert_eq!(masks(&text), [0, expected], "blocked and ignored with {ignored}");
    }
}

/// Blocked and ignored signals in a `/proc/PID/status`.
fn masks(status: &str) -> [u64; 2] {
    ["SigBlk:\t", "SigIgn:\t"].map(|name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(mask, 16).unwrap()
    })
}

fn ignored_children_still_give_an_exit_code() {
    let mut command = launcher(&["sh", "-c", "exit 9"]);
    ignore(&mut command, Signal::SIGCHLD);
    assert_eq!(Launched::start(&mut command).finish().status.code(), Some(9));
}

fn ignore(command: &mut std::process::Command, signal: Signal) {
    // SAFETY: signal() with SIG_IGN is all that happens in the child.
    unsafe {
        command.pre_exec(move || {
            libc::signal(signal as i32, libc::SIG_IGN);
            Ok(())
        });
    }
}

/// A descendant in a session of its own, its parents gone; prints its number.
const ESCAPE: &str = "(setsid sh -c 'echo $$; exec sleep 300' >&1 &) ; ";

fn escaped_descendant_dies_with_a_killed_monitor() {
    let mut launched =
        Launched::start(&mut launcher(&["sh", "-c", &format!("{ESCAPE} sleep 300")]));
    let (cgroup, root, guard) =
        (launched.cgroup(), launched.said("server"), launched.said("guard"));
    let escaped = launched.line();
    assert!(alive(&escaped) && alive(&root));
    signal(launched.pid(), Signal::SIGKILL);
    eventually("the tree dies", || !alive(&escaped) && !alive(&root));
    eventually("the guard leaves", || !alive(&guard));
    assert!(!cgroup.exists());
    assert_eq!(code(launched.finish().status), 137);
}

fn daemon_ends_with_its_root() {
    let mut launched =
        Launched::start(&mut launcher(&["sh", "-c", &format!("{ESCAPE} sleep 0.2; exit 3")]));
    let escaped = launched.line();
    let outcome = launched.finish();
    assert!(!alive(&escaped));
    assert!(outcome.stderr.contains("left=true"), "{}", outcome.stderr);
    assert_eq!(outcome.status.code(), Some(3));
    let outcome = run(&["sh", "-c", "exit 3"]);
    assert!(outcome.stderr.contains("left=false"), "{}", outcome.stderr);
}

fn process_that_left_the_cgroup_dies_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let stray = directory.path().join("stray");
    let hierarchy = mcp_monitor::kernel::cgroup_root().unwrap().unwrap();
    let leave = format!(
        "setsid sh -c 'echo $$ > {}/cgroup.procs; echo $$ > {}; echo $$; exec sleep 300' &",
        hierarchy.display(),
        stray.display()
    );
    let left = format!("while [ ! -s {} ]; do sleep 0.01; done", stray.display());
    for (rest, kill_monitor) in [("exit 0", false), ("sleep 300", true)] {
        let mut command = launcher(&["sh", "-c", &format!("{leave} {left}; {rest}")]);
        command.env(STRAY, &stray);
        let mut launched = Launched::start(&mut command);
        let left = if kill_monitor { launched.line() } else { String::new() };
        if kill_monitor {
            assert!(alive(&left));
            signal(launched.pid(), Signal::SIGKILL);
            eventually("the stray dies", || !alive(&left));
        }
        let cgroup = launched.cgroup();
        let outcome = launched.finish();
        let left = fs::read_to_string(&stray).unwrap();
        assert!(!alive(left.trim()), "{}", outcome.stderr);
        eventually("the cgroup is removed", || !cgroup.exists());
        fs::remove_file(&stray).unwrap();
    }
}

fn tree_ends_when_the_guard_is_killed() {
    let mut launched =
        Launched::start(&mut launcher(&["sh", "-c", &format!("{ESCAPE} sleep 300")]));
    let (cgroup, guard) = (launched.cgroup(), launched.said("guard"));
    let escaped = launched.line();
    signal(guard.parse().unwrap(), Signal::SIGKILL);
    let outcome = launched.finish();
    assert_eq!(outcome.status.code(), Some(125));
    assert!(!alive(&escaped) && !cgroup.exists());
}

fn server_runs_as_the_person_behind_sudo() {
    let script =
        "id -u; id -g; echo $HOME; grep -E '^(NoNewPrivs|CapPrm|CapEff)' /proc/self/status";
    let mut command = launcher(&["sh", "-c", script]);
    command.env("SUDO_UID", "65534").env("SUDO_GID", "65534").env("HOME", "/somewhere");
    let outcome = Launched::start(&mut command).finish();
    let none = "0000000000000000";
    let expected =
        format!("65534\n65534\n/somewhere\nCapPrm:\t{none}\nCapEff:\t{none}\nNoNewPrivs:\t1\n");
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), expected, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("capabilities=\n"), "{}", outcome.stderr);
}

fn server_of_root_stays_root_and_is_named_mighty() {
    let outcome = run(&["sh", "-c", "id -u; sleep 0.1"]);
    assert_eq!(outcome.stdout, b"0\n");
    assert!(outcome.stderr.contains("CAP_SYS_ADMIN"), "{}", outcome.stderr);
}

/// A launcher in a session and terminal of its own; the terminal's other end.
fn in_terminal(script: &str) -> (Launched, File) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let terminal: OwnedFd = pty.slave;
    let mut command = launcher(&["sh", "-c", script]);
    command.stdin(terminal.try_clone().unwrap());
    let raw = terminal.as_raw_fd();
    // SAFETY: two system calls on integers make the terminal the child's own.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 || libc::ioctl(raw, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    (Launched::start(&mut command), pty.master.into())
}

fn ctrl_c_reaches_the_server_once() {
    // Ten seconds for the first, a moment for a second one.
    let script = "n=0; trap 'n=$((n+1))' INT; echo ready; i=0; \
                  while [ $n = 0 ] && [ $i -lt 1000 ]; do sleep 0.01; i=$((i+1)); done; \
                  sleep 0.3; exit $((10+n))";
    let (mut launched, mut terminal) = in_terminal(script);
    assert_eq!(launched.line(), "ready");
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(launched.finish().status.code(), Some(11));
}

fn ctrl_z_stops_the_job_and_fg_continues_it() {
    // A group of its own beneath this process, as a shell makes it: its stops are real ones.
    let mut command = launcher(&["sh", "-c", &format!("{ESCAPE} sleep 0.3; exit 5")]);
    let mut launched = Launched::start(command.process_group(0));
    let (monitor, server) = (launched.pid().to_string(), launched.said("server"));
    let (cgroup, escaped) = (launched.cgroup(), launched.line());
    let frozen = || fs::read_to_string(cgroup.join("cgroup.freeze")).unwrap().trim() == "1";
    signal(-launched.pid(), Signal::SIGTSTP);
    eventually("the monitor stops", || state(&monitor) == Some('T'));
    assert!(frozen() && alive(&escaped), "nothing of the tree may run on unread");
    std::thread::sleep(Duration::from_millis(500));
    assert!(alive(&server), "the server stands still");
    signal(-launched.pid(), Signal::SIGCONT);
    assert_eq!(launched.finish().status.code(), Some(5));
}
