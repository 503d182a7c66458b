//! The sockets: HTTP on the control socket, and `/metrics` on loopback. Who calls is known from the
//! kernel (SO_PEERCRED); who may connect at all is decided by the socket's mode and group.
//!
//! | request | who | answer |
//! | --- | --- | --- |
//! | `GET /v1/status` | all; others than root see what is theirs | JSON |
//! | `GET /v1/alerts` | the same | JSON lines: the latest 1,000 |
//! | `GET /v1/alerts/follow` | the same | JSON lines, as they come |
//! | `POST /v1/plan` | all | JSON: what a launch would be under |
//! | `POST /v1/instances` | all | JSON lines: first what was begun, then its alerts |
//! | `POST /v1/instances/N/end` | root and whose it is | the summary |
//! | `POST /v1/reload` | root | JSON |
//! | `POST /v1/grants` | root | JSON: a grant that is given |
//! | `GET /v1/grants` | root | JSON: the grants in force |
//! | `DELETE /v1/grants/N` | root | JSON: the grant that is revoked |
//! | `POST`, `DELETE /v1/instances/N/isolation` | root | JSON: how it is cut off |
//! | `POST`, `DELETE /v1/servers/NAME/quarantine` | root | JSON: the instances that are stopped |
//! | `GET /metrics` | all | text |

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt as _, chown},
            net::UnixListener,
        },
    },
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, bail};
use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{Path as Parameter, State},
    http::{Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use futures_core::Stream;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Semaphore, broadcast, mpsc},
};

use super::{
    bounds::{CONNECTIONS_MAX, Guests, PATIENCE, read},
    config::{Config, Control},
    metrics::Metrics,
    request::{Ask, Asker, Caller, Launched, Refusal, Reply},
};
use crate::launch::account::group_number;

/// Connections to `/metrics` at one time.
const SCRAPES_MAX: usize = 16;

