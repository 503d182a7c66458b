//! Programs and maps that outlive the process that loaded them, pinned in a BPF file system.
//!
//! ```text
//! DIRECTORY/maps-<layout>/NAME           maps, by what the two sides agree on about their contents
//! DIRECTORY/links-<backend>-<object>/N   attached programs, by the object that they are from
//! DIRECTORY/links-.../N_program          the programs themselves, for their statistics
//! DIRECTORY/unfinished/N                 the same, while not all of them are attached
//! DIRECTORY/isolated/N-WAY               what drops the packets of instance N on one of two ways
//! ```
//!
//! Who finds both takes over without touching a program. Who finds maps of its layout and links of
//! another object attaches its own programs to the same maps and then removes the others. Maps of
//! another layout cannot be taken over: the programs at work must be removed first.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use super::{Backend, KernelError, OBJECT};

/// Where the agent keeps them.
pub const DIRECTORY: &str = "/sys/fs/bpf/mcp-monitor";

/// Maps that are pinned: all but the object's constants and the working memory of its hooks.
pub const MAPS: &[&str] = &[
    "ADDRESSES",
    "BELL",
    "CALLS",
    "CELLS",
    "COUNTERS",
    "EVENTS",
    "HANDLERS",
    "HELD",
    "INSTANCES",
    "LABELS",
    "LABEL_FILTER",
    "POLICIES",
    "READS",
    "READ_FILES",
    "REDIRECTED",
    "TAGS",
    "TAG_COUNT",
    "VIOLATIONS",
];

/// `f_type` of a BPF file system (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Its name.
const ISOLATED: &str = "isolated";
/// What the name of a pinned program ends with; without it, it is the name of its link.
pub const PROGRAM: &str = "_program";

// include/uapi/linux/bpf.h
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_CREATE: libc::c_long = 28;

/// A directory of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Pins in `directory`, whatever is there.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Pins in `directory`, which is made; the BPF file system is mounted where it is not.
    ///
    /// # Errors
    /// When that is refused, or maps of another layout are pinned there.
    pub fn open(directory: &Path) -> Result<Self, KernelError> {
        let pins = Self::at(directory);
        let failed = |source| KernelError::pin(directory, source);
        if let Some(mount) = directory.parent() {
            mount_bpf(mount).map_err(failed)?;
        }
        for name in pins.names().map_err(failed)? {
            if name.starts_with("maps-") && pins.directory.join(&name) != pins.maps() {
                return Err(KernelError::OtherLayout(directory.display().to_string()));
            }
        }
        fs::create_dir_all(pins.maps()).map_err(failed)?;
        Ok(pins)
    }

    /// The directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.directory.join(format!("maps-{}", env!("MCP_MONITOR_LAYOUT")))
    }

    /// The directory of the links of our own object.
    pub fn links(&self, backend: Backend) -> PathBuf {
        let object = blake3::hash(OBJECT).to_hex();
        self.directory.join(format!("links-{backend}-{}", &object[..16]))
    }

    /// Where links are collected. No name in a BPF file system has a dot.
    fn unfinished(&self) -> PathBuf {
        self.directory.join("unfinished")
    }

    /// The directory of what cuts instances off, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn isolated(&self) -> io::Result<PathBuf> {
        let path = self.directory.join(ISOLATED);
        fs::create_dir_all(&path).map(|()| path)
    }

    /// Whether the programs of our own object are attached, all of them.
    pub fn are_attached(&self, backend: Backend) -> bool {
        self.links(backend).is_dir()
    }

    /// Whether programs of any object are attached.
    pub fn has_links(&self) -> bool {
        self.names().is_ok_and(|names| names.iter().any(|name| name.starts_with("links-")))
    }

    /// A place for new links. They count once [`Pins::attached`] has been called.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new_links(&self) -> Result<PathBuf, KernelError> {
        let path = self.unfinished();
        // What an attempt that was cut short has left.
        remove(&path);
        fs::create_dir_all(&path).map_err(|source| KernelError::pin(&path, source))?;
        Ok(path)
    }

    /// Detaches what is not all of it.
    pub fn discard(&self) {
        remove(&self.unfinished());
    }

    /// All links are in place: they take the place of those of other objects.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn attached(&self, backend: Backend) -> Result<(), KernelError> {
        let own = self.links(backend);
        let new = self.unfinished();
        fs::rename(&new, &own).map_err(|source| KernelError::pin(&new, source))?;
        for name in self.names().map_err(|source| KernelError::pin(&self.directory, source))? {
            let path = self.directory.join(&name);
            if name.starts_with("links-") && path != own {
                remove(&path);
            }
        }
        Ok(())
    }

    /// The programs of our own object, by name.
    pub fn programs(&self, backend: Backend) -> Vec<(String, OwnedFd)> {
        let directory = self.links(backend);
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let program = |name: String| {
            let path = directory.join(&name);
            Some((name.strip_suffix(PROGRAM)?.to_owned(), open(&path).ok()?))
        };
        entries.filter_map(|entry| program(entry.file_name().into_string().ok()?)).collect()
    }

    /// Removes everything: programs are detached once nobody else holds them.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_all(&self) -> io::Result<()> {
        remove(&self.unfinished());
        remove(&self.directory.join(ISOLATED));
        for prefix in ["links-", "maps-"] {
            for name in self.names()?.iter().filter(|name| name.starts_with(prefix)) {
                remove(&self.directory.join(name));
            }
        }
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// Removes a directory of pins with what is in it.
fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // What cannot be removed keeps its directory, which the caller's next look finds.
        let _ = fs::remove_file(entry.path());
    }
    let _ = fs::remove_dir(directory);
}

