//! What the built-in sets hold, each with a neighbour that they leave alone.

use monitor_common::policy::{access, class, decide, verdict};

use super::*;

fn built_in() -> Compiled {
    let bindings = Bindings {
        other_homes: vec![PathBuf::from("/nohome/other")],
        tmpdir: PathBuf::from("/tmp"),
        ..Fixture::new().bindings
    };
    compile(&load(&SearchPath::built_in(), None, &bindings).unwrap()).unwrap()
}

#[test]
fn members_are_in_their_sets_and_neighbours_are_not() {
    let compiled = built_in();
    let holds = |set: usize, path: &str| {
        let path = path.replace('~', "/nohome/u");
        compiled.classify_path(path.as_bytes()) & class::of_set(set) != 0
    };
    let cases: &[(usize, &[&str], &[&str])] = &[
        (
            set::SECRETS,
            &[
                "~/.ssh",
                "~/.ssh/id_rsa",
                "~/.ssh/keys/x",
                "~/.aws/credentials",
                "~/.netrc",
                "~/.config/gcloud/access_tokens.db",
                "~/.azure/msal_token_cache.json",
                "~/.kube/config",
                "~/.docker/config.json",
                "~/.pypirc",
                "~/.git-credentials",
                "~/.gnupg/private-keys-v1.d/x.key",
                "~/.local/share/keyrings/login.keyring",
                "~/.config/google-chrome/Default/Login Data",
                "~/.password-store/x.gpg",
                "~/.mozilla/firefox/x.default/logins.json",
                "~/.bash_history",
                "~/.zsh_history",
                "~/.cargo/credentials.toml",
                "~/.claude/.credentials.json",
                "/etc/shadow",
                "/etc/sudoers.d/x",
                "/etc/ssl/private/x.key",
                "/srv/app/id_ed25519",
                "/srv/app/tls-key.pem",
                "/srv/app/privkey.pem",
                "/nohome/other/notes.txt",
                "/srv/.kube/kubeconfig",
                "/srv/keys.p12",
                "~/.config/gh/hosts.yml",
            ],
            &[
                "~/projects/main.rs",
                "~/.sshx",
                "/etc/passwd",
                "/etc/ssl/certs/ca.pem",
                "/usr/lib/python3/certifi/cacert.pem",
                "/srv/app/id_rsa.rs",
                "~/.config/x",
                "/nohome/u",
                "/nohome",
                "/srv/monkey.jpg",
            ],
        ),
        (
            set::SENSITIVE,
            &["/srv/app/.env", "/srv/app/.env.local", "~/.npmrc", "/a/b/c.tfvars"],
            &["/srv/app/env", "/srv/app/.environment", "/srv/npmrc"],
        ),
        (
            set::PERSISTENCE,
            &[
                "~/.bashrc",
                "~/.profile",
                "~/.zshrc",
                "~/.config/fish/config.fish",
                "/etc/cron.d/x",
                "/srv/rootfs/etc/cron.d/x",
                "/var/spool/cron/crontabs/u",
                "~/.config/systemd/user/x.service",
                "/etc/systemd/system/x.timer",
                "~/.config/autostart/x.desktop",
                "/srv/a/.git/hooks/pre-commit",
                "~/.ssh/authorized_keys",
                "~/.local/bin/git",
                "/usr/local/bin/x",
                "~/.npmrc",
                "~/.config/pip/pip.conf",
                "/srv/a/.vscode/tasks.json",
                "/etc/ld.so.preload",
                "~/.local/lib/python3.11/site-packages/x.pth",
                "~/.npm/_npx/1/x.js",
                "~/.cache/uv/x.py",
                "/etc/pam.d/su",
                "~/.gitconfig",
            ],
            &[
                "~/bashrc",
                "/srv/a/.git/objects/x",
                "/srv/cron.d/x",
                "~/.npm/_cacache/x",
                "/srv/a/.vscode/x.json",
                "/usr/share/x",
                "~/.local/share/x",
            ],
        ),
        (
            set::MCP_CONFIG,
            &[
                "~/.cursor/mcp.json",
                "/srv/a/.cursor/mcp.json",
                "/srv/a/.mcp.json",
                "~/.config/Claude/claude_desktop_config.json",
                "~/.claude.json",
                "~/.claude/settings.json",
                "/srv/a/.claude/settings.json",
                "/etc/mcp-monitor/rules.d/servers/x.toml",
                "/srv/a/.vscode/mcp.json",
                "~/.codeium/windsurf/mcp_config.json",
            ],
            &["/srv/a/mcp.json", "/srv/a/.claude/notes.md", "~/.config/x/mcp.json"],
        ),
        (
            set::ESCAPE,
            &[
                "/run/docker.sock",
                "/run/containerd/containerd.sock",
                "/run/user/1000/bus",
                "/run/dbus/system_bus_socket",
                "/run/systemd/private",
                "/tmp/tmux-1000/default",
                "/tmp/.X11-unix/X0",
                "@/tmp/.X11-unix/X0",
                "/tmp/ssh-abc/agent.12",
                "/run/user/1000/gnupg/S.gpg-agent",
                "/run/user/1000/keyring/ssh",
                "/dev/sda1",
                "/dev/nvme0n1",
                "/dev/mem",
                "/dev/tty1",
                "/dev/uinput",
                "/proc/sys/kernel/core_pattern",
                "/proc/sys/fs/binfmt_misc/register",
                "/sys/fs/cgroup/a/b/cgroup.procs",
                "/run/snapd.socket",
                "/dev/mapper/root",
                "/run/user/1000/wayland-0",
            ],
            &[
                "/run/systemd/journal/socket",
                "/run/systemd/notify",
                "/dev/null",
                "/dev/pts/0",
                "/dev/tty",
                "/dev/shm/x",
                "/tmp/x.sock",
                "/proc/sys/kernel/osrelease",
                "/sys/fs/cgroup/a/memory.max",
                "/run/user/1000/gh.sock",
                "/dev/random",
            ],
        ),
    ];
    for (set, members, neighbours) in cases {
        for path in *members {
            assert!(holds(*set, path), "{path} belongs to {}", set::NAMES[*set]);
        }
        for path in *neighbours {
            assert!(!holds(*set, path), "{path} does not belong to {}", set::NAMES[*set]);
        }
    }
}

