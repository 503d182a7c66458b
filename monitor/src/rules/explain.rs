//! What the kernel would decide, and why, without the kernel.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use monitor_common::policy::{Decision, access, class, decide, reason};

use crate::event::World;

use super::{
    Compiled, RuleRef, Subject,
    resolve::{Links, resolve},
};

/// A decision with its grounds.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Bits of [`monitor_common::policy::class`] that the subject falls in.
    pub classes: u32,
    /// What is decided.
    pub decision: Decision,
    /// The entry that decided.
    pub by: Option<RuleRef>,
    /// Every entry that the subject falls in, strongest decision or not.
    pub matching: Vec<RuleRef>,
}

impl Compiled {
    /// Explains one access; `labels` are class bits that the inode carries.
    pub fn explain(&self, subject: Subject<'_>, labels: u32, access: u8) -> Explanation {
        let mut vectors = Vec::new();
        let classes = labels
            | match subject {
                Subject::Path(path) => self.classify_path(path),
                Subject::Program { path, arguments } => {
                    vectors = self.vectors_naming(path, arguments);
                    let is_named = self.names_arguments(path, arguments.iter().copied());
                    self.classify_path(path) | if is_named { class::NAMED } else { 0 }
                }
                Subject::Address { address, port, protocol } if access == access::LISTEN => {
                    self.classify_local(address, port, protocol)
                }
                Subject::Address { address, port, protocol } => {
                    self.classify_address(address, port, protocol)
                }
                Subject::Host { .. } => {
                    let all = self.matching(subject, access);
                    all.iter().fold(0, |classes, (class, ..)| classes | class)
                }
            };
        let decision = decide(&self.policy, classes, access);
        let mut matching: Vec<RuleRef> = Vec::new();
        for (.., rule) in self.matching(subject, access) {
            if !matching.contains(&rule) {
                matching.push(rule);
            }
        }
        let by = match vectors.first() {
            Some(vector) if decision.reason == reason::LISTED => Some(vector.clone()),
            _ => self.blame(subject, classes, decision),
        };
        matching.splice(0..0, vectors);
        Explanation { classes, decision, by, matching }
    }

    /// Class bits that the labels on an existing path and on the directories above it give: what
    /// a hard link or a bind mount has in common with the member of a set behind it.
    pub fn labels_of(&self, path: &Path) -> u32 {
        let inode = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let own = inode(path);
        let above: Vec<_> = path.ancestors().skip(1).filter_map(inode).collect();
        let mut classes = 0;
        for (member, label) in self.labels.iter().chain(&self.labels_of_homes) {
            let Some(key) = inode(member) else { continue };
            if own == Some(key) {
                classes |= label.own;
            }
            if label.beneath != 0 && above.contains(&key) {
                classes |= label.beneath;
            }
        }
        classes
    }
}

/// A path as the kernel would report it: this machine's, or that of another with its links.
pub fn resolved_path(path: &Path, elsewhere: Option<&World>) -> Vec<u8> {
    let links = elsewhere.map_or_else(Links::default, |world| Links::recorded(&world.links));
    let resolved = resolve(path.as_os_str().as_bytes(), &links).path;
    if resolved.is_empty() { b"/".to_vec() } else { resolved }
}
