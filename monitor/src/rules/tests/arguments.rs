//! `[exec.arguments]`: which programs may run with what.

use monitor_common::policy::{access, class, decide, reason, verdict};
use proptest::prelude::*;

use super::*;

const GIT: &str = r#"
[exec]
allow = ["/usr/bin/ls", "/usr/bin/find"]
[exec.arguments]
"/usr/bin/git" = [["status", "..."], ["clone", "https://github.com/**"], []]
"/usr/bin/find" = [["${CWD}/**", "-name", "*"]]
[response]
unlisted = { exec = "deny" }
"#;

fn explained(rules: &Compiled, path: &str, arguments: &[&str]) -> Explanation {
    let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
    let subject = Subject::Program { path: path.as_bytes(), arguments: &arguments };
    rules.explain(subject, 0, access::EXEC)
}

#[test]
fn a_program_runs_only_with_arguments_that_a_rule_names() {
    let rules = Fixture::new().server(GIT).compile();
    let git = "/usr/bin/git";
    for (path, arguments, allowed) in [
        (git, &["status"] as &[&str], true),
        (git, &["status", "-s", ""], true),
        (git, &["statuses"], false),
        (git, &["-c", "status"], false),
        (git, &[], true),
        (git, &[""], false),
        (git, &["clone", "https://github.com/a/b"], true),
        (git, &["clone", "https://github.com/"], true),
        (git, &["clone", "https://github.com.evil"], false),
        (git, &["clone", "https://github.com/a", "--upload-pack=x"], false),
        (git, &["clone"], false),
        ("/usr/bin/ls", &["anything"], true),
        ("/usr/bin/find", &["/nowork/a/b", "-name", "x"], true),
        ("/usr/bin/find", &["/nowork/a", "-name", "a/b"], false),
        ("/usr/bin/find", &[], false),
        ("/usr/bin/cat", &[], false),
    ] {
        let said = explained(&rules, path, arguments);
        let wanted = if allowed { verdict::ALLOW } else { verdict::DENY };
        assert_eq!(said.decision.verdict, wanted, "{path} {arguments:?}");
    }
}

#[test]
fn the_entry_that_decided_is_named() {
    let rules = Fixture::new().server(GIT).compile();
    let named = explained(&rules, "/usr/bin/git", &["status"]).by.unwrap();
    assert_eq!((named.line, named.text.as_str()), (7, r#"["status", "..."]"#));
    assert_eq!(named.list, "exec.arguments");
    let refused = explained(&rules, "/usr/bin/git", &["push"]);
    assert_eq!(refused.decision.reason, reason::ARGUMENTS);
    let key = refused.by.unwrap();
    assert_eq!((key.line, key.text.as_str()), (7, "/usr/bin/git"));
    let unlisted = explained(&rules, "/usr/bin/cat", &[]).by.unwrap();
    assert_eq!(unlisted.list, "response.unlisted.exec");
}

#[test]
fn a_program_whose_arguments_nobody_looks_at_is_not_allowed() {
    let rules = Fixture::new().server(GIT).compile();
    for path in ["/usr/bin/git", "/usr/bin/find"] {
        let classes = rules.classify_path(path.as_bytes());
        assert_eq!(decide(&rules.policy, classes, access::EXEC).verdict, verdict::DENY);
        assert_eq!(decide(&rules.policy, classes | class::NAMED, access::EXEC).verdict, 0);
    }
    let none = Fixture::new().server("").compile();
    assert!(!none.names_arguments(b"/usr/bin/git", []));
}

#[test]
fn mistakes_in_arguments_are_told() {
    let of = |text: &str| one_finding(&format!("[exec.arguments]\n\"/a\" = {text}"));
    assert_eq!(
        of("[\"x\"]"),
        "4:8: `exec.arguments./a` must be a list of lists of strings [write one list for each \
         vector of arguments: [[\"status\", \"...\"]]]"
    );
    assert_eq!(
        of("[]"),
        "4:8: no arguments are named, so that it can never run [write [[]] for a program without \
         arguments, [[\"...\"]] for any]"
    );
    assert_eq!(
        of("[[\"...\", \"x\"]]"),
        "4:10: `...` stands only at the end [write `**` for one argument, whatever it is]"
    );
    assert_eq!(of("[[1]]"), "4:10: `exec.arguments[][]` must be a string, not an integer");
    assert_eq!(
        of("[[\"${HOEM}\"]]"),
        "4:10: there is no variable `${HOEM}` [did you mean `${HOME}`?]"
    );
    assert_eq!(
        one_finding("[exec.arguments]\n\"a\" = [[]]"),
        "4:1: the pattern starts with neither `/` nor `**/` [write ${CWD}/a or **/a]"
    );
    let wide = "{a,b}{a,b}{a,b}{a,b}";
    assert_eq!(
        of(&format!("[[\"{wide}\", \"{wide}\", \"{wide}\"]]")),
        "4:9: this stands for more than 1024 vectors [use several entries, or `*`]"
    );
}

const TEXTS: &[&str] = &["a", "b", "/", "*", "**", "?", "[ab]", "[!a]", "{a,bb}", "\\*"];

fn element() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(TEXTS), 0..4).prop_map(|parts| parts.concat())
}

fn argument() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&[b'a', b'b', b'/', b'*', 0xff][..]), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The automaton against each rule's own walk.
    #[test]
    fn tables_of_vectors_and_rules_agree(
        rules in prop::collection::vec(
            (prop::sample::select(&["/p", "/p/**", "**/q", "/*"][..]),
             prop::collection::vec(element(), 0..3), prop::bool::ANY), 1..5),
        asked in prop::collection::vec(
            (prop::sample::select(&["/p", "/q", "/p/q", "/a"][..]),
             prop::collection::vec(argument(), 0..4)), 1..20),
    ) {
        prop_assume!(rules.iter().all(|(_, elements, _)| elements.iter().all(|e| e != "...")));
        let lines: Vec<String> = rules.iter().map(|(_, elements, open)| {
            let rest = open.then_some("...");
            let all = elements.iter().map(String::as_str).chain(rest);
            format!("[{}]", all.map(|e| format!("'{e}'")).collect::<Vec<_>>().join(", "))
        }).collect();
        let mut text = String::from("[exec.arguments]\n");
        for key in ["/p", "/p/**", "**/q", "/*"] {
            let own = rules.iter().zip(&lines).filter(|((path, ..), _)| *path == key);
            let own: Vec<&str> = own.map(|(_, line)| line.as_str()).collect();
            if !own.is_empty() {
                text.push_str(&format!("\"{key}\" = [{}]\n", own.join(", ")));
            }
        }
        let compiled = Fixture::new().server(&text).compile();
        for (path, arguments) in &asked {
            let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            let expected = !compiled.vectors_naming(path.as_bytes(), &arguments).is_empty();
            let got = compiled.names_arguments(path.as_bytes(), arguments.iter().copied());
            prop_assert_eq!(got, expected, "{} {:?} {}", path, arguments, text);
        }
    }
}
