//! Values, and what is refused.

use std::path::PathBuf;

use super::*;
use crate::rules::pattern::pieces;

fn bindings(arguments: &[&str]) -> Bindings {
    Bindings {
        home: PathBuf::from("/nohome/u"),
        user: "u".to_owned(),
        cwd: PathBuf::from("/nowork/[a]*"),
        tmpdir: PathBuf::from("/"),
        arguments: arguments.iter().map(OsString::from).collect(),
        own_homes: vec![PathBuf::from("/nohome/u"), PathBuf::from("/nohome/v")],
        ..Bindings::default()
    }
}

fn expand(text: &str, bindings: &Bindings, scope: Scope) -> Result<Vec<String>, VariableError> {
    let mut variables = Variables::new(bindings);
    variables.guard.add(set::SECRETS, b"/nohome/u/.ssh", true);
    let all = variables.expand(&pieces(text).unwrap(), scope)?;
    Ok(all.iter().map(|pieces| Pattern::new(pieces).unwrap().display()).collect())
}

#[test]
fn values_are_literals() {
    let mut variables = bindings(&[]);
    variables.arguments = vec![];
    let all =
        Variables::new(&variables).expand(&pieces("${CWD}/*").unwrap(), Scope::Rules).unwrap();
    let pattern = Pattern::new(&all[0]).unwrap();
    assert!(pattern.matches(b"/nowork/[a]*/x"));
    assert!(!pattern.matches(b"/nowork/aa/x"));
}

#[test]
fn sets_cover_every_home_and_rules_only_the_servers() {
    let bindings = bindings(&[]);
    let rules = expand("${HOME}/.x", &bindings, Scope::Rules).unwrap();
    assert_eq!(rules, ["/nohome/u/.x"]);
    let set = expand("${HOME}/.x", &bindings, Scope::Set).unwrap();
    assert_eq!(set, ["/nohome/u/.x", "/nohome/v/.x"]);
}

#[test]
fn roots_and_places_over_a_set_are_refused() {
    let refused = |arguments: &[&str]| {
        expand("${OPT:--dir}/**", &bindings(arguments), Scope::Rules).unwrap_err()
    };
    assert_eq!(
        expand("${TMPDIR}/**", &bindings(&[]), Scope::Rules),
        Err(VariableError::Root("TMPDIR".to_owned()))
    );
    assert!(matches!(refused(&["x", "--dir", "/nohome/u"]), VariableError::OverSet { .. }));
    assert!(matches!(refused(&["x", "--dir=/nohome"]), VariableError::OverSet { .. }));
    let beneath = ["x", "--dir", "/nohome/u/.ssh/keys"];
    assert!(matches!(refused(&beneath), VariableError::OverSet { .. }));
    assert!(matches!(refused(&["x", "--dir", "/a/../.."]), VariableError::Root(_)));
    assert!(matches!(refused(&["x", "--dir="]), VariableError::Empty(_)));
    assert!(matches!(refused(&["x", "--dir"]), VariableError::Missing(_)));
    let home = bindings(&["x", "--dir", "/nohome/u"]);
    assert!(expand("${OPT:--dir}/s*/**", &home, Scope::Rules).is_ok(), "covers no member");
    assert!(expand("${OPT:--dir}/.s*/**", &home, Scope::Rules).is_err());
    let allowed = expand(
        "${OPT:--dir}/**",
        &bindings(&["x", "--dir", "/nohome/u/projects", "--dir=rel"]),
        Scope::Rules,
    );
    assert_eq!(allowed.unwrap(), ["/nohome/u/projects/**", "/nowork/[a]*/rel/**"]);
}

#[test]
fn arguments_behind_the_server_are_found() {
    let own = |arguments: &[&str]| {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        own_arguments(&arguments).to_vec()
    };
    assert_eq!(own(&["npx", "-y", "@scope/server", "/a", "/b"]), ["/a", "/b"]);
    assert_eq!(own(&["/usr/bin/python3.11", "-m", "server", "/a"]), ["/a"]);
    assert_eq!(own(&["node", "--require", "x.js", "dist/index.js", "/a"]), ["/a"]);
    assert_eq!(own(&["/opt/server", "/a"]), ["/a"]);
    assert_eq!(own(&["uvx", "--from", "pkg", "server", "--x", "/a"]), ["--x", "/a"]);
    assert!(own(&["npx"]).is_empty());
}

#[test]
fn names_within_a_path_hold_no_slash() {
    assert!(expand("/srv/${USER}/x", &bindings(&[]), Scope::Rules).is_ok());
    let odd = bindings(&["x", "--db", "../etc"]);
    assert!(matches!(
        expand("/srv/${OPT:--db}", &odd, Scope::Rules),
        Err(VariableError::NotAName(_))
    ));
}

#[test]
fn unknown_variables_are_named_with_the_nearest() {
    let error = expand("${HOEM}/x", &bindings(&[]), Scope::Rules).unwrap_err();
    assert_eq!(error.help().unwrap(), "did you mean `${HOME}`?");
    assert!(expand("${OTHER_HOMES}/x", &bindings(&[]), Scope::Rules).is_err());
}
