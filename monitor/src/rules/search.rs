//! Where rules are looked for.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use include_dir::{Dir, include_dir};

use super::{RuleError, Source, SourceKind};

static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../rules");

/// Directories of rules, strongest first; behind them stand the texts of a recording, and the copy
/// inside the binary. What an earlier one lacks, a later one fills in.
#[derive(Clone, Debug)]
pub struct SearchPath {
    directories: Vec<PathBuf>,
    recorded: Vec<Arc<Source>>,
    built_in: bool,
    /// Stands before everything else.
    first: Option<Arc<Source>>,
}

impl SearchPath {
    /// `--rules DIR` (when given), then `/etc/mcp-monitor/rules.d`, then
    /// `/usr/share/mcp-monitor/rules`, then the copy inside the binary.
    pub fn new(rules: Option<&Path>) -> Self {
        let fixed = ["/etc/mcp-monitor/rules.d", "/usr/share/mcp-monitor/rules"];
        let directories = rules.into_iter().map(Path::to_path_buf);
        let directories = directories.chain(fixed.map(PathBuf::from)).collect();
        Self { directories, ..Self::built_in() }
    }

    /// Only the copy inside the binary.
    pub fn built_in() -> Self {
        Self { directories: Vec::new(), recorded: Vec::new(), built_in: true, first: None }
    }

    /// Only the texts of a recording.
    pub fn recorded(texts: Vec<Arc<Source>>) -> Self {
        Self { directories: Vec::new(), recorded: texts, built_in: false, first: None }
    }

    /// Other rules for a recording: a directory, then the recording's own texts, then the copy
    /// inside the binary.
    pub fn instead_of(rules: &Path, texts: Vec<Arc<Source>>) -> Self {
        Self {
            directories: vec![rules.to_path_buf()],
            recorded: texts,
            built_in: true,
            first: None,
        }
    }

    /// The same with one text before all others.
    pub fn with_first(self, first: Arc<Source>) -> Self {
        Self { first: Some(first), ..self }
    }

    /// The strongest text of that name, `None` when there is none.
    pub(super) fn find(
        &self,
        kind: SourceKind,
        name: &str,
    ) -> Result<Option<Arc<Source>>, RuleError> {
        let is_it = |source: &&Arc<Source>| source.kind == kind && source.name == name;
        if let Some(source) = self.first.iter().find(is_it) {
            return Ok(Some(source.clone()));
        }
        let relative = format!("{}/{name}.toml", kind.folder());
        for directory in &self.directories {
            let path = directory.join(&relative);
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let path = path.display().to_string();
                    return Ok(Some(Arc::new(Source { kind, name: name.to_owned(), path, text })));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(RuleError::Read { path, source }),
            }
        }
        if let Some(source) = self.recorded.iter().find(is_it) {
            return Ok(Some(source.clone()));
        }
        if !self.built_in {
            return Ok(None);
        }
        let text = BUILT_IN.get_file(&relative).and_then(include_dir::File::contents_utf8);
        Ok(text.map(|text| {
            let path = format!("built-in/{relative}");
            Arc::new(Source { kind, name: name.to_owned(), path, text: text.to_owned() })
        }))
    }

    /// Names of all texts of a kind.
    ///
    /// # Errors
    /// When a directory exists and cannot be listed.
    pub fn names(&self, kind: SourceKind) -> Result<Vec<String>, RuleError> {
        let mut names = BTreeSet::new();
        for directory in &self.directories {
            let path = directory.join(kind.folder());
            let unreadable = |source| RuleError::Read { path: path.clone(), source };
            match fs::read_dir(&path) {
                Ok(entries) => {
                    for entry in entries {
                        names.extend(name_of(&entry.map_err(unreadable)?.path()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(unreadable(source)),
            }
        }
        let recorded = self.recorded.iter().filter(|source| source.kind == kind);
        names.extend(recorded.map(|source| source.name.clone()));
        if let Some(folder) = BUILT_IN.get_dir(kind.folder()).filter(|_| self.built_in) {
            names.extend(folder.files().filter_map(|file| name_of(file.path())));
        }
        Ok(names.into_iter().collect())
    }
}

fn name_of(path: &Path) -> Option<String> {
    let is_rules = path.extension().is_some_and(|ending| ending == "toml");
    is_rules.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
}

/// Whether a name can be a file's within a rules directory, so that `../x` leads nowhere.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(allowed)
}
