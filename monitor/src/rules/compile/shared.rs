//! Tables that policies have in common: those of the sets are the same for all servers of a user.

use std::sync::Arc;

use super::{
    Automaton,
    automaton::{self, TooLarge},
    nodes::{Kind, Step},
};

/// Tables that are kept though no policy has them any more: servers come and go.
const UNUSED_MAX: usize = 8;

/// Tables that have been built.
#[derive(Default)]
pub struct Tables {
    /// By a digest of their patterns, the latest last.
    known: Vec<([u8; 32], Arc<Automaton>)>,
}

impl Tables {
    /// The table of patterns of paths, see [`automaton::build`].
    pub(super) fn of_paths(
        &mut self,
        patterns: &[(Vec<Step>, u32)],
        states_max: usize,
    ) -> Result<Arc<Automaton>, TooLarge> {
        let digest = digest(patterns, states_max);
        let at = self.known.iter().position(|(known, _)| *known == digest);
        let entry = match at.map(|at| self.known.remove(at)) {
            Some(entry) => entry,
            None => (digest, Arc::new(automaton::build(patterns, Kind::Paths, states_max)?)),
        };
        let table = entry.1.clone();
        self.known.push(entry);
        self.forget();
        Ok(table)
    }

    /// Forgets what nobody has, but for the latest.
    fn forget(&mut self) {
        let is_used = |table: &Arc<Automaton>| Arc::strong_count(table) > 1;
        let unused = self.known.iter().filter(|(_, table)| !is_used(table)).count();
        let mut too_many = unused.saturating_sub(UNUSED_MAX);
        self.known.retain(|(_, table)| {
            let goes = !is_used(table) && too_many > 0;
            too_many -= usize::from(goes);
            !goes
        });
    }
}

fn digest(patterns: &[(Vec<Step>, u32)], states_max: usize) -> [u8; 32] {
    let mut text = states_max.to_le_bytes().to_vec();
    for (steps, class) in patterns {
        text.extend(class.to_le_bytes());
        text.extend(steps.len().to_le_bytes());
        for step in steps {
            match step {
                Step::Byte(bytes) => {
                    text.push(0);
                    text.extend(bytes.iter().flat_map(|word| word.to_le_bytes()));
                }
                Step::Star => text.push(1),
                Step::Recursive => text.push(2),
                Step::Text => text.push(3),
                Step::Rest => text.push(4),
            }
        }
    }
    *blake3::hash(&text).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(number: u64) -> Vec<(Vec<Step>, u32)> {
        vec![(vec![Step::Byte([0, number, 0, 0]), Step::Star], 1)]
    }

    #[test]
    fn equal_patterns_share_a_table() {
        let mut tables = Tables::default();
        let one = tables.of_paths(&patterns(1), 100).unwrap();
        let other = tables.of_paths(&patterns(2), 100).unwrap();
        let again = tables.of_paths(&patterns(1), 100).unwrap();
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        let as_others = vec![(patterns(1).remove(0).0, 2)];
        let as_others = tables.of_paths(&as_others, 100).unwrap();
        assert!(!Arc::ptr_eq(&one, &as_others));
    }

    #[test]
    fn tables_that_nobody_has_do_not_pile_up() {
        let mut tables = Tables::default();
        let kept: Vec<_> = (0..20).map(|i| tables.of_paths(&patterns(i), 100).unwrap()).collect();
        for number in 20..60 {
            tables.of_paths(&patterns(number), 100).unwrap();
        }
        let again = tables.of_paths(&patterns(0), 100).unwrap();
        assert!(Arc::ptr_eq(&kept[0], &again));
        assert_eq!(tables.known.len(), kept.len() + UNUSED_MAX);
    }
}