#[test]
fn metadata_and_control_ports_are_in_their_sets() {
    let compiled = built_in();
    let sets = |address, port| compiled.classify_address(address, port, 1) & class::SETS;
    let (metadata, escape) = (class::of_set(set::METADATA), class::of_set(set::ESCAPE));
    for address in [v4(169, 254, 169, 254), v4(168, 63, 129, 16), v6("fd00:ec2::254")] {
        assert_eq!(sets(address, 80), metadata);
    }
    assert_eq!(sets(v6("64:ff9b::a9fe:a9fe"), 80), metadata, "behind NAT64");
    assert_eq!(sets(v4(168, 63, 129, 17), 80), 0);
    assert_eq!(sets(v4(127, 0, 0, 1), 2375), escape);
    assert_eq!(sets(v4(0, 0, 0, 0), 2375), escape, "0.0.0.0 is loopback");
    assert_eq!(sets(v4(127, 0, 0, 1), 8080), 0);
    assert_eq!(sets(v4(10, 0, 0, 1), 2375), 0);
}

#[test]
fn sets_speak_about_their_accesses_only() {
    let compiled = built_in();
    let verdict = |path: &str, asked| {
        decide(&compiled.policy, compiled.classify_path(path.as_bytes()), asked).verdict
    };
    assert_eq!(verdict("/nohome/u/.bashrc", access::WRITE), verdict::ALERT);
    assert_eq!(verdict("/nohome/u/.bashrc", access::READ), verdict::ALLOW);
    assert_eq!(verdict("/srv/a/.env", access::READ), verdict::ALERT);
    assert_eq!(verdict("/srv/a/.env", access::WRITE), verdict::ALLOW);
    assert_eq!(verdict("/run/docker.sock", access::UNIX), verdict::ALERT);
    assert_eq!(verdict("/usr/bin/docker", access::EXEC), verdict::ALLOW);
    assert_eq!(verdict("/nohome/u/.npm/_npx/a/x.js", access::WRITE), verdict::ALLOW);
}
