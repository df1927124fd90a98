//! Serves the page: HTTP as far as a scraper needs it, one answer a connection.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::page;
use crate::look::Look;

/// Scrapers that are answered at once; more wait.
const AT_ONCE: usize = 4;
/// Most bytes of a request's head.
const MOST_HEAD: usize = 4096;
/// How long a scraper may take to ask and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failure to accept.
const BREATH: Duration = Duration::from_secs(1);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The page.
    Page,
    /// Something that is not here.
    Elsewhere,
    /// Nothing that can be got.
    NotGet,
    /// No request.
    Nonsense,
}

/// Reads a request's head as far as it is there; `None` while it is not whole.
#[must_use]
pub fn route(head: &[u8]) -> Option<Route> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    if !head.windows(4).any(|end| end == b"\r\n\r\n") {
        return None;
    }
    let line = std::str::from_utf8(line).ok();
    let words: Option<Vec<&str>> = line.map(|line| line.trim_end_matches('\r').split(' ').collect());
    Some(match words.as_deref() {
        Some(["GET", target, version]) if version.starts_with("HTTP/1.") => {
            let path = target.split('?').next().unwrap_or_default();
            if path == "/metrics" { Route::Page } else { Route::Elsewhere }
        }
        Some([_, _, version]) if version.starts_with("HTTP/1.") => Route::NotGet,
        Some(_) | None => Route::Nonsense,
    })
}

/// Serves the page to scrapers.
pub struct MetricsServer {
    listener: TcpListener,
    look: Look,
}

impl MetricsServer {
    /// Listens at `address`.
    ///
    /// # Errors
    /// Another process does, or the address is not ours.
    pub async fn bind(address: SocketAddr, look: Look) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, look })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if open.len() < AT_ONCE => match accepted {
                    Ok((stream, _)) => open.push(self.serve(stream)),
                    Err(error) => {
                        warn!(%error, "cannot accept at the metrics' address");
                        sleep(BREATH).await;
                    }
                },
                Some(()) = open.next() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream) {
        let served = timeout(PATIENCE, async {
            let mut head = Vec::new();
            let route = loop {
                if let Some(route) = route(&head) {
                    break route;
                }
                let room = u64::try_from(MOST_HEAD - head.len()).unwrap_or(0);
                if (&mut stream).take(room).read_buf(&mut head).await? == 0 {
                    break Route::Nonsense;
                }
            };
            let answer = self.answer(route).await;
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        });
        match served.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a scraper has gone"),
            Err(_) => debug!("a scraper was too slow"),
        }
    }

    async fn answer(&self, route: Route) -> String {
        let (status, body) = match route {
            Route::Page => match self.look.status().await {
                Ok(status) => ("200 OK", page(&status)),
                Err(error) => ("503 Service Unavailable", format!("{error}\n")),
            },
            Route::Elsewhere => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
            Route::NotGet => ("405 Method Not Allowed", "only GET\n".to_owned()),
            Route::Nonsense => ("400 Bad Request", "not a request\n".to_owned()),
        };
        format!(
            "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: \
             {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}
