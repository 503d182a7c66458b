//! Which processes are a server: the kernel's table, and the answer that is the agent's.

use monitor_common::automaton::accepts_vector;

use super::*;

#[derive(Clone, Copy)]
struct Process<'a> {
    exe: &'a str,
    cgroup: &'a str,
    arguments: &'a [&'a str],
    user: Option<(&'a str, &'a str)>,
}

const USER: Process<'_> =
    Process { exe: "/opt/bin/node", cgroup: "/", arguments: &[], user: Some(("/nohome/u", "u")) };

fn matcher(text: &str) -> Matcher {
    let fixture = Fixture::new().server(text);
    let (matcher, wrong) = Matcher::load(&SearchPath::new(Some(fixture.folder.path()))).unwrap();
    assert_eq!(wrong, []);
    matcher
}

/// Whether the table accepts it, and which server it is.
fn asked<'a>(matcher: &'a Matcher, process: &Process<'_>) -> (bool, Option<&'a str>) {
    let Process { exe, cgroup, arguments, user } = process;
    let mut vector = [exe.as_bytes(), b"\0", cgroup.as_bytes(), b"\0argv0\0"].concat();
    arguments.iter().for_each(|own| vector.extend([own.as_bytes(), b"\0"].concat()));
    let table = matcher.table().unwrap().unwrap();
    let accepted = accepts_vector(table.cells.as_slice(), &vector);
    let arguments: Vec<Vec<u8>> = arguments.iter().map(|own| own.as_bytes().to_vec()).collect();
    let server = matcher.server_of(&Traits {
        exe: exe.as_bytes(),
        cgroup: cgroup.as_bytes(),
        arguments: &arguments,
        user: user.map(|(home, name)| (home.as_bytes(), name.as_bytes())),
    });
    (accepted, server)
}

/// To the kernel, and to the agent.
const BOTH: (bool, bool) = (true, true);
const KERNEL: (bool, bool) = (true, false);
const NEITHER: (bool, bool) = (false, false);

#[test]
fn rules_without_matches_match_nothing() {
    assert!(matcher("").table().unwrap().is_none());
}

#[test]
fn all_keys_have_to_fit_and_one_entry_of_each() {
    let rules = "[[match]]\nexe = [\"/opt/bin/node\", \"/opt/bin/bun\"]\n\
                 args = [\"**/@scope/server/**\", \"--mcp\"]\n";
    let matcher = matcher(rules);
    let run = |exe: &str, arguments: &[&str]| {
        let (accepted, server) = asked(&matcher, &Process { exe, arguments, ..USER });
        (accepted, server.is_some())
    };
    let server = "/usr/lib/node_modules/@scope/server/index.js";
    assert_eq!(run("/opt/bin/node", &[server]), BOTH);
    assert_eq!(run("/opt/bin/bun", &["-x", "--mcp", "y"]), BOTH);
    assert_eq!(run("/opt/bin/node", &["-x", "--mc", "y"]), NEITHER);
    assert_eq!(run("/opt/bin/node", &["--mcp-not"]), NEITHER);
    assert_eq!(run("/opt/bin/node", &[]), NEITHER);
    assert_eq!(run("/opt/bin/deno", &[server]), NEITHER);
    assert_eq!(run("/opt/bin/node/x", &[server]), NEITHER);
}

#[test]
fn entries_are_alternatives() {
    let matcher = matcher("[[match]]\nexe = [\"/opt/{a,b}\"]\n[[match]]\nargs = [\"--mcp=*\"]\n");
    let run = |exe: &str, arguments: &[&str]| {
        let (accepted, server) = asked(&matcher, &Process { exe, arguments, ..USER });
        (accepted, server.is_some())
    };
    assert_eq!(run("/opt/a", &[]), BOTH);
    assert_eq!(run("/opt/b", &["x"]), BOTH);
    assert_eq!(run("/opt/c", &["--mcp=1"]), BOTH);
    assert_eq!(run("/opt/c", &["--mcp=/1"]), NEITHER);
}

#[test]
fn a_unit_is_a_cgroup_wherever_it_is() {
    let matcher = matcher("[[match]]\nunit = [\"mcp-*.service\"]\n");
    let run = |cgroup: &str| {
        let (accepted, server) = asked(&matcher, &Process { cgroup, ..USER });
        (accepted, server.is_some())
    };
    assert_eq!(run("/system.slice/mcp-github.service"), BOTH);
    assert_eq!(run("/user.slice/user-1.slice/user@1.service/app.slice/mcp-x.service/sub"), BOTH);
    assert_eq!(run("/system.slice/mcp-github.service.d"), NEITHER);
    assert_eq!(run("/system.slice/x-mcp-github.service"), NEITHER);
    assert_eq!(run("/"), NEITHER);
}

