//! The same through io_uring, by its raw calls. `MODE` is how a request is run: `inline` in the
//! submitting task, `async` by a worker thread, `sqpoll` by the kernel's polling thread.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    files, inet,
    steps::{Done, Step, Words, done, step},
    sys::{Failure, own, sys},
};

pub const STEPS: &[Step] = &[
    step("uring-setup", "", |_| Ring::new(Mode::Inline).and_then(|_| done(""))),
    step("uring-read", "MODE PATH", read),
    step("uring-openat2", "MODE PATH", openat2),
    step("uring-fixed", "MODE PATH", fixed),
    step("uring-connect", "MODE ADDRESS PORT", connect),
    step("uring-send", "MODE ADDRESS PORT", send),
    step("uring-unlink", "MODE PATH", |words| {
        let path = words.path(1);
        let request =
            Request { opcode: UNLINKAT, fd: AT, address: path.as_ptr().addr() as u64, ..NONE };
        Ring::new(mode(words)?)?.run(request, "uring_unlinkat").and_then(|_| done(""))
    }),
    step("uring-rename", "MODE OLD NEW", |words| {
        let (old, new) = (words.path(1), words.path(2));
        let request = Request {
            opcode: RENAMEAT,
            fd: AT,
            address: old.as_ptr().addr() as u64,
            offset: new.as_ptr().addr() as u64,
            length: AT as u32,
            ..NONE
        };
        Ring::new(mode(words)?)?.run(request, "uring_renameat").and_then(|_| done(""))
    }),
];

const AT: i32 = libc::AT_FDCWD;
const SENDMSG: u8 = 9;
const CONNECT: u8 = 16;
const OPENAT: u8 = 18;
const READ: u8 = 22;
const OPENAT2: u8 = 28;
const RENAMEAT: u8 = 35;
const UNLINKAT: u8 = 36;
const IOSQE_FIXED_FILE: u8 = 1;
const IOSQE_ASYNC: u8 = 1 << 4;
const SETUP_SQPOLL: u32 = 1 << 1;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const REGISTER_FILES: u32 = 2;
const OFFSET_RINGS: usize = 0;
const OFFSET_REQUESTS: usize = 0x1000_0000;
const ENTRIES: u32 = 4;

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    operation_flags: u32,
    user_data: u64,
    buffer: u16,
    personality: u16,
    file_index: u32,
    rest: [u64; 2],
}

const NONE: Request = Request {
    opcode: 0,
    flags: 0,
    priority: 0,
    fd: -1,
    offset: 0,
    address: 0,
    length: 0,
    operation_flags: 0,
    user_data: 0,
    buffer: 0,
    personality: 0,
    file_index: 0,
    rest: [0; 2],
};

/// `struct io_uring_params` with the positions within the rings.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    entries: [u32; 2],
    flags: u32,
    thread_cpu: u32,
    thread_idle_ms: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    submission: Submission,
    completion: Completion,
}

#[repr(C)]
#[derive(Default)]
struct Submission {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: [u32; 3],
}

#[repr(C)]
#[derive(Default)]
struct Completion {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    entries: u32,
    flags: u32,
    reserved: [u32; 3],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Inline,
    Async,
    Polled,
}

fn mode(words: Words<'_>) -> Result<Mode, Failure> {
    match words.text(0)? {
        "inline" => Ok(Mode::Inline),
        "async" => Ok(Mode::Async),
        "sqpoll" => Ok(Mode::Polled),
        other => Err(Failure::Usage(format!("{other}: give inline, async or sqpoll"))),
    }
}

struct Ring {
    fd: OwnedFd,
    mode: Mode,
    parameters: Parameters,
    rings: usize,
    requests: usize,
}

impl Ring {
    fn new(mode: Mode) -> Result<Self, Failure> {
        let flags = if mode == Mode::Polled { SETUP_SQPOLL } else { 0 };
        let mut parameters = Parameters { flags, thread_idle_ms: 1000, ..Parameters::default() };
        let fd = own(sys!(SYS_io_uring_setup, ENTRIES, &raw mut parameters)?);
        let map = |offset: usize| {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            sys!(SYS_mmap, 0_usize, 4096_usize, protection, flags, fd.as_raw_fd(), offset)
        };
        // Both rings lie in one mapping since 5.4, and so few entries fit in one page.
        let (rings, requests) = (map(OFFSET_RINGS)?, map(OFFSET_REQUESTS)?);
        Ok(Self { fd, mode, parameters, rings, requests })
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: an aligned word of the rings' mapping, which lives as long as the process.
        unsafe { &*((self.rings + offset as usize) as *const AtomicU32) }
    }

