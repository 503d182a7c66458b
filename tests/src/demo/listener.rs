//! Where stolen things would go: a loopback port that keeps what comes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::client::Copied;

/// Listens until it is dropped.
pub struct Listener {
    port: u16,
    received: Copied,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens on a port of the kernel's choice.
    pub async fn start() -> Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let socket = socket.context("cannot listen on 127.0.0.1")?;
        let port = socket.local_addr()?.port();
        let received = Copied::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(socket, received.clone(), connections.clone()));
        Ok(Self { port, received, connections, task })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections came, and all their bytes.
    ///
    /// # Errors
    /// When it is not listening any more, so that its silence would say nothing.
    pub async fn received(&self) -> Result<(usize, Vec<u8>)> {
        // Connections are accepted in the order they came: once our own is through, all are.
        let before = self.connections.load(Ordering::Relaxed);
        let probe = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
        drop(probe.context("the demo's own listener does not listen")?);
        while self.connections.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
        Ok((self.connections.load(Ordering::Relaxed) - 1, self.received.bytes()))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(socket: TcpListener, received: Copied, connections: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = socket.accept().await {
        let mut bytes = Vec::new();
        // What came before an error still came.
        let _ = stream.read_to_end(&mut bytes).await;
        received.add(&bytes);
        connections.fetch_add(1, Ordering::Relaxed);
    }
}
