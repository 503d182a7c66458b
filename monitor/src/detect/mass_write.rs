//! `mass_write`: many files overwritten, renamed, deleted or emptied, as ransom software and a
//! recursive delete do. What the tree has made itself does not count: builds, browsers and package
//! managers make files and remove them by the hundred.

use std::collections::{HashSet, VecDeque};

use monitor_common::{
    policy::detector,
    record::{change, did, flags},
};

use super::{
    Found, Limits, Run, Seen, between,
    distinct::{Distinct, key},
    holds_data, parameter, writes,
};
use crate::event::{Body, Bytes};

/// Files made by the tree that are remembered.
const OWN_MAX: usize = 4096;

/// See the module.
pub struct MassWrite {
    hit: Distinct,
    own: Own,
}

impl MassWrite {
    /// Nothing has been written yet.
    pub fn new(limits: &Limits) -> Self {
        let window_ns = limits.window_ns(parameter::MASS_WRITE_WINDOW);
        Self {
            hit: Distinct::new(limits.values[parameter::MASS_WRITE_FILES], window_ns),
            own: Own::default(),
        }
    }

    /// Takes an event.
    pub fn observe(&mut self, seen: &Seen<'_>, limits: &Limits) -> Option<Found> {
        let path = self.victim(seen)?;
        let run = self.hit.add(seen.at, key(&path.as_bytes()), || path.clone())?;
        Some(found(run, path, limits))
    }

    /// The file that an event takes from somebody else, if any.
    fn victim<'a>(&mut self, seen: &Seen<'a>) -> Option<&'a Bytes> {
        if !seen.done {
            return None;
        }
        let path = match &seen.event.body {
            Body::Open { access, file } if access & did::CREATE != 0 => {
                self.own.add(&file.path);
                return None;
            }
            Body::Open { access, file } if writes(*access) && holds_data(file) => &file.path,
            Body::Change { op, file, second } => match *op {
                change::CREATE | change::SYMLINK | change::MKNOD => {
                    self.own.add(&file.path);
                    return None;
                }
                change::LINK => {
                    self.own.add(second);
                    return None;
                }
                // A file of one's own put in the place of another. Not every backend can tell, and
                // most programs save so under a name that is new.
                change::RENAME if self.own.has(&file.path) => {
                    let observed = seen.event.observed.as_ref();
                    let replaced = observed.is_some_and(|it| it.flags & flags::REPLACED != 0);
                    let other = !self.own.has(second) && !(seen.is_runtime)(second);
                    self.own.add(second);
                    return (replaced && other).then_some(second);
                }
                change::RENAME | change::UNLINK | change::TRUNCATE => &file.path,
                _ => return None,
            },
            _ => return None,
        };
        (!self.own.has(path) && !(seen.is_runtime)(path)).then_some(path)
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.hit.bytes() + self.own.keys.capacity() * 9 * 8 / 7 + self.own.order.capacity() * 8
    }
}

/// Paths of files that the tree has made; of very many the latest.
#[derive(Default)]
struct Own {
    keys: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Own {
    fn add(&mut self, path: &Bytes) {
        let key = key(&path.as_bytes());
        if !self.keys.insert(key) {
            return;
        }
        if self.order.len() == OWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.order.push_back(key);
    }

    fn has(&self, path: &Bytes) -> bool {
        self.keys.contains(&key(&path.as_bytes()))
    }
}

fn found(run: Run, path: &Bytes, limits: &Limits) -> Found {
    Found {
        detector: detector::MASS_WRITE,
        table: "mass_write",
        limit: limits.values[parameter::MASS_WRITE_FILES],
        window_ns: limits.window_ns(parameter::MASS_WRITE_WINDOW),
        deed: format!(
            "has overwritten, renamed, deleted or emptied {} files that it did not make within {}",
            run.count,
            between(&run)
        ),
        subject: path.clone(),
        evidence: vec![run.first.seq, run.last.seq],
        answered: None,
        run,
    }
}