    /// Runs one request and returns its result.
    fn run(&self, mut request: Request, call: &'static str) -> Result<usize, Failure> {
        if self.mode == Mode::Async {
            request.flags |= IOSQE_ASYNC;
        }
        let (submission, completion) = (&self.parameters.submission, &self.parameters.completion);
        let tail = self.word(submission.tail);
        let slot = tail.load(Ordering::Relaxed) & (ENTRIES - 1);
        // SAFETY: `slot` is below the number of entries that were mapped, and free: one request
        // at a time.
        unsafe { (self.requests as *mut Request).add(slot as usize).write_volatile(request) };
        self.word(submission.array + 4 * slot).store(slot, Ordering::Relaxed);
        tail.fetch_add(1, Ordering::Release);
        let flags = ENTER_GETEVENTS | ENTER_SQ_WAKEUP;
        let head = self.word(completion.head);
        let seen = head.load(Ordering::Relaxed);
        while self.word(completion.tail).load(Ordering::Acquire) == seen {
            sys!(SYS_io_uring_enter, self.fd.as_raw_fd(), 1, 1, flags, 0_usize, 0_usize)?;
        }
        // A completion is user data (8 bytes), the result, and flags.
        let entry = completion.entries + 16 * (seen & (2 * ENTRIES - 1));
        let result = self.word(entry + 8).load(Ordering::Relaxed) as i32;
        head.store(seen + 1, Ordering::Release);
        usize::try_from(result).map_err(|_| Failure::call(call, -result))
    }
}

fn read(words: Words<'_>) -> Done {
    let path = words.path(1);
    let address = path.as_ptr().addr() as u64;
    let request = Request { opcode: OPENAT, fd: AT, address, ..NONE };
    files::report(&own(Ring::new(mode(words)?)?.run(request, "uring_openat")?))
}

fn openat2(words: Words<'_>) -> Done {
    let path = words.path(1);
    let how = [libc::O_RDONLY as u64, 0, 0];
    let request = Request {
        opcode: OPENAT2,
        fd: AT,
        address: path.as_ptr().addr() as u64,
        length: size_of_val(&how) as u32,
        offset: how.as_ptr().addr() as u64,
        ..NONE
    };
    files::report(&own(Ring::new(mode(words)?)?.run(request, "uring_openat2")?))
}

/// Opens into the ring's own table, so that no descriptor of the process shows it.
fn fixed(words: Words<'_>) -> Done {
    let ring = Ring::new(mode(words)?)?;
    let table = [-1_i32];
    sys!(SYS_io_uring_register, ring.fd.as_raw_fd(), REGISTER_FILES, table.as_ptr(), 1)?;
    let path = words.path(1);
    let address = path.as_ptr().addr() as u64;
    ring.run(Request { opcode: OPENAT, fd: AT, address, file_index: 1, ..NONE }, "uring_openat")?;
    let mut buffer = [0_u8; 4096];
    let bytes = ring.run(
        Request {
            opcode: READ,
            flags: IOSQE_FIXED_FILE,
            fd: 0,
            address: buffer.as_mut_ptr().addr() as u64,
            length: buffer.len() as u32,
            ..NONE
        },
        "uring_read",
    )?;
    done(format!("bytes={bytes}"))
}

fn connect(words: Words<'_>) -> Done {
    let address = inet::address(words, 1)?;
    let socket = inet::socket(&address, libc::SOCK_STREAM, 0)?;
    let request = Request {
        opcode: CONNECT,
        fd: socket.as_raw_fd(),
        address: address.as_ptr().addr() as u64,
        offset: address.len() as u64,
        ..NONE
    };
    Ring::new(mode(words)?)?.run(request, "uring_connect").and_then(|_| done(""))
}

fn send(words: Words<'_>) -> Done {
    let mut address = inet::address(words, 1)?;
    let socket = inet::socket(&address, libc::SOCK_DGRAM, 0)?;
    let mut data = *b"actor\n";
    let mut part = inet::part(&mut data);
    let message = inet::message(&mut address, &mut part);
    let request = Request {
        opcode: SENDMSG,
        fd: socket.as_raw_fd(),
        address: (&raw const message).addr() as u64,
        length: 1,
        ..NONE
    };
    let bytes = Ring::new(mode(words)?)?.run(request, "uring_sendmsg")?;
    done(format!("bytes={bytes}"))
}