/// Mounts a BPF file system at `path` unless there is one.
fn mount_bpf(path: &Path) -> io::Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero bytes are a statfs, which the call fills.
    let mut statistics: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the string and the struct are live.
    if unsafe { libc::statfs(text.as_ptr(), &raw mut statistics) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if statistics.f_type == BPF_FS_MAGIC {
        return Ok(());
    }
    let kind = c"bpf";
    // SAFETY: live strings; the file system takes no data.
    let mounted =
        unsafe { libc::mount(kind.as_ptr(), text.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if mounted == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attributes of BPF_OBJ_PIN and BPF_OBJ_GET.
#[repr(C)]
struct PinAttributes {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Pins a link.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let attributes =
        PinAttributes { path: text.as_ptr() as u64, descriptor: link.as_raw_fd() as u32, flags: 0 };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

/// Opens what is pinned.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PinAttributes { path: text.as_ptr() as u64, descriptor: 0, flags: 0 };
    let descriptor = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: a descriptor that the call has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Attributes of BPF_LINK_CREATE for cgroups.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a cgroup program by a link of its own; aya keeps the descriptor of its links to itself.
///
/// # Errors
/// When the kernel refuses.
pub fn link_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attributes = LinkAttributes {
        program: program.as_raw_fd() as u32,
        target: cgroup.as_raw_fd() as u32,
        attach_type,
        flags: 0,
    };
    let descriptor = bpf(BPF_LINK_CREATE, &attributes)?;
    // SAFETY: a descriptor that the call has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    let attributes: *const T = attributes;
    // SAFETY: the attributes are live, of the command's layout, and their size is given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_of_the_programs_is_pinned() {
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        // Constants are the loader's own, working memory the programs'; the log is for whoever asked
        // for it.
        let other = ["AYA_LOGS", "SCRATCH"];
        let names = object.maps.keys().map(String::as_str);
        let mut names: Vec<_> =
            names.filter(|name| !name.starts_with('.') && !other.contains(name)).collect();
        names.sort_unstable();
        assert_eq!(names, MAPS);
    }
}
