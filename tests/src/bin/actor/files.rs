//! Ways to open a file.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, drain, open, own, sys},
};

pub const STEPS: &[Step] = &[
    step("read", "PATH", read),
    step("open", "PATH", |words| open(&words.path(0), libc::O_RDONLY).and_then(|_| done(""))),
    step("stdin", "PATH", |words| {
        let file = open(&words.path(0), libc::O_RDONLY)?;
        sys!(SYS_dup2, file.as_raw_fd(), 0).and_then(|_| done(""))
    }),
    step("stat", "PATH", |words| sys::identity(&words.path(0)).and_then(|_| done(""))),
    step("write", "PATH", |words| write(&open(&words.path(0), libc::O_WRONLY)?)),
    step("append", "PATH", |words| write(&open(&words.path(0), libc::O_WRONLY | libc::O_APPEND)?)),
    step("open-truncate", "PATH", |words| {
        write(&open(&words.path(0), libc::O_WRONLY | libc::O_TRUNC)?)
    }),
    step("open-create", "PATH", |words| {
        write(&open(&words.path(0), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?)
    }),
    step("tmpfile", "DIRECTORY NEW", temporary),
    step("sys-open", "PATH", |words| {
        report(&own(sys!(SYS_open, words.path(0).as_ptr(), libc::O_RDONLY, 0)?))
    }),
    step("openat2", "PATH", openat2),
    step("creat", "PATH", |words| write(&own(sys!(SYS_creat, words.path(0).as_ptr(), 0o644)?))),
    step("handle", "PATH", handle),
    step("int80", "PATH", int80),
    step("path-reopen", "PATH", path_reopen),
    step("reopen-write", "PATH", reopen_write),
    step("dup", "PATH", dup),
    step("toctou", "ALLOWED SECRET", toctou),
    step("swap-link", "ALLOWED SECRET LINK", swap_link),
];

/// The outcome of having a readable file.
pub fn report(file: &OwnedFd) -> Done {
    done(format!("bytes={}", drain(file)?))
}

fn read(words: Words<'_>) -> Done {
    report(&open(&words.path(0), libc::O_RDONLY)?)
}

fn write(file: &OwnedFd) -> Done {
    use std::os::fd::AsFd as _;
    sys::write(file.as_fd(), b"actor\n")?;
    done("bytes=6")
}

/// A file without a name, given one afterwards.
fn temporary(words: Words<'_>) -> Done {
    let file = open(&words.path(0), libc::O_TMPFILE | libc::O_RDWR)?;
    let name = sys::c_path(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref());
    let new = words.path(1);
    let at = libc::AT_FDCWD;
    sys!(SYS_linkat, at, name.as_ptr(), at, new.as_ptr(), libc::AT_SYMLINK_FOLLOW)?;
    done("")
}

fn openat2(words: Words<'_>) -> Done {
    let how = [libc::O_RDONLY as u64, 0, 0];
    let size = size_of_val(&how);
    let path = words.path(0);
    report(&own(sys!(SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), size)?))
}

/// Opens by file handle, on the mount of the working directory.
fn handle(words: Words<'_>) -> Done {
    const BYTES: usize = 128;
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; BYTES],
    }
    let mut handle = Handle { bytes: BYTES as u32, kind: 0, data: [0; BYTES] };
    let mut mount = 0_i32;
    let path = words.path(0);
    let at = libc::AT_FDCWD;
    sys!(SYS_name_to_handle_at, at, path.as_ptr(), &raw mut handle, &raw mut mount, 0)?;
    report(&own(sys!(SYS_open_by_handle_at, at, &raw mut handle, libc::O_RDONLY)?))
}

