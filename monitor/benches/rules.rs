//! What 400 mixed patterns cost from text to tables, with the built-in sets and without them:
//! `cargo bench -p mcp-monitor --bench rules`.
//!
//! "load" reads, parses, puts values in and resolves links; "compile" makes the tables. The median
//! of the rounds is printed, with the lowest and highest.

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use mcp_monitor::rules::{self, Bindings, SearchPath};

const PATTERNS: usize = 400;
const ROUNDS: usize = 31;

/// A word of its own for each number.
fn word(number: usize) -> String {
    let digest = blake3::hash(&number.to_le_bytes());
    digest.as_bytes()[..9].iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// Patterns as in real rule files: literal paths, trees, names with stars and classes in the middle
/// and at the end, braces, and some that begin anywhere.
fn pattern(i: usize) -> String {
    let (one, two) = (word(i), word(1000 + i));
    match i % 10 {
        0 => format!("/srv/{one}/**"),
        1 => format!("/opt/{one}/*/{two}/*.toml"),
        2 => format!("/home/u/work/{one}/src/**/*.rs"),
        3 => format!("/var/lib/{one}/[a-f]*/{two}?.db"),
        4 => format!("/usr/share/{one}/{two}"),
        5 => format!("/etc/{one}/{{a,b,c}}/{two}.conf"),
        6 => format!("/home/*/.config/{one}/**"),
        7 => format!("/usr/lib/{one}-*/**"),
        8 => format!("/run/user/*/{one}.sock"),
        _ => format!("**/{one}"),
    }
}

/// The rules of a server with all of them, over its lists.
fn rules_text() -> Result<String> {
    let lists = [("files", "read"), ("files", "write"), ("files", "deny"), ("exec", "allow")];
    let mut text = String::from("schema = 1\nserver = \"bench\"\n");
    let mut section = "";
    for (number, (table, key)) in lists.iter().enumerate() {
        if section != *table {
            writeln!(text, "[{table}]")?;
            section = table;
        }
        let own = (0..PATTERNS).filter(|i| (i / 10) % lists.len() == number);
        let own: Vec<String> = own.map(|i| format!("{:?}", pattern(i))).collect();
        writeln!(text, "{key} = [{}]", own.join(", "))?;
    }
    Ok(text)
}

fn measure(name: &str, search: &SearchPath, bindings: &Bindings) -> Result<()> {
    let (mut load, mut compile) = (Vec::new(), Vec::new());
    let mut states = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let loaded = rules::load(search, Some("bench"), bindings)?;
        load.push(start.elapsed());
        let start = Instant::now();
        let compiled = black_box(rules::compile(&loaded)?);
        compile.push(start.elapsed());
        states = compiled.tables.iter().map(|table| table.states).collect();
    }
    println!("{name}: load {}, compile {}, states {states:?}", shown(load), shown(compile));
    Ok(())
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let (low, high) = (ms(times[0]), ms(times[times.len() - 1]));
    format!("{} ms ({low}-{high})", ms(times[times.len() / 2]))
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(path, text)
    };
    write("servers/bench.toml", &rules_text()?)?;
    let bindings = Bindings {
        home: "/nohome/u".into(),
        own_homes: vec!["/nohome/u".into()],
        user: "u".to_owned(),
        cwd: "/nowork".into(),
        tmpdir: "/tmp".into(),
        ..Bindings::default()
    };
    let search = SearchPath::new(Some(folder.path()));
    measure("400 patterns and the built-in sets", &search, &bindings)?;
    for name in monitor_common::policy::set::NAMES {
        let text = format!("schema = 1\nset = \"{name}\"\naccess = []\n");
        write(&format!("sets/{name}.toml"), &text)?;
    }
    measure("400 patterns alone", &search, &bindings)
}
