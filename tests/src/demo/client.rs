//! An MCP client on a server that we start: the official SDK on the server's standard streams.
//!
//! Keeps a copy of every byte that the server wrote, so that what the SDK drops is looked at, too.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rmcp::model::CallToolRequestParams;
use rmcp::service::{RoleClient, RunningService, ServiceExt as _};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// For one answer, and for the end. Generous: other work may share the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// For the monitor's account of a server that is gone.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// A client and its server.
pub struct Session {
    service: RunningService<RoleClient, ()>,
    child: Child,
    heard: Copied,
    said: JoinHandle<Vec<u8>>,
}

/// What a session leaves.
pub struct Ended {
    /// The end of what was started: the monitor, or the server itself.
    pub status: ExitStatus,
    /// Every byte that came from the server's standard output.
    pub heard: Vec<u8>,
    /// Standard error: the monitor's words among the server's.
    pub said: String,
}

impl Session {
    /// Starts a server and shakes hands.
    ///
    /// # Errors
    /// When it cannot be started or does not speak MCP; with what it said.
    pub async fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.as_std().get_program().to_owned();
        let child = command.kill_on_drop(true).spawn();
        let mut child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let stdin = child.stdin.take().context("has standard input")?;
        let stdout = child.stdout.take().context("has standard output")?;
        let mut stderr = child.stderr.take().context("has standard error")?;
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            // What was read before an error still counts.
            let _ = stderr.read_to_end(&mut said).await;
            said
        });
        let heard = Copied::default();
        let transport = (Tee { from: stdout, copy: heard.clone() }, stdin);
        let service = match timeout(PATIENCE, ().serve(transport)).await {
            Ok(Ok(service)) => service,
            failed => {
                // Whoever ended it has something to say; what has not ended by then is killed.
                if timeout(LAST_WORDS, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
                let said = said.await.unwrap_or_default();
                let reason = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer in {PATIENCE:?}"),
                };
                bail!("no MCP session: {reason}\n{}", String::from_utf8_lossy(&said));
            }
        };
        Ok(Self { service, child, heard, said })
    }

    /// The names of the server's tools.
    ///
    /// # Errors
    /// When the server refuses or is gone.
    pub async fn tools(&self) -> Result<Vec<String>> {
        let tools = timeout(PATIENCE, self.service.list_all_tools()).await??;
        Ok(tools.into_iter().map(|tool| tool.name.into_owned()).collect())
    }

    /// Calls a tool and returns its text.
    ///
    /// # Errors
    /// When the tool fails or the server is gone.
    pub async fn call(&self, tool: &'static str, arguments: Value) -> Result<String> {
        let mut call = CallToolRequestParams::new(tool);
        call.arguments = arguments.as_object().cloned();
        let answer = timeout(PATIENCE, self.service.call_tool(call)).await;
        let answer = answer.with_context(|| format!("{tool}: no answer"))?;
        let answer = answer.with_context(|| format!("{tool} failed"))?;
        let texts = answer.content.iter().filter_map(|block| block.as_text());
        let text = texts.map(|text| text.text.as_str()).collect::<Vec<_>>().join("\n");
        if answer.is_error == Some(true) {
            bail!("{tool} failed: {text}");
        }
        Ok(text)
    }

    /// Closes the connection and waits for the end of what was started.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(mut self) -> Result<Ended> {
        // The transport goes with the service, and the server's standard input with it. A server
        // that was killed has closed it already.
        let _ = timeout(PATIENCE, self.service.cancel()).await;
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.context("the server does not end when its input does")??;
        let said = timeout(PATIENCE, self.said).await;
        let said = said.context("standard error outlives the server")??;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok(Ended { status, heard: self.heard.bytes(), said })
    }
}

impl Ended {
    /// Whether the server was killed. The monitor tells by 128 and the signal.
    pub fn was_killed(&self) -> bool {
        let told = self.status.code() == Some(128 + libc::SIGKILL);
        told || self.status.signal() == Some(libc::SIGKILL)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.status, self.said.trim_end())
    }
}

/// Bytes that several hold.
#[derive(Clone, Default)]
pub(super) struct Copied(Arc<Mutex<Vec<u8>>>);

impl Copied {
    /// Adds what has come.
    pub(super) fn add(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }

    /// All that has come so far.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A stream of which a copy is kept.
struct Tee<R> {
    from: R,
    copy: Copied,
}

impl<R: AsyncRead + Unpin> AsyncRead for Tee<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.from).poll_read(context, buffer))?;
        self.copy.add(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}
