//! What the control socket asks of the watcher. The watcher owns the kernel side and everything
//! about instances; the socket's thread only asks, and waits for the answer.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::event::{Bytes, Grant};

/// Questions that wait for the watcher.
const WAITING_MAX: usize = 256;

/// Who asks, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
}

impl Caller {
    /// Root controls; others have rights on what is theirs.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether what belongs to a user is for the caller.
    pub fn owns(&self, uid: u32) -> bool {
        self.is_root() || self.uid == uid
    }
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A question with its asker.
pub struct Request {
    /// Who asks.
    pub caller: Caller,
    /// What.
    pub ask: Ask,
    /// Why it is not answered.
    refusal: Arc<OnceLock<Refusal>>,
}

impl Request {
    /// Refuses whatever was asked.
    pub fn refuse(self, refusal: Refusal) {
        // It is the first and only one: the request is gone by this.
        let _ = self.refusal.set(refusal);
    }
}

/// The questions.
pub enum Ask {
    /// What a launch would be under.
    Plan(Box<Launch>, Reply<Plan>),
    /// Put a waiting process under watch.
    Launch(Box<Launch>, Reply<Launched>),
    /// End an instance; the answer is its summary.
    End(u32, Reply<String>),
    /// Whoever launched the instance has gone.
    Gone(u32),
    /// What there is.
    Status(Reply<Status>),
    /// Load all rules again.
    Reload(Reply<Vec<Reloaded>>),
    /// Give rights for a while.
    Give(Box<Give>, Reply<Given>),
    /// Take them away before their time.
    Revoke(u32, Reply<Given>),
    /// What is granted.
    Grants(Reply<Vec<Grant>>),
    /// Cut an instance off from networks, or connect it again.
    Isolate(u32, bool, Reply<Isolated>),
    /// Stop a server and keep it from starting, or let it start again; the answer is what was
    /// stopped.
    Quarantine(String, bool, Reply<Vec<u32>>),
    /// The latest alerts.
    Alerts(Reply<Vec<Told>>),
    /// All alerts to come.
    Follow(Reply<broadcast::Receiver<Told>>),
}

impl Ask {
    /// Why the caller gets no answer, `inside` an instance or not.
    pub fn refusal(&self, caller: Caller, inside: bool) -> Option<Refusal> {
        let forbidden = match self {
            // What the socket's thread says by itself.
            Self::Gone(_) => return None,
            _ if inside => "processes under watch get nothing from the agent",
            _ if caller.is_root() => return None,
            Self::Reload(_) => "only root reloads rules",
            Self::Give(..) | Self::Revoke(..) | Self::Grants(_) => {
                "only root gives rights, and sees who was given any"
            }
            Self::Isolate(..) | Self::Quarantine(..) => "only root isolates and quarantines",
            _ => return None,
        };
        Some(Refusal::Forbidden(forbidden.to_owned()))
    }
}

/// What a launch needs to know. Bytes are in the text form of events.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The waiting child of the caller; nobody yet for a plan.
    pub pid: u32,
    /// Whose rules; the default policy when missing.
    pub server: Option<String>,
    /// `enforce` where the rules say observe.
    pub mode: Option<Mode>,
    /// The server's command.
    pub command: Vec<Bytes>,
    /// The server's environment.
    pub environment: Vec<(Bytes, Bytes)>,
    /// The server's working directory.
    pub cwd: Bytes,
    /// `run --home`, for root.
    pub home: Option<Bytes>,
}

/// What a launcher has to know before there is a process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Plan {
    /// Whether verdicts are carried out, and secrets kept from the environment.
    pub enforced: bool,
    /// Variables that the server is given although they look like secrets.
    pub pass: BTreeSet<String>,
}

/// A mode that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Verdicts are recorded.
    Observe,
    /// Verdicts are carried out.
    Enforce,
}

/// An instance that has begun, and what is told of it.
pub struct Launched {
    /// What its launcher is told at once.
    pub started: Started,
    /// Lines of its alerts.
    pub told: mpsc::Receiver<Arc<str>>,
}

/// What the launcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Started {
    /// Number of the instance.
    pub instance: u32,
    /// Its server.
    pub server: String,
    /// `observe` or `enforce`.
    pub mode: String,
    /// `lsm` or `tracepoint`.
    pub backend: String,
    /// What may not be as meant.
    pub warnings: Vec<String>,
}

/// An alert that was told, and whose it is.
#[derive(Clone, Debug)]
pub struct Told {
    /// User who launched the instance.
    pub uid: u32,
    /// The line, without its newline.
    pub line: Arc<str>,
}

