//! Rules as a whole: texts in, verdicts and messages out.

mod arguments;
mod destinations;
mod drop_ins;
mod grants;
mod hosts;
mod limits;
mod lint;
mod matches;
mod messages;
mod packs;
mod properties;
mod schema;
mod sets;
mod tables;
mod verdicts;

use std::{fs, path::PathBuf};

use monitor_common::{network::mapped_v4, policy::set};

use super::*;

/// A rules directory in which the sets are empty, so that tests say all that counts.
struct Fixture {
    folder: tempfile::TempDir,
    bindings: Bindings,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in set::NAMES {
            let text = format!("schema = 1\nset = \"{name}\"\naccess = []\n");
            write(&folder, &format!("sets/{name}.toml"), &text);
        }
        let home = PathBuf::from("/nohome/u");
        let bindings = Bindings {
            own_homes: vec![home.clone()],
            home,
            user: "u".to_owned(),
            cwd: PathBuf::from("/nowork"),
            tmpdir: PathBuf::from("/notmp"),
            arguments: vec!["server".into()],
            ..Bindings::default()
        };
        Self { folder, bindings }
    }

    fn file(self, name: &str, text: &str) -> Self {
        write(&self.folder, name, text);
        self
    }

    fn server(self, text: &str) -> Self {
        self.file("servers/s.toml", &format!("schema = 1\nserver = \"s\"\n{text}"))
    }

    fn load(&self) -> Result<Loaded, RuleError> {
        let search = SearchPath::new(Some(self.folder.path()));
        load(&search, Some("s"), &self.bindings)
    }

    fn compile(&self) -> Compiled {
        compile(&self.load().unwrap()).unwrap()
    }

    /// Messages with line, column and help, without the renderer's frame.
    fn findings(&self) -> Vec<String> {
        match self.load() {
            Err(RuleError::Findings(findings)) => findings.iter().map(short).collect(),
            other => panic!("no findings: {other:?}"),
        }
    }
}

fn short(finding: &Finding) -> String {
    let help = finding.help.as_ref().map(|help| format!(" [{help}]")).unwrap_or_default();
    format!("{}:{}: {}{help}", finding.line(), finding.column(), finding.message)
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn one_finding(text: &str) -> String {
    let findings = Fixture::new().server(text).findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.into_iter().next().unwrap()
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
    mapped_v4(u32::from_be_bytes([a, b, c, d]))
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}
