//! Test machines: Debian's stock kernels of the support range under QEMU.
//!
//! No KVM and no initramfs: the kernels boot from an ext4 image on NVMe, both built in, to an init
//! of our own in three seconds, or to Debian's systemd.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};

mod debian;
mod image;
mod qemu;

pub use debian::build as build_debian;
pub use image::build as build_image;
pub use qemu::{Boot, Processors, boot};

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The oldest supported.
    V6_1,
    /// The newest that Debian 12 offers.
    V6_12,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The release that is installed, such as `6.1.0-56-cloud-amd64`; the newest of several.
    pub fn release(self) -> Result<String> {
        let prefix = format!("vmlinuz-{self}.");
        let entries = fs::read_dir("/boot").context("cannot list /boot")?;
        let images = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let releases = images.filter(|name| name.starts_with(&prefix) && name.contains("cloud"));
        let newest = releases.max_by_key(|name| numbers(name));
        let newest = newest.as_deref().and_then(|name| name.strip_prefix("vmlinuz-"));
        newest.map(str::to_owned).ok_or_else(|| {
            anyhow!("no cloud kernel {self} in /boot: `cargo xtask setup` installs it")
        })
    }

    fn image(self) -> Result<PathBuf> {
        Ok(Path::new("/boot").join(format!("vmlinuz-{}", self.release()?)))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

impl FromStr for Kernel {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|kernel| kernel.to_string() == name) {
            Some(kernel) => Ok(kernel),
            None => bail!("`{name}` is no kernel of the matrix: 6.1 or 6.12"),
        }
    }
}

/// The numbers in a name, by which releases are ordered.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}
