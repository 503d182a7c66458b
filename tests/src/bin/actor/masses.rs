//! Doing a little to very many: files read, changed and deleted, addresses asked for, programs
//! started. What is refused is counted, and the rest goes on.

use std::{
    ffi::{CString, OsStr},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    steps::{Done, Step, Words, done, step},
    sys::{self, Failure, c_path, drain, open, sys},
};

pub const STEPS: &[Step] = &[
    step("each-read", "DIRECTORY", |words| {
        each(words.word(0), |path, _| open(path, libc::O_RDONLY).and_then(|file| drain(&file)))
    }),
    step("each-overwrite", "DIRECTORY", |words| {
        each(words.word(0), |path, _| {
            use std::os::fd::AsFd as _;
            let file = open(path, libc::O_WRONLY | libc::O_TRUNC)?;
            sys::write(file.as_fd(), b"locked\n").map(|()| 0)
        })
    }),
    step("each-truncate", "DIRECTORY", |words| {
        each(words.word(0), |path, _| sys!(SYS_truncate, path.as_ptr(), 0))
    }),
    step("each-unlink", "DIRECTORY", |words| {
        each(words.word(0), |path, _| sys!(SYS_unlink, path.as_ptr()))
    }),
    step("each-rename", "DIRECTORY", |words| {
        each(words.word(0), |path, name| {
            let locked = c_path(format!("{name}.locked").as_ref());
            sys!(SYS_rename, path.as_ptr(), locked.as_ptr())
        })
    }),
    step("each-own", "DIRECTORY COUNT", come_and_go),
    step("scan-ports", "ADDRESS FIRST COUNT", |words| {
        let (address, first, count): (IpAddr, u16, u16) =
            (words.number(0)?, words.number(1)?, words.number(2)?);
        scan((first..first + count).map(|port| SocketAddr::new(address, port)))
    }),
    step("scan-hosts", "PORT COUNT", |words| {
        let (port, count): (u16, u8) = (words.number(0)?, words.number(1)?);
        scan((1..=count).map(|host| SocketAddr::new(IpAddr::from([127, 9, 9, host]), port)))
    }),
    step("exec-each", "COUNT PROGRAM", exec_each),
];

/// Does something to every file of a directory.
fn each(directory: &OsStr, deed: impl Fn(&CString, &str) -> Result<usize, Failure>) -> Done {
    let failed =
        |error: std::io::Error| Failure::call("getdents64", error.raw_os_error().unwrap_or(0));
    let (mut did, mut refused) = (0, 0);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.path());
    }
    for name in &names {
        match deed(&c_path(name.as_os_str()), &name.to_string_lossy()) {
            Ok(_) => did += 1,
            Err(failure) if matches!(failure.errno(), libc::EPERM | libc::EACCES) => refused += 1,
            Err(failure) => return Err(failure),
        }
    }
    done(format!("did={did} refused={refused}"))
}

/// Makes files, writes to them, renames and deletes them.
fn come_and_go(words: Words<'_>) -> Done {
    let (directory, count): (&str, u32) = (words.text(0)?, words.number(1)?);
    for number in 0..count {
        let own = c_path(format!("{directory}/own-{number}").as_ref());
        let moved = c_path(format!("{directory}/own-{number}.moved").as_ref());
        drop(open(&own, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?);
        drop(open(&own, libc::O_WRONLY | libc::O_TRUNC)?);
        sys!(SYS_rename, own.as_ptr(), moved.as_ptr())?;
        sys!(SYS_unlink, moved.as_ptr())?;
    }
    done("")
}

/// Connects to each; that nobody listens is as good.
fn scan(targets: impl Iterator<Item = SocketAddr>) -> Done {
    let (mut asked, mut refused) = (0, 0);
    for target in targets {
        let result = TcpStream::connect_timeout(&target, Duration::from_secs(1));
        let errno = result.err().and_then(|error| error.raw_os_error());
        match errno {
            Some(libc::EPERM | libc::EACCES) => refused += 1,
            _ => asked += 1,
        }
    }
    done(format!("asked={asked} refused={refused}"))
}

fn exec_each(words: Words<'_>) -> Done {
    let (count, program): (u32, CString) = (words.number(0)?, words.path(1));
    for _ in 0..count {
        let pid = sys::fork()?;
        if pid == 0 {
            let argv = [program.as_ptr(), std::ptr::null()];
            let _ = sys!(SYS_execve, program.as_ptr(), argv.as_ptr(), argv[1..].as_ptr());
            std::process::exit(1);
        }
        sys::wait(pid)?;
    }
    done("")
}