/// What `status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `lsm` or `tracepoint`.
    pub backend: String,
    /// Why the better backend was passed over.
    pub passed_over: Option<String>,
    /// Where it records.
    pub recording: String,
    /// Events lost on the way, of all instances.
    pub lost: u64,
    /// How long the agent that was before this one had left the kernel alone, in seconds.
    pub blind_seconds: Option<u64>,
    /// Servers that may not start.
    pub quarantined: Vec<String>,
    /// What runs.
    pub instances: Vec<InstanceStatus>,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct InstanceStatus {
    /// Its number.
    pub instance: u32,
    /// Its server.
    pub server: String,
    /// Process that the tree began with.
    pub pid: u32,
    /// User who launched it.
    pub uid: u32,
    /// `observe` or `enforce`.
    pub mode: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// Events so far.
    pub events: u64,
    /// Alerts so far.
    pub alerts: u64,
    /// Why the latest rules are not in force; those before are.
    pub stale: Option<String>,
    /// It is cut off from IP networks.
    pub isolated: bool,
}

/// What became of the rules of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloaded {
    /// Its number.
    pub instance: u32,
    /// Its server.
    pub server: String,
    /// Why the old ones stay in force.
    pub error: Option<String>,
}

/// Rights to be given for a while: entries as the lists of rules have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Give {
    /// All instances of a server.
    pub server: Option<String>,
    /// One instance.
    pub instance: Option<u32>,
    /// For how long, in seconds.
    pub seconds: u64,
    /// What may be read.
    #[serde(default)]
    pub read: Vec<String>,
    /// What may be changed and read.
    #[serde(default)]
    pub write: Vec<String>,
    /// Members of the built-in sets that may be touched.
    #[serde(default)]
    pub allow_secret: Vec<String>,
    /// What may be executed.
    #[serde(default)]
    pub exec: Vec<String>,
    /// Where connections and messages may go.
    #[serde(default)]
    pub connect: Vec<String>,
}

impl Give {
    /// The lists by the names that rules have for them.
    pub fn lists(&self) -> [(&'static str, &[String]); 5] {
        [
            ("files.read", &self.read),
            ("files.write", &self.write),
            ("files.allow_secret", &self.allow_secret),
            ("exec.allow", &self.exec),
            ("network.connect", &self.connect),
        ]
    }
}

/// How an instance is cut off now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Isolated {
    /// Whether it is.
    pub isolated: bool,
    /// It has no cgroup of its own, because others have started it: it makes no new connections, and
    /// those that exist go on.
    pub connections_go_on: bool,
}

/// A grant that was given or revoked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Given {
    /// The grant.
    pub grant: Grant,
    /// Running instances that it is about.
    pub instances: Vec<u32>,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller has no right to it.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// The agent cannot.
    #[error("{0}")]
    Failed(String),
    /// Too much is being asked.
    #[error("the agent is busy: try again")]
    Busy,
}

/// The asking side.
#[derive(Clone)]
pub struct Asker {
    requests: SyncSender<Request>,
    wake: Arc<EventFd>,
}

/// The answering side.
pub struct Inbox {
    requests: Receiver<Request>,
    wake: Arc<EventFd>,
}

/// Both sides.
///
/// # Errors
/// When the kernel has no descriptor left.
pub fn pair() -> nix::Result<(Asker, Inbox)> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = Arc::new(EventFd::from_flags(flags)?);
    Ok((Asker { requests: sender, wake: wake.clone() }, Inbox { requests: receiver, wake }))
}

impl Asker {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The refusal.
    pub async fn ask<T>(
        &self,
        caller: Caller,
        ask: impl FnOnce(Reply<T>) -> Ask,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let refusal = Arc::new(OnceLock::new());
        self.send(Request { caller, ask: ask(reply), refusal: refusal.clone() })?;
        // The watcher drops what it neither answers nor refuses only when it ends.
        answer.await.unwrap_or_else(|_| Err(refusal.get().cloned().unwrap_or_else(ending)))
    }

    /// Tells, without an answer.
    ///
    /// # Errors
    /// When too much waits already.
    pub fn tell(&self, caller: Caller, ask: Ask) -> Result<(), Refusal> {
        self.send(Request { caller, ask, refusal: Arc::default() })
    }

    fn send(&self, request: Request) -> Result<(), Refusal> {
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Refusal::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(ending()),
        }
        // Fails only when the counter is full, and then the watcher is awake.
        let _ = self.wake.write(1);
        Ok(())
    }
}

fn ending() -> Refusal {
    Refusal::Failed("the agent is ending".to_owned())
}

impl Inbox {
    /// The next question, if there is one.
    pub fn next(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// Makes it quiet until the next question comes; before they are read.
    pub fn quiet(&self) {
        // Fails when nothing woke it.
        let _ = self.wake.read();
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
