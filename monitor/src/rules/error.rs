//! What is wrong with rules, with file and line.

use std::{ops::Range, path::PathBuf, sync::Arc};

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The rules work, but perhaps not as meant.
    Warning,
    /// The rules cannot be loaded.
    Error,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// The file as people find it.
    pub file: String,
    /// Its text.
    pub text: Arc<str>,
    /// Bytes of the text that are meant.
    pub span: Range<usize>,
}

/// Why rules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The files say something that cannot be done.
    #[error("{}", error_list(.0))]
    Findings(Vec<Finding>),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn error_list(findings: &[Finding]) -> String {
    findings.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n")
}
