//! Doing much of one thing: to fill tables and buffers, and to get between a hook and its end.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, open, sys},
};

pub const STEPS: &[Step] = &[
    step("fork-flood", "COUNT", fork_flood),
    step("open-flood", "PATH COUNT THREADS", open_flood),
    step("preempt", "ALLOWED SECRET MILLISECONDS THREADS", preempt),
];

/// Makes processes that stay, until there are enough or no more are to be had, and ends them.
fn fork_flood(words: Words<'_>) -> Done {
    let count: usize = words.number(0)?;
    let mut children = Vec::with_capacity(count);
    let mut failure = None;
    while children.len() < count {
        match sys::fork() {
            Ok(0) => stay(),
            Ok(pid) => children.push(pid),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
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

/// Threads that get in each other's way while they open an allowed and a forbidden file in turn.
fn preempt(words: Words<'_>) -> Done {
    let length = Duration::from_millis(words.number(2)?);
    let threads: usize = words.number(3)?;
    let paths = [words.path(0), words.path(1)];
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
        std::thread::sleep(length);
        over.store(true, Ordering::Relaxed);
    });
    let [allowed, allowed_refused, secret, secret_refused] = tally.map(AtomicU64::into_inner);
    let facts = format!(
        "allowed={allowed} allowed_refused={allowed_refused} secret={secret} \
         secret_refused={secret_refused}"
    );
    if secret == 0 { Err(Failure::call("openat", libc::EPERM).with(facts)) } else { done(facts) }
}
