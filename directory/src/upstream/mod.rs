//! Another directory, which is asked for names that are not kept here: usually the public one.
//!
//! What it says is kept for a while, and longer while it cannot be reached. Whoever asks has an answer within
//! three seconds, whatever becomes of the other directory; where nothing is known, it is that there is no such
//! name.

mod cache;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::{self, Address};
use atedge_service::tls::{TlsError, read_certificates};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use cache::{Cache, Heard};

/// How long whoever asks waits at most: clients are promised an answer within three seconds.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// How long a directory that could not be reached is not asked again.
const DOWN: Duration = Duration::from_secs(10);
/// How long it is believed that there is no such name: whoever adds one wants to see it.
const NEGATIVE: Duration = Duration::from_secs(30);
/// Questions at a time, each on a connection of its own; more wait.
const AT_ONCE: usize = 16;
/// Connections are kept so long for further questions; the others' patience is a minute or more.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of the longest answer: a host, a port, a line end and prompts.
const LONGEST_ANSWER: usize = 512;

/// The `[upstream]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Host and port of the other directory; `root.atsign.org:64` is the public one.
    pub address: Address,
    /// PEM file with authorities that are trusted besides the system's.
    pub ca: Option<PathBuf>,
    /// How long an answer counts as fresh; 1h, as clients keep it themselves. An older one is still given
    /// while the other directory cannot be reached.
    #[serde(default = "an_hour", with = "humantime_serde")]
    pub fresh: Duration,
    /// Most answers that are kept, in memory; 100000, about 20 MB.
    #[serde(default = "a_hundred_thousand")]
    pub names: usize,
}

fn an_hour() -> Duration {
    Duration::from_hours(1)
}

fn a_hundred_thousand() -> usize {
    100_000
}

/// Why the other directory cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The authorities' file cannot be used.
    #[error(transparent)]
    Ca(#[from] TlsError),
    /// Nothing to check its certificate by.
    #[error("this machine trusts no certificate authority; install ca-certificates or set [upstream] ca")]
    NobodyTrusted,
    /// The host is neither a name nor an address.
    #[error("{0} is no host that a certificate can name")]
    Host(Box<str>),
}

/// Another directory.
pub struct Upstream {
    settings: UpstreamSettings,
    name: ServerName<'static>,
    tls: TlsConnector,
    asking: Semaphore,
    state: Mutex<State>,
}

struct State {
    cache: Cache,
    /// Connections that wait for questions, and since when.
    idle: Vec<(Wire, Instant)>,
    /// Until when it is not asked, since it could not be reached.
    down: Option<Instant>,
}

impl Upstream {
    /// Another directory, not asked yet.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub fn new(settings: UpstreamSettings) -> Result<Arc<Self>, UpstreamError> {
        let mut roots = RootCertStore::empty();
        // What the system has that is no certificate is not trusted; nothing else follows from it.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(ca) = &settings.ca {
            roots.add_parsable_certificates(read_certificates(ca)?);
        }
        if roots.is_empty() {
            return Err(UpstreamError::NobodyTrusted);
        }
        let host = settings.address.host();
        let name = ServerName::try_from(host.to_owned()).map_err(|_| UpstreamError::Host(host.into()))?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let state = State { cache: Cache::new(settings.names), idle: Vec::new(), down: None };
        Ok(Arc::new(Self {
            settings,
            name,
            tls: Arc::new(tls).into(),
            asking: Semaphore::new(AT_ONCE),
            state: Mutex::new(state),
        }))
    }

    /// What it was made of.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// Where the other directory says that an atSign is served.
    pub async fn find(&self, atsign: &AtSign) -> Option<Address> {
        match self.known(atsign) {
            Ok(address) => address,
            Err(stale) => match timeout(PATIENCE, self.ask(atsign)).await {
                Ok(Ok(address)) => address,
                Ok(Err(error)) => self.unreachable(&error.to_string(), stale),
                Err(_) => self.unreachable("no answer in time", stale),
            },
        }
    }

    /// What is known without asking; if asking is better, what will do otherwise.
    fn known(&self, atsign: &AtSign) -> Result<Option<Address>, Option<Address>> {
        let mut state = self.state();
        let is_down = state.down.is_some_and(|until| Instant::now() < until);
        let Some(Heard { address, at }) = state.cache.get(atsign) else {
            return if is_down { Ok(None) } else { Err(None) };
        };
        let fresh = if address.is_some() { self.settings.fresh } else { NEGATIVE };
        if is_down || at.elapsed() < fresh { Ok(address) } else { Err(address) }
    }

    async fn ask(&self, atsign: &AtSign) -> io::Result<Option<Address>> {
        let _turn = self.asking.acquire().await.expect("it is never closed");
        // Somebody else may have asked the same meanwhile.
        if let Ok(address) = self.known(atsign) {
            return Ok(address);
        }
        let mut wire = None;
        let mut address = Err(io::ErrorKind::NotConnected.into());
        if let Some(mut kept) = self.idle() {
            address = kept.ask(atsign).await;
            wire = Some(kept);
        }
        // One that was kept may have been closed.
        if address.is_err() {
            let mut fresh = self.dial().await?;
            address = fresh.ask(atsign).await;
            wire = Some(fresh);
        }
        let address = address?;
        let mut state = self.state();
        state.down = None;
        state.cache.put(atsign.clone(), Heard { address: address.clone(), at: Instant::now() });
        // The next miss of the same connection would be held back by the other side.
        if let Some(wire) = wire.filter(|_| address.is_some()) {
            state.idle.push((wire, Instant::now()));
        }
        Ok(address)
    }

    fn unreachable(&self, error: &str, stale: Option<Address>) -> Option<Address> {
        let mut state = self.state();
        if state.down.is_none_or(|until| until < Instant::now()) {
            tracing::warn!(address = %self.settings.address, error, "the directory above cannot be asked");
        }
        state.down = Some(Instant::now() + DOWN);
        state.idle.clear();
        stale
    }

    fn idle(&self) -> Option<Wire> {
        let mut state = self.state();
        state.idle.retain(|(_, since)| since.elapsed() < IDLE);
        state.idle.pop().map(|(wire, _)| wire)
    }

    async fn dial(&self) -> io::Result<Wire> {
        let address = &self.settings.address;
        let socket = TcpStream::connect((address.host(), address.port())).await?;
        socket.set_nodelay(true)?;
        let stream = Box::pin(self.tls.connect(self.name.clone(), socket)).await?;
        let mut wire = Wire { stream };
        let greeting = wire.hear(|heard| !heard.is_empty()).await?;
        if greeting == b"@" { Ok(wire) } else { Err(strange()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to the other directory, which has been greeted.
struct Wire {
    stream: TlsStream<TcpStream>,
}

impl Wire {
    async fn ask(&mut self, atsign: &AtSign) -> io::Result<Option<Address>> {
        self.stream.write_all(directory::question(atsign).as_bytes()).await?;
        self.stream.flush().await?;
        let heard = self.hear(|heard| heard.ends_with(b"\n@")).await?;
        let text = std::str::from_utf8(&heard).map_err(|_| strange())?;
        directory::answer(text.strip_suffix('@').unwrap_or(text)).map_err(|_| strange())
    }

    /// What comes until it is whole.
    async fn hear(&mut self, is_whole: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
        let mut heard = Vec::new();
        while !is_whole(&heard) {
            let mut buffer = [0; LONGEST_ANSWER];
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            heard.extend_from_slice(&buffer[..count]);
            if heard.len() > LONGEST_ANSWER {
                return Err(strange());
            }
        }
        Ok(heard)
    }
}

fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not speak like a directory")
}
