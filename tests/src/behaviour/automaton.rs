//! The kernel's walk through the automaton, userspace's, and globset say the same about every
//! path. The kernel's side is the function of the hooks, run for real by BPF_PROG_TEST_RUN.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use globset::GlobBuilder;
use mcp_monitor::kernel::{self, Kernel, Options};
use mcp_monitor::rules::{self, Bindings, Compiled, SearchPath};
use monitor_common::{
    limits::PATH_MAX,
    policy::{class, set},
};
use proptest::prelude::{Just, Strategy, any};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection::vec, prop_oneof, sample::select};

use crate::{Backend, Lab};

crate::tests! {
    both: [
        kernel_userspace_and_globset_agree_on_every_path,
        path_beyond_the_bound_is_not_matched_in_a_shortened_form,
    ],
}

/// Lists of the rules with the class that each gives.
const LISTS: [(&str, &str, u32); 4] = [
    ("files", "read", class::READ),
    ("files", "write", class::WRITE),
    ("files", "deny", class::DENY),
    ("exec", "allow", class::EXEC),
];
const CASES: u32 = 60;
const LETTERS: [&str; 12] =
    ["a", "b", "ab", "é", ".", "*", "?", "[ab]", "[!a]", "{a,b}", "{a,ab}", "\\*"];
const BYTES: [u8; 8] = [b'a', b'b', b'.', b'*', b'\n', 0xc3, 0xa9, 0xff];

fn kernel_userspace_and_globset_agree_on_every_path(lab: &Lab) -> Result<()> {
    let mut kernel = load(lab)?;
    let strategy = (vec(globs(), LISTS.len()), vec(path(), 1..40));
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let mut id = 0;
    let mut runs = Vec::new();
    // Collected first: the kernel is borrowed for writing, and a runner's closure is not.
    for _ in 0..CASES {
        let tree = strategy.new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?;
        runs.push(proptest::strategy::ValueTree::current(&tree));
    }
    for (globs, paths) in runs {
        let compiled = compile(lab, &sections(&globs)?)?;
        id += 1;
        let slot = kernel.install(id, &compiled)?;
        for path in &paths {
            let expected = globs.iter().zip(LISTS).fold(0, |classes, (globs, (.., class))| {
                if globs.iter().any(|glob| by_globset(glob, path)) { classes | class } else { classes }
            });
            let shown = path.escape_ascii();
            let userspace = compiled.classify_path(path) & ALL;
            ensure!(userspace == expected, "userspace {userspace:#x}, globset {expected:#x}: {shown} {globs:?}");
            let kernel = kernel.classify_path(slot, path)? & ALL;
            ensure!(kernel == expected, "kernel {kernel:#x}, globset {expected:#x}: {shown} {globs:?}");
        }
        kernel.retire(slot)?;
    }
    Ok(())
}

const ALL: u32 = class::READ | class::WRITE | class::DENY | class::EXEC;

fn path_beyond_the_bound_is_not_matched_in_a_shortened_form(lab: &Lab) -> Result<()> {
    let mut kernel = load(lab)?;
    let globs = [vec!["/**/end".to_owned()], vec!["/a/**".to_owned()], vec![], vec![]];
    let compiled = compile(lab, &sections(&globs)?)?;
    let slot = kernel.install(1, &compiled)?;
    let path = |length: usize| {
        let middle = "/a".repeat(length / 2);
        format!("{}/end", &middle[..length - "/end".len()]).into_bytes()
    };
    let longest = path(PATH_MAX - 2);
    ensure!(longest.len() == PATH_MAX - 2);
    let expected = compiled.classify_path(&longest);
    ensure!(expected & ALL == class::READ | class::WRITE, "{expected:#x}");
    ensure!(kernel.classify_path(slot, &longest)? == expected);
    ensure!(kernel.classify_path(slot, &path(PATH_MAX)).is_err());
    Ok(())
}

/// The kernel programs without a monitor around them.
pub fn load(lab: &Lab) -> Result<Kernel> {
    let backend = match lab.backend() {
        Backend::Lsm => kernel::Backend::Lsm,
        Backend::Tracepoint => kernel::Backend::Tracepoint,
    };
    Kernel::load(&Options { backend: Some(backend), ..Options::default() }).context("loading")
}

/// Rules with one list of globs for each of [`LISTS`].
fn sections(globs: &[Vec<String>]) -> Result<String> {
    let mut text = String::new();
    let mut section = "";
    for (globs, (in_section, key, _)) in globs.iter().zip(LISTS) {
        if section != in_section {
            section = in_section;
            writeln!(text, "[{section}]")?;
        }
        let globs: Vec<_> = globs.iter().map(|glob| format!("'{glob}'")).collect();
        writeln!(text, "{key} = [{}]", globs.join(", "))?;
    }
    Ok(text)
}

/// The policy of these sections, with empty sets.
pub fn compile(lab: &Lab, sections: &str) -> Result<Compiled> {
    for name in set::NAMES {
        let text = format!("schema = 1\nset = \"{name}\"\naccess = []\n");
        lab.rule_file(&format!("sets/{name}.toml"), &text)?;
    }
    lab.policy(sections)?;
    let home = Path::new("/nohome/u").to_owned();
    let bindings = Bindings {
        own_homes: vec![home.clone()],
        home,
        user: "u".to_owned(),
        cwd: "/nowork".into(),
        tmpdir: "/notmp".into(),
        ..Bindings::default()
    };
    let search = SearchPath::new(Some(&lab.rules()));
    let loaded = rules::load(&search, Some("subject"), &bindings).with_context(|| sections.to_owned())?;
    rules::compile(&loaded).with_context(|| sections.to_owned())
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("**".to_owned()),
        4 => vec(select(&LETTERS[..]), 1..4)
            .prop_map(|parts| parts.concat())
            .prop_filter("no dots, no recursion", |text| {
                text != "." && text != ".." && !text.contains("**")
            }),
    ]
}

fn globs() -> impl Strategy<Value = Vec<String>> {
    let glob = (any::<bool>(), vec(component(), 1..5)).prop_map(|(floating, parts)| {
        let start = if floating { "**/" } else { "/" };
        format!("{start}{}", parts.join("/"))
    });
    vec(glob, 0..3)
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = vec(select(&BYTES[..]), 1..9);
    vec(name, 1..12)
        .prop_map(|names| names.iter().flat_map(|name| [b"/".as_slice(), name].concat()).collect())
}

/// What globset says, with our two differences: `/a/**` is also `/a`, and classes stop at `/`.
fn by_globset(glob: &str, path: &[u8]) -> bool {
    // Without its slash for floating patterns, or `*` could match the nothing before it.
    let path = if glob.starts_with("**") { &path[1..] } else { path };
    let path = OsStr::from_bytes(path);
    let mut texts = vec![glob.replace("[!", "[!/")];
    while let Some(stem) = texts.last().and_then(|text| text.strip_suffix("/**")) {
        texts.push(stem.to_owned());
    }
    texts.iter().any(|text| {
        let mut builder = GlobBuilder::new(text);
        builder.literal_separator(true).empty_alternates(true);
        builder.build().is_ok_and(|glob| glob.compile_matcher().is_match(path))
    })
}
