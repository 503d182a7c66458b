//! What would hold up events is done by a thread beside them, at low priority: waiting for the
//! disk, compressing closed segments, deleting old ones.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use super::{Limits, Notice, output::Output, store};

/// Closed segments that may wait to be compressed. When there are more, because events come faster
/// than one processor compresses, they stay plain.
const WAITING_MAX: usize = 4;
/// zstd's own default.
const LEVEL: i32 = 3;

/// Work for the thread.
pub(super) enum Job {
    /// Waits for the disk.
    Sync(Arc<File>, PathBuf),
    /// A segment that is closed. It stays locked until this is done.
    Close(Output, PathBuf),
    /// Holds the directory within its limits.
    Prune {
        /// The directory.
        directory: PathBuf,
        /// The recording that is told when segments of its own go.
        stream: String,
        /// The limits.
        limits: Limits,
    },
}

/// Hands work to a thread that is made when the first of it is begun. The thread has the identity
/// for files that its maker has at that moment.
pub(super) struct Keeper {
    asked: Vec<Job>,
    thread: Option<(Sender<Job>, JoinHandle<()>)>,
    waiting: Arc<AtomicUsize>,
    told: Receiver<Notice>,
    teller: Sender<Notice>,
}

impl Keeper {
    pub(super) fn new() -> Self {
        let (teller, told) = mpsc::channel();
        Self { asked: Vec::new(), thread: None, waiting: Arc::default(), told, teller }
    }

    /// Asks for work, which does not begin before [`Keeper::begin`]: a process that is about to
    /// fork has one thread.
    pub(super) fn ask(&mut self, job: Job) {
        if matches!(job, Job::Close(..)) {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.asked.push(job);
    }

    /// Begins what was asked for.
    pub(super) fn begin(&mut self) {
        for job in std::mem::take(&mut self.asked) {
            if self.thread.is_none() {
                self.thread = self.worker().start();
            }
            let undone = match &self.thread {
                Some((sender, _)) => sender.send(job).err().map(|error| error.0),
                None => Some(job),
            };
            // Without a thread it holds up events, and is done.
            if let Some(job) = undone {
                self.worker().run(job);
            }
        }
    }

    fn worker(&self) -> Worker {
        Worker { waiting: self.waiting.clone(), teller: self.teller.clone() }
    }

    /// What came of it so far.
    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        self.told.try_iter()
    }

    /// Waits until all is done.
    pub(super) fn finish(&mut self) {
        self.begin();
        if let Some((sender, thread)) = self.thread.take() {
            drop(sender);
            // A panic there has been printed; the segments are as they were.
            let _ = thread.join();
        }
    }
}

struct Worker {
    waiting: Arc<AtomicUsize>,
    teller: Sender<Notice>,
}

impl Worker {
    fn start(self) -> Option<(Sender<Job>, JoinHandle<()>)> {
        let (sender, jobs) = mpsc::channel();
        let work = move || {
            be_nice();
            jobs.into_iter().for_each(|job| self.run(job));
        };
        let made = thread::Builder::new().name("recording".to_owned()).spawn(work);
        Some((sender, made.ok()?))
    }

    fn run(&self, job: Job) {
        match job {
            Job::Sync(file, path) => self.check("sync", &path, file.sync_data()),
            Job::Close(output, path) => {
                let waiting = self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.check("sync", &path, output.sync());
                if waiting <= WAITING_MAX {
                    self.check("compress", &path, compress(&path));
                }
            }
            Job::Prune { directory, stream, limits } => {
                match store::prune(&directory, &stream, &limits) {
                    Ok(0) => {}
                    Ok(count) => self.tell(
                        "retention",
                        format!(
                            "{count} of the oldest segments of this recording were deleted: {} is \
                             at its limits",
                            directory.display()
                        ),
                    ),
                    Err(error) => self.check("delete old recordings in", &directory, Err(error)),
                }
            }
        }
    }

    fn check(&self, what: &str, path: &Path, result: io::Result<()>) {
        if let Err(error) = result {
            self.tell("recording", format!("cannot {what} {}: {error}", path.display()));
        }
    }

    fn tell(&self, action: &'static str, message: String) {
        // Nobody hears it when the writer is gone.
        let _ = self.teller.send(Notice::Agent { action, message });
    }
}

/// Puts a compressed copy in the place of a segment. Whatever fails or crashes, one whole copy is
/// there.
pub(super) fn compress(path: &Path) -> io::Result<()> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (draft, target) = (beside(store::DRAFT), beside(".zst"));
    let done = copy(path, &draft).and_then(|()| fs::rename(&draft, &target)).and_then(|()| {
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    });
    if done.is_err() {
        let _ = fs::remove_file(&draft);
        return done;
    }
    fs::remove_file(path)
}

fn copy(path: &Path, draft: &Path) -> io::Result<()> {
    let mut plain = File::open(path)?;
    let metadata = plain.metadata()?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(draft)?;
    let mut encoder = zstd::Encoder::new(file, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(metadata.len()))?;
    io::copy(&mut plain, &mut encoder)?;
    let file = encoder.finish()?;
    // Its age is that of its events.
    file.set_modified(metadata.modified()?)?;
    file.sync_all()
}

/// Events come first.
fn be_nice() {
    // SAFETY: setpriority takes numbers only; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}
