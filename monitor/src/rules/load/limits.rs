//! The limits of the detectors: what the server's own file or a drop-in states, the later one; else
//! the largest that one of its includes states, because each of them needs that much; else the
//! default.

use monitor_common::{
    policy::{detector, verdict},
    record::kind,
};

use super::super::{
    Finding, Severity, SourceKind,
    parse::{Document, LimitEntry},
};
use crate::{
    detect::{Limits, PARAMETERS},
    event::Rule,
};

/// Puts the limits of a server, its drop-ins and its includes together; the first document is the
/// server's.
pub fn of(documents: &[Document]) -> Limits {
    let mut limits = Limits::default();
    let Some(server) = documents.first() else { return limits };
    limits.file = server.source.path.clone();
    let (includes, own): (Vec<&Document>, Vec<&Document>) =
        documents.iter().partition(|document| document.source.kind == SourceKind::Include);
    for (detector, verdict, _) in own.iter().flat_map(|document| &document.response.detectors) {
        limits.verdicts[*detector] = *verdict;
    }
    let mut stated: [Option<(&Document, &LimitEntry)>; PARAMETERS.len()] = [None; _];
    for document in includes {
        for entry in &document.limits {
            let known = &mut stated[entry.parameter];
            if known.is_none_or(|(_, other)| other.value < entry.value) {
                *known = Some((document, entry));
            }
        }
    }
    for document in own {
        for entry in &document.limits {
            stated[entry.parameter] = Some((document, entry));
        }
    }
    for (document, entry) in stated.iter().flatten() {
        limits.values[entry.parameter] = entry.value;
        let table = PARAMETERS[entry.parameter].table;
        if !limits.rules.iter().any(|(name, _)| *name == table) {
            let line = document.source.line(entry.span.start);
            let (file, list) = (document.source.path.clone(), format!("limits.{table}"));
            limits.rules.push((table, Rule { file, line, list, text: String::new() }));
        }
    }
    for at in 0..limits.rules.len() {
        limits.rules[at].1.text = limits.text(limits.rules[at].0);
    }
    limits
}

/// Warns of what the detectors cannot do as stated.
pub fn warnings(document: &Document, record: u64) -> Vec<Finding> {
    let mut warnings = Vec::new();
    for (detector, decided, span) in &document.response.detectors {
        let name = detector::NAMES[*detector];
        let mut warn = |message: String, help: &str| {
            let (severity, source) = (Severity::Warning, document.source.clone());
            let help = Some(help.to_owned());
            warnings.push(Finding { severity, message, help, source, span: span.clone() });
        };
        let in_kernel = matches!(*detector, detector::MASS_READ | detector::ENV_SECRET);
        if *decided == verdict::DENY && !in_kernel {
            warn(
                format!("what {name} finds has happened already and is not denied, only reported"),
                "write \"kill\" or \"kill-tree\" to end who goes on, or \"alert\"",
            );
        }
        let needs = match *detector {
            detector::MASS_READ => 1 << kind::OPEN,
            detector::MASS_WRITE => 1 << kind::OPEN | 1 << kind::CHANGE,
            detector::CONNECT_BURST | detector::EXFILTRATION => {
                1 << kind::CONNECT | 1 << kind::SEND
            }
            _ => 0,
        };
        if *decided > verdict::ALLOW && record & needs != needs {
            warn(
                format!(
                    "{name} counts recorded events, and `record.events` leaves some of them out"
                ),
                "record everything, or open, change, connect and send",
            );
        }
    }
    warnings
}