/// Binds the control socket; nobody is served yet.
///
/// # Errors
/// When another agent listens there, or the socket cannot be made.
pub fn listen(control: &Control) -> anyhow::Result<UnixListener> {
    let path = &control.socket;
    let shown = path.display();
    if let Some(directory) = path.parent() {
        super::make_directory(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("an agent is at work already: it listens on {shown}");
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            bail!("cannot remove {shown}, left by an earlier agent: {error}")
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot make {shown}"))?;
    let group = group_number(&control.group);
    chown(path, Some(0), group).with_context(|| format!("cannot give away {shown}"))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    if group.is_none() {
        eprintln!("mcp-monitor: there is no group {}: only root may use {shown}", control.group);
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What requests are answered with.
#[derive(Clone)]
struct Office {
    asker: Asker,
    scraped: Scraped,
}

impl Office {
    /// The watcher's answer as JSON.
    async fn json<T: Serialize>(
        &self,
        caller: Caller,
        ask: impl FnOnce(Reply<T>) -> Ask,
    ) -> Result<Response, Refusal> {
        Ok(Json(self.asker.ask(caller, ask).await?).into_response())
    }
}

/// What `/metrics` shows.
#[derive(Clone)]
pub struct Scraped {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The kernel programs, looked at when somebody asks.
    pub programs: Arc<Vec<(String, OwnedFd)>>,
}

/// Serves both sockets from a thread of its own.
///
/// # Errors
/// When the address of `/metrics` cannot be used.
pub fn start(
    listener: UnixListener,
    config: &Config,
    asker: Asker,
    scraped: Scraped,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let metrics =
        config.metrics.enabled.then(|| bind_metrics(config.metrics.listen)).transpose()?;
    let control = tokio::net::UnixListener::from_std(listener)?;
    drop(entered);
    let scrapes = Router::new().route("/metrics", get(scrape)).with_state(scraped.clone());
    let requests = router(Office { asker, scraped });
    let serve = move || {
        runtime.block_on(async move {
            let serve_metrics = async {
                if let Some(listener) = metrics {
                    let accept = async || listener.accept().await.map(|(stream, _)| stream);
                    let router_of = |_: &TcpStream| Some(scrapes.clone());
                    serve(SCRAPES_MAX, accept, router_of, Some(PATIENCE)).await;
                }
            };
            let accept = async || control.accept().await.map(|(stream, _)| stream);
            let guests = Guests::default();
            let router_of = |stream: &UnixStream| {
                let caller = caller(stream)?;
                // It goes with the connection that the router is for.
                let guest = Arc::new(guests.enter(caller)?);
                Some(requests.clone().layer(Extension(caller)).layer(Extension(guest)))
            };
            // Alerts are followed for as long as somebody cares to.
            tokio::join!(serve_metrics, serve(CONNECTIONS_MAX, accept, router_of, None));
        });
    };
    std::thread::Builder::new().name("control".to_owned()).spawn(serve)?;
    Ok(())
}

fn bind_metrics(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("metrics.listen: cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Serves what is accepted, `most` connections at a time and each for `patience` at most, for as
/// long as the runtime lives. Without a router a connection is closed.
async fn serve<S>(
    most: usize,
    accept: impl AsyncFn() -> io::Result<S>,
    router_of: impl Fn(&S) -> Option<Router>,
    patience: Option<Duration>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(most));
    loop {
        let place = places.clone().acquire_owned().await;
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: until somebody has gone.
                eprintln!("mcp-monitor: cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(router) = router_of(&stream) else { continue };
        tokio::spawn(async move {
            let _place = place;
            let serving = serve_one(TokioIo::new(stream), router);
            // Whoever goes away, or says what is no HTTP, is told nothing more.
            match patience {
                Some(patience) => drop(tokio::time::timeout(patience, serving).await),
                None => drop(serving.await),
            }
        });
    }
}

async fn serve_one<I>(io: I, router: Router) -> Result<(), hyper::Error>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(64 << 10)
        .serve_connection(io, TowerToHyperService::new(router))
        .await
}

fn caller(stream: &UnixStream) -> Option<Caller> {
    let credentials = stream.peer_cred().ok()?;
    Some(Caller { pid: credentials.pid()? as u32, uid: credentials.uid() })
}

fn router(office: Office) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/alerts", get(alerts))
        .route("/v1/alerts/follow", get(follow))
        .route("/v1/plan", post(plan))
        .route("/v1/instances", post(launch))
        .route("/v1/instances/{instance}/end", post(end))
        .route("/v1/reload", post(reload))
        .route("/v1/grants", get(grants).post(give))
        .route("/v1/grants/{id}", delete(revoke))
        .route("/v1/instances/{instance}/isolation", post(isolate).delete(isolate))
        .route("/v1/servers/{server}/quarantine", post(quarantine).delete(quarantine))
        .route("/metrics", get(own_metrics))
        .fallback(nothing)
        .with_state(office)
}

async fn nothing() -> Refusal {
    Refusal::NotFound("there is no such request: see docs/agent.md".to_owned())
}

async fn status(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    office.json(caller, Ask::Status).await
}

async fn reload(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    office.json(caller, Ask::Reload).await
}

async fn end(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    Parameter(instance): Parameter<u32>,
) -> Result<Response, Refusal> {
    let summary = office.asker.ask(caller, |reply| Ask::End(instance, reply)).await?;
    Ok(summary.into_response())
}

async fn alerts(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let told = office.asker.ask(caller, Ask::Alerts).await?;
    let lines: String = told.iter().flat_map(|told| [&told.line, "\n"]).collect();
    Ok(([(CONTENT_TYPE, LINES)], lines).into_response())
}

/// What JSON lines are called.
const LINES: &str = "application/x-ndjson";

async fn follow(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let mut following = office.asker.ask(caller, Ask::Follow).await?;
    let (lines, stream) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let line = match following.recv().await {
                Ok(told) if caller.owns(told.uid) => told.line,
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    format!("{{\"v\":1,\"type\":\"loss\",\"where\":\"follow\",\"count\":{count}}}")
                        .into()
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            // Fails when the follower has gone.
            if lines.send(line).await.is_err() {
                return;
            }
        }
    });
    Ok(lines_of(stream, None))
}

async fn grants(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    office.json(caller, Ask::Grants).await
}

async fn give(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let give = read(body, "grant").await?;
    office.json(caller, |reply| Ask::Give(give, reply)).await
}

async fn revoke(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    Parameter(id): Parameter<u32>,
) -> Result<Response, Refusal> {
    office.json(caller, |reply| Ask::Revoke(id, reply)).await
}

async fn isolate(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    Parameter(instance): Parameter<u32>,
    method: Method,
) -> Result<Response, Refusal> {
    let isolated = method == Method::POST;
    office.json(caller, |reply| Ask::Isolate(instance, isolated, reply)).await
}

async fn quarantine(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    Parameter(server): Parameter<String>,
    method: Method,
) -> Result<Response, Refusal> {
    let hold = method == Method::POST;
    office.json(caller, |reply| Ask::Quarantine(server, hold, reply)).await
}

async fn plan(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let launch = read(body, "launch").await?;
    office.json(caller, |reply| Ask::Plan(launch, reply)).await
}

async fn launch(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Refusal> {
    let launch = read(body, "launch").await?;
    let Launched { started, told } =
        office.asker.ask(caller, |reply| Ask::Launch(launch, reply)).await?;
    let line = Line { instance: started.instance, caller, asker: office.asker };
    let first =
        serde_json::to_string(&started).map_err(|error| Refusal::Failed(error.to_string()))?;
    let (lines, stream) = mpsc::channel(64);
    tokio::spawn(pass_on(first.into(), told, lines));
    Ok(lines_of(stream, Some(line)))
}

async fn pass_on(
    first: Arc<str>,
    mut told: mpsc::Receiver<Arc<str>>,
    lines: mpsc::Sender<Arc<str>>,
) {
    let mut next = Some(first);
    while let Some(line) = next {
        if lines.send(line).await.is_err() {
            return;
        }
        next = tokio::select! {
            line = told.recv() => line,
            () = lines.closed() => None,
        };
    }
}

/// The line to a launcher; when it breaks, the watcher is told.
struct Line {
    instance: u32,
    caller: Caller,
    asker: Asker,
}

impl Drop for Line {
    fn drop(&mut self) {
        let (asker, caller, instance) = (self.asker.clone(), self.caller, self.instance);
        // A full inbox must not make an instance outlive its launcher.
        tokio::spawn(async move {
            while asker.tell(caller, Ask::Gone(instance)) == Err(Refusal::Busy) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}

/// A body of lines.
struct Lines {
    lines: mpsc::Receiver<Arc<str>>,
    _line: Option<Line>,
}

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lines
            .poll_recv(context)
            .map(|line| line.map(|line| Ok([line.as_bytes(), b"\n"].concat().into())))
    }
}

fn lines_of(lines: mpsc::Receiver<Arc<str>>, line: Option<Line>) -> Response {
    let body = Body::from_stream(Lines { lines, _line: line });
    ([(CONTENT_TYPE, LINES)], body).into_response()
}

async fn own_metrics(State(office): State<Office>) -> Response {
    scrape(State(office.scraped)).await
}

async fn scrape(State(Scraped { metrics, programs }): State<Scraped>) -> Response {
    metrics.measure_agent();
    metrics.count_programs(&programs);
    match metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => Refusal::Failed(error.to_string()).into_response(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Wrong(_) => StatusCode::BAD_REQUEST,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(serde_json::json!({ "error": self.to_string() }))).into_response()
    }
}
