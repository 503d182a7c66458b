//! What is wrong with rules, with file, line and what to write instead.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::Source;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The rules work, but perhaps not as meant.
    Warning,
    /// The rules cannot be loaded.
    Error,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// The text it stands in.
    pub source: Arc<Source>,
    /// Bytes of the text that are meant.
    pub span: Range<usize>,
}

impl Finding {
    /// Line, from 1.
    pub fn line(&self) -> u32 {
        self.source.line(self.span.start)
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> u32 {
        let before = self.source.text.get(..self.span.start).unwrap_or(&self.source.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        u32::try_from(line.chars().count()).map_or(u32::MAX, |count| count.saturating_add(1))
    }

    /// The message with the line it is about and a caret under the place.
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let annotation = AnnotationKind::Primary.span(self.span.clone());
        let snippet =
            Snippet::source(&self.source.text).path(&self.source.path).annotation(annotation);
        let mut report = vec![level.primary_title(&self.message).element(snippet)];
        if let Some(help) = &self.help {
            report.push(Group::with_title(Level::HELP.secondary_title(help)));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&report)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Why rules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The files say something that cannot be done.
    #[error("{}", rendered(.0))]
    Findings(Vec<Finding>),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A text that rules need and no directory has.
    #[error("includes/{0}.toml is missing: rules that name hosts need it")]
    Missing(&'static str),
    /// A name that cannot be a file's.
    #[error("{0:?} cannot be a server's name: use letters, digits, `.`, `_` and `-`")]
    Name(String),
}

fn rendered(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

/// The candidate that `word` is most likely a misspelling of.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