#[test]
fn cgroups_are_paths() {
    let matcher = matcher(
        "[[match]]\nexe = [\"/opt/**\"]\ncgroup = [\"/**/libpod-[0-9a-f][0-9a-f]*.scope/**\"]\n",
    );
    let run = |exe: &str, cgroup: &str| {
        let (accepted, server) = asked(&matcher, &Process { exe, cgroup, ..USER });
        (accepted, server.is_some())
    };
    assert_eq!(run("/opt/x", "/machine.slice/libpod-0f.scope/container"), BOTH);
    assert_eq!(run("/opt/x", "/machine.slice/libpod-0f.scope"), BOTH);
    assert_eq!(run("/opt/x", "/machine.slice/libpod.scope"), NEITHER);
    assert_eq!(run("/opt/x", "/machine.slice/libpod-conmon-0f.scope"), NEITHER);
    assert_eq!(run("/usr/x", "/machine.slice/libpod-0f.scope"), NEITHER);
}

#[test]
fn variables_are_anything_to_the_kernel_and_their_values_to_the_agent() {
    let matcher =
        matcher("[[match]]\nexe = [\"${HOME}/bin/server\"]\nargs = [\"--user=${USER}\"]\n");
    let run = |exe: &str, arguments: &[&str], user| {
        let (accepted, server) = asked(&matcher, &Process { exe, arguments, user, ..USER });
        (accepted, server.is_some())
    };
    let own = Some(("/nohome/u", "u"));
    assert_eq!(run("/nohome/u/bin/server", &["--user=u"], own), BOTH);
    assert_eq!(run("/nohome/v/bin/server", &["--user=u"], own), KERNEL);
    assert_eq!(run("/nohome/u/bin/server", &["--user=v"], own), KERNEL);
    assert_eq!(run("/nohome/u/bin/server", &["--user=u"], None), KERNEL);
    assert_eq!(run("/nohome/u/bin/other", &["--user=u"], own), NEITHER);
}

#[test]
fn a_unit_and_a_cgroup_are_both_asked_for_by_the_agent() {
    let matcher = matcher("[[match]]\nunit = [\"x.service\"]\ncgroup = [\"/system.slice/**\"]\n");
    let run = |cgroup: &str| {
        let (accepted, server) = asked(&matcher, &Process { cgroup, ..USER });
        (accepted, server.is_some())
    };
    assert_eq!(run("/system.slice/x.service"), BOTH);
    assert_eq!(run("/user.slice/x.service"), KERNEL);
    assert_eq!(run("/system.slice/y.service"), NEITHER);
}

#[test]
fn wrong_rules_of_one_server_leave_the_matches_of_others() {
    let fixture = Fixture::new().server("[[match]]\nexe = [\"/opt/a\"]\n");
    let wrong = "schema = 1\nserver = \"w\"\n[[match]]\nexe = [\"/opt/w\", \"/x/../y\"]\n";
    let fixture = fixture.file("servers/w.toml", wrong);
    let (matcher, findings) = Matcher::load(&SearchPath::new(Some(fixture.folder.path()))).unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!(asked(&matcher, &Process { exe: "/opt/a", ..USER }), (true, Some("s")));
    assert_eq!(asked(&matcher, &Process { exe: "/opt/w", ..USER }), (false, None));
}

#[test]
fn many_servers_with_floating_patterns_fit_into_one_table() {
    let mut fixture = Fixture::new();
    for number in 0..60 {
        let text = format!(
            "schema = 1\nserver = \"n{number}\"\n[[match]]\nexe = [\"**/node\", \"**/python3*\"]\n\
             args = [\"**/@scope{number}/server-{number}/**\", \"server-{number}\"]\n"
        );
        fixture = fixture.file(&format!("servers/n{number}.toml"), &text);
    }
    let (matcher, _) = Matcher::load(&SearchPath::new(Some(fixture.folder.path()))).unwrap();
    let states = matcher.table().unwrap().unwrap().states;
    assert!(states < 8000, "{states}");
    let process = Process { arguments: &["x", "server-59"], ..USER };
    assert_eq!(asked(&matcher, &process), (true, Some("n59")));
}
