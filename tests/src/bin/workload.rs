//! What `cargo xtask bench` measures: one kind of call over and over, in nanoseconds a call.
//!
//! ```text
//! workload serve FILE                      does what standard input asks for, one word a line
//! workload flood FILE COUNT THREADS RATE   opens FILE that often, RATE opens a second (0: unthrottled)
//! workload nothing
//! ```

use std::env;
use std::fs::File;
use std::io::{BufRead, Write, stdin, stdout};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long one kind of call is repeated.
const LENGTH: Duration = Duration::from_millis(250);
/// Calls between two looks at the clock last about this long.
const BATCH: Duration = Duration::from_micros(400);

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", file] => serve(Path::new(file)),
        ["flood", file, count, threads, rate] => {
            flood(Path::new(file), count.parse()?, threads.parse()?, rate.parse()?)
        }
        ["nothing"] => Ok(()),
        _ => bail!("usage: workload serve|flood|nothing, see its source"),
    }
}

/// Answers each line with its word, nanoseconds of CPU time and nanoseconds by the clock a call
/// (each the median of batches), and the number of calls made.
fn serve(file: &Path) -> Result<()> {
    let mut calls = Calls::new(file)?;
    println!("ready");
    for line in stdin().lock().lines() {
        let what = line?;
        let Measured { cpu_ns, elapsed_ns, count } = calls.measure(&what)?;
        println!("{what} {cpu_ns} {elapsed_ns} {count}");
        stdout().flush()?;
    }
    Ok(())
}

/// What one kind of call took.
struct Measured {
    cpu_ns: f64,
    elapsed_ns: f64,
    count: u64,
}

/// What the calls need, made beforehand.
struct Calls {
    file: PathBuf,
    own: PathBuf,
    listener: TcpListener,
    sender: UdpSocket,
    receiver: UdpSocket,
    target: SocketAddr,
}

impl Calls {
    fn new(file: &Path) -> Result<Self> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let receiver = UdpSocket::bind(local)?;
        Ok(Self {
            file: file.to_owned(),
            own: env::current_exe()?,
            listener: TcpListener::bind(local)?,
            sender: UdpSocket::bind(local)?,
            target: receiver.local_addr()?,
            receiver,
        })
    }

    fn measure(&mut self, what: &str) -> Result<Measured> {
        match what {
            "getppid" => batches(|| {
                // SAFETY: getppid has no arguments. The raw call: the C library may remember.
                unsafe { libc::syscall(libc::SYS_getppid) };
                Ok(())
            }),
            "open" => batches(|| {
                drop(File::open(&self.file)?);
                Ok(())
            }),
            "exec" => batches(|| {
                let status = Command::new(&self.own).arg("nothing").status()?;
                if status.success() { Ok(()) } else { bail!("exec: {status}") }
            }),
            "connect" => batches(|| {
                let stream = TcpStream::connect(self.listener.local_addr()?)?;
                reset_on_close(&stream)?;
                drop(stream);
                self.listener.accept()?;
                Ok(())
            }),
            "send" => batches(|| {
                self.sender.send_to(b"x", self.target)?;
                self.receiver.recv(&mut [0; 8])?;
                Ok(())
            }),
            other => bail!("`{other}` is no call"),
        }
    }
}

/// Without it, thousands of connections would wait in TIME_WAIT and use the ports up.
fn reset_on_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's type and size are as the kernel expects them.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Repeats a call. Batches are short, so that what else the machine does meanwhile falls on few of
/// them, and their medians are taken.
fn batches(mut call: impl FnMut() -> Result<()>) -> Result<Measured> {
    let mut size = 1_u32;
    while time(size, &mut call)?.1 < BATCH.as_nanos() as f64 {
        size *= 2;
    }
    // 1, 2, 4, ... up to `size`.
    let mut count = u64::from(size) * 2 - 1;
    let (mut cpu, mut elapsed) = (Vec::new(), Vec::new());
    let end = Instant::now() + LENGTH;
    while cpu.len() < 5 || Instant::now() < end {
        let (cpu_ns, elapsed_ns) = time(size, &mut call)?;
        cpu.push(cpu_ns / f64::from(size));
        elapsed.push(elapsed_ns / f64::from(size));
        count += u64::from(size);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Measured { cpu_ns: median(cpu), elapsed_ns: median(elapsed), count })
}

/// CPU time and time by the clock of so many calls, nanoseconds.
fn time(count: u32, call: &mut impl FnMut() -> Result<()>) -> Result<(f64, f64)> {
    let (cpu, start) = (cpu_ns(), Instant::now());
    for _ in 0..count {
        call()?;
    }
    Ok((cpu_ns() - cpu, start.elapsed().as_nanos() as f64))
}

/// CPU time of this process and of its children that have ended.
fn cpu_ns() -> f64 {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().map(spent_ns).sum()
}

fn spent_ns(who: i32) -> f64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the buffer; all zeros is a value of it.
    let usage = unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    };
    let ns = |time: libc::timeval| time.tv_sec as f64 * 1e9 + time.tv_usec as f64 * 1e3;
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

/// Opens made between two looks at the clock when throttled.
const STRIDE: u64 = 64;

/// Opens one file from all threads, and says how many opens succeeded and how long it took.
fn flood(file: &Path, count: u64, threads: u64, rate: u64) -> Result<()> {
    let start = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let file = file.to_owned();
            let share = count / threads + u64::from(thread < count % threads);
            let rate = rate as f64 / threads as f64;
            thread::spawn(move || flood_one(&file, share, rate))
        })
        .collect();
    let mut opened = 0;
    for worker in workers {
        opened += worker.join().ok().context("a thread panicked")??;
    }
    println!("opened={opened} ns={}", start.elapsed().as_nanos());
    Ok(())
}

fn flood_one(file: &Path, count: u64, rate: f64) -> Result<u64> {
    let start = Instant::now();
    for done in 0..count {
        drop(File::open(file)?);
        if rate > 0.0 && done % STRIDE == 0 {
            let due = Duration::from_secs_f64(done as f64 / rate);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(count)
}
