//! Doing much of one thing: to fill tables and buffers, and to get between a hook and its end.

use std::{
    ffi::CStr,
    os::fd::AsFd as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, open, sys},
};

pub const STEPS: &[Step] = &[
    step("fork-flood", "COUNT MARKS...", fork_flood),
    step("open-flood", "PATH COUNT THREADS", open_flood),
    step("preempt", "ALLOWED SECRET MILLISECONDS THREADS UNTIL...", preempt),
];

/// Makes processes that stay, until there are enough or no more are to be had, and ends them. With
/// a file MARKS each of them adds a byte to it, and then stays even without its parent.
fn fork_flood(words: Words<'_>) -> Done {
    let count: usize = words.number(0)?;
    let marks = words.rest(1).first().map(|path| sys::c_path(path));
    let mut children = Vec::with_capacity(count);
    let mut failure = None;
    while children.len() < count {
        match (sys::fork(), &marks) {
            (Ok(0), None) => stay(),
            (Ok(0), Some(marks)) => leave_mark(marks),
            (Ok(pid), _) => children.push(pid),
            (Err(error), _) => {
                failure = Some(error);
                break;
            }
        }
    }
    if let Some(marks) = &marks {
        await_marks(marks, children.len())?;
    }
    for &pid in &children {
        sys!(SYS_kill, pid, libc::SIGKILL)?;
    }
    for &pid in &children {
        sys::wait(pid)?;
    }
    let facts = format!("forks={}", children.len());
    match failure {
        Some(failure) => Err(failure.with(facts)),
        None => done(facts),
    }
}

fn leave_mark(marks: &CStr) -> ! {
    let marked = open(marks, libc::O_WRONLY | libc::O_APPEND)
        .and_then(|file| sys::write(file.as_fd(), b"x"));
    while marked.is_ok() {
        let _ = sys!(SYS_pause);
    }
    std::process::exit(1)
}

/// Waits, for ten seconds at most, until so many processes have left their marks.
fn await_marks(marks: &CStr, count: usize) -> Result<(), Failure> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if sys::drain(&open(marks, libc::O_RDONLY)?)? >= count {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Stays until the parent ends.
pub fn stay() -> ! {
    let _ = sys!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0_usize, 0_usize, 0_usize);
    loop {
        let _ = sys!(SYS_pause);
    }
}

/// Opens and closes one file `COUNT` times, spread over threads.
fn open_flood(words: Words<'_>) -> Done {
    let (count, threads): (u64, u64) = (words.number(1)?, words.number(2)?);
    let path = words.path(0);
    let start = Instant::now();
    let (opened, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let share = count / threads + u64::from(thread < count % threads);
            let (path, opened, refused) = (&path, &opened, &refused);
            scope.spawn(move || {
                for _ in 0..share {
                    let counter = if open(path, libc::O_RDONLY).is_ok() { opened } else { refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (opened, refused) = (opened.into_inner(), refused.into_inner());
    done(format!("opened={opened} refused={refused} ms={}", start.elapsed().as_millis()))
}

/// Threads that get in each other's way while they open an allowed and a forbidden file in turn,
/// until the time is over or there is a file UNTIL.
fn preempt(words: Words<'_>) -> Done {
    let length = Duration::from_millis(words.number(2)?);
    let threads: usize = words.number(3)?;
    let paths = [words.path(0), words.path(1)];
    let until = words.rest(4).first();
    // Opened and refused, of the allowed file and of the secret.
    let tally: [AtomicU64; 4] = Default::default();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (paths, tally, over) = (&paths, &tally, &over);
            scope.spawn(move || {
                let mut turn = thread % 2;
                while !over.load(Ordering::Relaxed) {
                    let refused = open(&paths[turn], libc::O_RDONLY).is_err();
                    tally[2 * turn + usize::from(refused)].fetch_add(1, Ordering::Relaxed);
                    turn ^= 1;
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < length && !until.is_some_and(|path| Path::new(path).exists()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        over.store(true, Ordering::Relaxed);
    });
    let [allowed, allowed_refused, secret, secret_refused] = tally.map(AtomicU64::into_inner);
    let facts = format!(
        "allowed={allowed} allowed_refused={allowed_refused} secret={secret} \
         secret_refused={secret_refused}"
    );
    if secret == 0 { Err(Failure::call("openat", libc::EPERM).with(facts)) } else { done(facts) }
}
