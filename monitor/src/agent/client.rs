//! The other end of the control socket: what the verbs that talk to the agent have in common.

use std::{io, path::Path};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Bytes of an answer that is read as a whole.
const ANSWER_MAX: usize = 64 << 20;

/// Why the agent could not be asked, or what it said instead.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("{socket}: {source}: {}", hint(source))]
    Connect {
        /// The socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The agent said no.
    #[error("{0}")]
    Refused(String),
    /// The connection broke, or what came is no answer.
    #[error("the agent's answer cannot be read: {0}")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "only root and members of the group in agent.toml (control.group) may talk to the agent"
        }
        _ => "no agent is at work: start one with `systemctl start mcp-monitor`, or run with sudo",
    }
}

impl ClientError {
    /// Whether there is no agent to talk to.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Answer(error.into())
}

/// A connection to the agent.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects, within a runtime.
    ///
    /// # Errors
    /// When nobody listens, or not to us.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { socket: socket.display().to_string(), source };
        let stream = UnixStream::connect(socket).await.map_err(failed)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Whoever waits for an answer sees that the connection broke.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Asks; the answer once it begins.
    ///
    /// # Errors
    /// When the agent refuses, or goes away.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "mcp-monitor")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let answer = Answer { body: response.into_body(), held: Vec::new() };
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let text = answer.text().await?;
        let said = serde_json::from_str::<serde_json::Value>(&text).ok();
        let said = said.and_then(|value| Some(value.get("error")?.as_str()?.to_owned()));
        Err(ClientError::Refused(said.unwrap_or_else(|| format!("the agent says {status}"))))
    }
}

/// An answer that comes.
pub struct Answer {
    body: Incoming,
    held: Vec<u8>,
}

impl Answer {
    /// All of it.
    ///
    /// # Errors
    /// When the agent goes away, or it is no text.
    pub async fn text(self) -> Result<String, ClientError> {
        let limited = http_body_util::Limited::new(self.body, ANSWER_MAX);
        let bytes = limited.collect().await.map_err(broken)?.to_bytes();
        String::from_utf8(bytes.into()).map_err(broken)
    }

    /// All of it, as JSON.
    ///
    /// # Errors
    /// When the agent goes away, or it is something else.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        serde_json::from_str(&self.text().await?).map_err(broken)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the agent goes away.
    pub async fn line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.held) {
                let rest = self.held.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                return Ok(Some(line));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                self.held.extend_from_slice(&data);
            }
            if self.held.len() > ANSWER_MAX {
                return Err(broken("a line beyond 64 MiB"));
            }
        }
    }
}

/// Runs what talks to the agent on a runtime of one thread.
///
/// # Errors
/// When the kernel has no descriptor left for it.
pub fn block_on<T>(what: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(what))
}
