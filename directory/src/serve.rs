//! Sockets and time for the conversations of [`crate::wire`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::registry::Registry;
use crate::wire::{Action, Conversation, PROMPT, STOPPING};

/// How soon a change by another process is answered.
const REFRESH: Duration = Duration::from_millis(500);
/// How long to wait when the system gives out no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long open connections get to end when the directory stops.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What a directory needs to run.
pub struct DirectoryConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificate it shows.
    pub tls: Arc<ServerConfig>,
    /// What it answers.
    pub registry: Arc<Registry>,
    /// What it puts up with.
    pub limits: Limits,
}

/// What a directory puts up with. The reference sets none; clients need at least a minute of silence.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more are closed before TLS begins.
    pub connections: usize,
    /// How long the TLS handshake may take.
    pub handshake: Duration,
    /// How long a connection may say nothing, or take no answer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 4096, handshake: Duration::from_secs(10), idle: Duration::from_mins(2) }
    }
}

/// The service: [`Directory::start`].
pub struct Directory;

/// A directory that answers.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it answers; changes are answered at once.
    pub registry: Arc<Registry>,
    tasks: JoinSet<()>,
}

impl Directory {
    /// Listens, and answers until `stop`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(config: DirectoryConfig, stop: CancellationToken) -> io::Result<Running> {
        let listener = TcpListener::bind(config.address).await?;
        let address = listener.local_addr()?;
        info!(%address, "answering");
        let DirectoryConfig { tls, registry, limits, .. } = config;
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_registry(registry.clone(), stop.clone()));
        tasks.spawn(accept(listener, tls.into(), registry.clone(), limits, stop));
        Ok(Running { address, registry, tasks })
    }
}

impl Running {
    /// Waits until the directory has stopped: no sooner than its token is cancelled.
    ///
    /// # Panics
    /// When one of its tasks did.
    pub async fn wait(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(failed) = ended
                && failed.is_panic()
            {
                std::panic::resume_unwind(failed.into_panic());
            }
        }
    }
}

async fn watch_registry(registry: Arc<Registry>, stop: CancellationToken) {
    let mut due = interval(REFRESH);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = stop.cancelled() => return,
        }
        let reading = registry.clone();
        match tokio::task::spawn_blocking(move || reading.refresh()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "answering what was known before"),
            Err(_) => return,
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    registry: Arc<Registry>,
    limits: Limits,
    stop: CancellationToken,
) {
    let seats = Arc::new(Semaphore::new(limits.connections));
    let mut guests = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = guests.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(seat) = seats.clone().try_acquire_owned() else {
            debug!(%peer, "full: connection closed");
            continue;
        };
        let (tls, registry, stop) = (tls.clone(), registry.clone(), stop.clone());
        guests.spawn(async move {
            if let Err(error) = welcome(socket, &tls, &registry, limits, &stop).await {
                debug!(%peer, %error, "connection ended");
            }
            drop(seat);
        });
    }
    drop(listener);
    let ending = async { while guests.join_next().await.is_some() {} };
    if timeout(STOP_GRACE, ending).await.is_err() {
        debug!("connections that would not end were cut");
    }
}

async fn welcome(
    socket: TcpStream,
    tls: &TlsAcceptor,
    registry: &Registry,
    limits: Limits,
    stop: &CancellationToken,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let stream = tokio::select! {
        stream = timeout(limits.handshake, tls.accept(socket)) => stream??,
        () = stop.cancelled() => return Ok(()),
    };
    converse(stream, registry, limits.idle, stop).await
}

/// The conversation over any stream: greeting, answers, and a clean end.
async fn converse<S>(
    mut stream: S,
    registry: &Registry,
    idle: Duration,
    stop: &CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut conversation = Conversation::default();
    let mut buffer = [0; 512];
    say(&mut stream, PROMPT, idle).await?;
    loop {
        let count = tokio::select! {
            count = timeout(idle, stream.read(&mut buffer)) => count??,
            () = stop.cancelled() => break,
        };
        if count == 0 {
            break;
        }
        conversation.read(&buffer[..count]);
        while let Some(action) = conversation.next(|name| registry.find(name)) {
            let (reply, over) = match action {
                Action::Reply(reply) => (reply, false),
                Action::Last(reply) => (reply, true),
                Action::Close => return close(stream, idle).await,
            };
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = sleep(reply.delay) => false,
            };
            say(&mut stream, if stopped { STOPPING } else { &reply.text }, idle).await?;
            if over || stopped {
                return close(stream, idle).await;
            }
        }
    }
    close(stream, idle).await
}

/// One write, one TLS record.
async fn say<S: AsyncWrite + Unpin>(stream: &mut S, text: &str, limit: Duration) -> io::Result<()> {
    timeout(limit, async {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    })
    .await?
}

async fn close<S: AsyncWrite + Unpin>(mut stream: S, limit: Duration) -> io::Result<()> {
    timeout(limit, stream.shutdown()).await?
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    const IDLE: Duration = Duration::from_mins(2);

    struct Client {
        wire: DuplexStream,
        stop: CancellationToken,
        _folder: tempfile::TempDir,
    }

    /// A conversation on virtual time, greeted.
    async fn client() -> Client {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path()).unwrap();
        registry.put(&"@alice".parse().unwrap(), &"host.example:6464".parse().unwrap()).unwrap();
        let (wire, far) = duplex(4096);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { converse(far, &registry, IDLE, &stopped).await });
        let mut client = Client { wire, stop, _folder: folder };
        assert_eq!(client.hear().await, "@");
        client
    }

    impl Client {
        async fn ask(&mut self, line: &str) -> String {
            self.wire.write_all(line.as_bytes()).await.unwrap();
            self.hear().await
        }

        async fn hear(&mut self) -> String {
            let mut buffer = [0; 4096];
            let count = self.wire.read(&mut buffer).await.unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn misses_wait_three_seconds_and_the_third_ends_it() {
        let mut client = client().await;
        let began = Instant::now();
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        assert_eq!(client.ask("alice\n").await, "host.example:6464\r\n@");
        assert_eq!(began.elapsed().as_secs(), 0);
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        assert_eq!(began.elapsed().as_secs(), 3);
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        assert_eq!(began.elapsed().as_secs(), 6);
        assert_eq!(client.hear().await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let mut client = client().await;
        let began = Instant::now();
        assert_eq!(client.hear().await, "");
        assert_eq!(began.elapsed().as_secs(), IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_while_the_directory_stops_is_told() {
        let mut client = client().await;
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        client.wire.write_all(b"bob\n").await.unwrap();
        let stop = client.stop.clone();
        let waiting = client.hear();
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "held back");
        stop.cancel();
        assert_eq!(waiting.await, STOPPING);
    }
}
