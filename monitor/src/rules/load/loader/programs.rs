//! `[exec.arguments]`: a program's patterns, each with each of its vectors.

use std::sync::Arc;

use monitor_common::policy::class;

use super::{Loader, origin as origin_of};
use crate::rules::{
    Severity, Source,
    load::VectorRule,
    parse::{Program, Vector},
    pattern::{Pattern, Piece},
    source::Origin,
    variables::Scope,
};

/// Vectors that the alternatives and values in one may stand for.
const VECTORS_MAX: usize = 1024;

impl Loader<'_> {
    /// Takes a program with its arguments in.
    pub(super) fn program(&mut self, source: &Arc<Source>, program: &Program) {
        let list = "exec.arguments";
        let before = self.paths.len();
        let origin = origin_of(source, &program.path, list.to_owned());
        self.path(&origin, class::ARGUMENTS, Scope::Rules, false);
        let own = self.paths[before..].iter().filter(|rule| !rule.is_link);
        let patterns: Vec<Pattern> = own.map(|rule| rule.pattern.clone()).collect();
        for vector in &program.vectors {
            let span = vector.span.clone();
            let written = source.text.get(span.clone()).unwrap_or_default().to_owned();
            let origin =
                Arc::new(Origin { source: source.clone(), span, list: list.to_owned(), written });
            for arguments in self.vector(source, vector, &origin) {
                for program in &patterns {
                    let (program, arguments) = (program.clone(), arguments.clone());
                    let (open, origin) = (vector.open, origin.clone());
                    self.vectors.push(VectorRule { program, arguments, open, origin });
                }
            }
        }
    }

    /// The vectors that one stands for, with all alternatives and values.
    fn vector(
        &mut self,
        source: &Arc<Source>,
        vector: &Vector,
        origin: &Arc<Origin>,
    ) -> Vec<Vec<Vec<Piece>>> {
        let mut all: Vec<Vec<Vec<Piece>>> = vec![Vec::new()];
        for element in &vector.elements {
            let place = origin_of(source, element, origin.list.clone());
            let choices = self.expanded(&place, Scope::Argument, false);
            all = all
                .iter()
                .flat_map(|one| {
                    choices.iter().map(|own| [&one[..], std::slice::from_ref(own)].concat())
                })
                .collect();
            if all.len() > VECTORS_MAX {
                let message = format!("this stands for more than {VECTORS_MAX} vectors");
                let help = Some("use several entries, or `*`".to_owned());
                self.finding(Severity::Error, origin, message, help);
                return Vec::new();
            }
        }
        all
    }
}