/// The 32-bit `open`, from 64-bit code. Its path has to lie below 4 GB.
fn int80(words: Words<'_>) -> Done {
    const OPEN_32: i64 = 5;
    let path = words.path(0);
    let bytes = path.as_bytes_with_nul();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let low = sys!(SYS_mmap, 0_usize, bytes.len(), protection, flags, -1_i32, 0_usize)?;
    // SAFETY: the mapping is new and holds `bytes.len()` bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), low as *mut u8, bytes.len()) };
    let returned: i64;
    // SAFETY: the kernel reads the path in `low` only; rbx is put back, and the registers that
    // the 32-bit entry clears are named.
    unsafe {
        std::arch::asm!(
            "xchg {path}, rbx",
            "int 0x80",
            "xchg {path}, rbx",
            path = inout(reg) low => _,
            inlateout("rax") OPEN_32 => returned,
            in("rcx") i64::from(libc::O_RDONLY),
            in("rdx") 0_i64,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    let returned = returned as i32;
    if returned < 0 {
        return Err(Failure::call("open", -returned));
    }
    report(&own(returned as usize))
}

/// An O_PATH descriptor, opened again through procfs.
fn path_reopen(words: Words<'_>) -> Done {
    let file = open(&words.path(0), libc::O_PATH)?;
    report(&open(&name_of(&file), libc::O_RDONLY)?)
}

/// A descriptor for reading, opened again for writing.
fn reopen_write(words: Words<'_>) -> Done {
    let file = open(&words.path(0), libc::O_RDONLY)?;
    write(&open(&name_of(&file), libc::O_WRONLY)?)
}

fn dup(words: Words<'_>) -> Done {
    let file = open(&words.path(0), libc::O_RDONLY)?;
    report(&own(sys!(SYS_dup, file.as_raw_fd())?))
}

/// The descriptor's name in procfs.
pub fn name_of(file: &OwnedFd) -> std::ffi::CString {
    sys::c_path(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref())
}

/// Opens `ALLOWED` while another thread turns its name into `SECRET` and back, until `SECRET` was
/// what got opened. The names have to differ in one byte.
fn toctou(words: Words<'_>) -> Done {
    let allowed = words.path(0).into_bytes_with_nul();
    let secret = words.path(1).into_bytes_with_nul();
    let mut differing = (0..allowed.len()).filter(|&i| secret.get(i) != Some(&allowed[i]));
    let (Some(at), None) = (differing.next(), differing.next()) else {
        return Err(Failure::Usage("the names have to differ in exactly one byte".into()));
    };
    let name: Vec<std::sync::atomic::AtomicU8> =
        allowed.iter().map(|&byte| std::sync::atomic::AtomicU8::new(byte)).collect();
    let flip = |turn: bool| {
        let byte = if turn { secret[at] } else { allowed[at] };
        name[at].store(byte, Ordering::Relaxed);
    };
    // SAFETY: NUL-terminated; only one byte before the NUL changes, never to NUL.
    let path = unsafe { CStr::from_ptr(name.as_ptr().cast()) };
    race(path, &words.path(1), flip)
}

/// Opens `LINK` while another thread points it at `SECRET` and back.
fn swap_link(words: Words<'_>) -> Done {
    let link = words.path(2);
    let mut spare = words.word(2).to_owned();
    spare.push(".spare");
    let spare = sys::c_path(&spare);
    let at = libc::AT_FDCWD;
    sys!(SYS_symlinkat, words.path(0).as_ptr(), at, link.as_ptr())?;
    sys!(SYS_symlinkat, words.path(1).as_ptr(), at, spare.as_ptr())?;
    let outcome = race(&link, &words.path(1), |_| {
        let exchange = libc::RENAME_EXCHANGE;
        let _ = sys!(SYS_renameat2, at, link.as_ptr(), at, spare.as_ptr(), exchange);
    });
    sys!(SYS_unlinkat, at, link.as_ptr(), 0)?;
    sys!(SYS_unlinkat, at, spare.as_ptr(), 0)?;
    outcome
}

/// Opens `path` until it turns out to be `secret`, while `flip` runs in another thread.
fn race(path: &CStr, secret: &CStr, flip: impl Fn(bool) + Sync) -> Done {
    const TRIES: u32 = 20_000;
    let secret = sys::identity(secret)?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = true;
            while !over.load(Ordering::Relaxed) {
                flip(turn);
                turn = !turn;
                std::thread::yield_now();
            }
        });
        let mut refused = None;
        let mut outcome = None;
        for tries in 1..=TRIES {
            match open(path, libc::O_RDONLY) {
                Ok(file) if sys::identity_of(&file).is_ok_and(|found| found == secret) => {
                    outcome = Some(drain(&file).map(|bytes| (bytes, tries)));
                    break;
                }
                Ok(_) => {}
                Err(failure) if failure.errno() == libc::ENOENT => {}
                Err(failure) => refused = Some(failure),
            }
        }
        over.store(true, Ordering::Relaxed);
        match (outcome, refused) {
            (Some(outcome), _) => {
                outcome.and_then(|(bytes, tries)| done(format!("bytes={bytes} tries={tries}")))
            }
            (None, Some(refused)) => Err(refused.with(format!("tries={TRIES}"))),
            (None, None) => Err(Failure::call("race", libc::ETIME)),
        }
    })
}
