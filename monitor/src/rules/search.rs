//! Where rules are looked for.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// Go on where all others end.
    grants: Vec<Arc<Source>>,
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

    #[cfg(test)]
    pub(super) fn of_directories(directories: &[&Path]) -> Self {
        let directories = directories.iter().map(|path| path.to_path_buf()).collect();
        Self { directories, ..Self::built_in() }
    }

    /// Only the copy inside the binary.
    pub fn built_in() -> Self {
        Self {
            directories: Vec::new(),
            recorded: Vec::new(),
            built_in: true,
            grants: Vec::new(),
            first: None,
        }
    }

    /// Only the texts of a recording.
    pub fn recorded(texts: Vec<Arc<Source>>) -> Self {
        Self { recorded: texts, built_in: false, ..Self::built_in() }
    }

    /// Other rules for a recording: a directory, then the recording's own texts, then the copy
    /// inside the binary.
    pub fn instead_of(rules: &Path, texts: Vec<Arc<Source>>) -> Self {
        Self { directories: vec![rules.to_path_buf()], recorded: texts, ..Self::built_in() }
    }

    /// The same with what has been granted for a while.
    pub fn with_grants(self, grants: Vec<Arc<Source>>) -> Self {
        Self { grants, ..self }
    }

    /// What has been granted, now or in the recording.
    pub(super) fn grants(&self) -> impl Iterator<Item = &Arc<Source>> {
        let is_grant = |source: &&Arc<Source>| source.kind == SourceKind::Grant;
        self.recorded.iter().filter(is_grant).chain(&self.grants)
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

    /// The drop-ins of a server in the order of their names, whichever directories they are in; of
    /// those with the same name the strongest.
    pub(super) fn drop_ins(&self, server: &str) -> Result<Vec<Arc<Source>>, RuleError> {
        let kind = SourceKind::DropIn;
        let folder = format!("{}/{server}.d", kind.folder());
        let mut found: BTreeMap<String, Arc<Source>> = BTreeMap::new();
        let mut add = |name: String, path: String, text: String| {
            let source = Source { kind, name: name.clone(), path, text };
            found.entry(name).or_insert_with(|| Arc::new(source));
        };
        for directory in &self.directories {
            for path in files(&directory.join(&folder))? {
                let Some(name) = name_of(&path) else { continue };
                let text = fs::read_to_string(&path);
                let text = text.map_err(|source| RuleError::Read { path: path.clone(), source })?;
                add(name, path.display().to_string(), text);
            }
        }
        for source in self.recorded.iter().filter(|source| source.kind == kind) {
            add(source.name.clone(), source.path.clone(), source.text.clone());
        }
        let built_in = BUILT_IN.get_dir(&folder).filter(|_| self.built_in);
        for file in built_in.into_iter().flat_map(Dir::files) {
            let text = file.contents_utf8().unwrap_or_default().to_owned();
            let Some(name) = name_of(file.path()) else { continue };
            let path = format!("built-in/{folder}/{name}.toml");
            add(name, path, text);
        }
        Ok(found.into_values().collect())
    }

    /// Names of servers that have drop-ins in a directory.
    pub(super) fn names_with_drop_ins(&self) -> Result<BTreeSet<String>, RuleError> {
        let mut names = BTreeSet::new();
        for directory in &self.directories {
            for path in files(&directory.join(SourceKind::DropIn.folder()))? {
                let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".d"));
                names.extend(name.filter(|_| path.is_dir()).map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// Names of all texts of a kind.
    ///
    /// # Errors
    /// When a directory exists and cannot be listed.
    pub fn names(&self, kind: SourceKind) -> Result<Vec<String>, RuleError> {
        let mut names = BTreeSet::new();
        for directory in &self.directories {
            names.extend(files(&directory.join(kind.folder()))?.iter().filter_map(|p| name_of(p)));
        }
        let recorded = self.recorded.iter().filter(|source| source.kind == kind);
        names.extend(recorded.map(|source| source.name.clone()));
        if let Some(folder) = BUILT_IN.get_dir(kind.folder()).filter(|_| self.built_in) {
            names.extend(folder.files().filter_map(|file| name_of(file.path())));
        }
        Ok(names.into_iter().collect())
    }
}

/// What is in a folder; nothing when there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, RuleError> {
    let unreadable = |source| RuleError::Read { path: folder.to_owned(), source };
    match fs::read_dir(folder) {
        Ok(entries) => {
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            paths.collect::<io::Result<_>>().map_err(unreadable)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(unreadable(source)),
    }
}

fn name_of(path: &Path) -> Option<String> {
    let is_rules = path.extension().is_some_and(|ending| ending == "toml");
    is_rules.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
}

/// Whether a name can be a file's within a rules directory, so that `../x` leads nowhere.
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(allowed)
}
