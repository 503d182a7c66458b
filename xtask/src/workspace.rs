//! Where things lie: the repository, its target folder, and what the tasks put there.

use std::env;
use std::path::{Path, PathBuf};

/// The repository this task was built from.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("the xtask crate lies in the repository's root").to_owned()
}

/// The workspace's target folder: `$CARGO_TARGET_DIR`, or `target` in the repository.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The compiled kernel programs that the agent embeds.
pub fn bpf_object() -> PathBuf {
    target().join("bpf/mcp-monitor.bpf.o")
}
