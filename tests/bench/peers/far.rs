//! Nodes as cheap as can be, in a process of their own: they take every line of every stream and answer it, and
//! keep nothing. One of them is the floor of what crosses nodes, many are peers to a real server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use at_client::pin::pinned;
use at_protocol::crypto::Ed25519Secret;
use at_protocol::peer::{ALPN, Opening, WINDOW};
use atedge_service::tls::NodeIdentity;
use atedge_tests::process::Process;
use clap::Args;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fleet::Fleet;
use crate::ground::Ground;
use crate::meter::micros;

/// Bytes that are read at once.
const READ: usize = 32 * 1024;

/// What the process is told.
#[derive(Args)]
pub(crate) struct Told {
    /// How many nodes
    #[arg(long)]
    many: usize,
    /// Where their keys are kept
    #[arg(long)]
    folder: PathBuf,
    /// Answer every line by its end alone, and take the first one for any other
    #[arg(long)]
    bare: bool,
}

/// The process.
pub(super) struct Far {
    process: Process,
    pub(super) nodes: Vec<FarNode>,
}

/// One of its nodes.
pub(super) struct FarNode {
    pub(super) secret: Ed25519Secret,
    pub(super) port: u16,
}

impl Far {
    /// Starts so many nodes, and waits until they listen.
    pub(super) fn start(ground: &Ground, name: &str, many: usize, bare: bool) -> Result<Self> {
        let folder = ground.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["far", "--many", &many.to_string(), "--folder"]).arg(&folder);
        if bare {
            command.arg("--bare");
        }
        let process = Process::start(name, &mut command, ground.folder.path())?;
        let mut nodes = Vec::with_capacity(many);
        for number in 0..many {
            let port = process.line()?.context("the far nodes ended")?.parse()?;
            let pem = std::fs::read_to_string(folder.join(format!("{number}.key")))?;
            nodes.push(FarNode { secret: Ed25519Secret::from_pem(&pem)?, port });
        }
        Ok(Self { process, nodes })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The directory knows from now on that each node serves one atSign, `@<letter>0` and so on.
    pub(super) fn announce(&self, fleet: &Fleet<'_>, letter: &str) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            fleet.say(&node.secret, &[format!("@{letter}{number}")], node.port)?;
        }
        Ok(())
    }
}

/// The nodes themselves, until their process is killed.
#[expect(clippy::print_stdout, reason = "where they listen")]
pub(crate) async fn serve(told: Told) -> Result<()> {
    let mut nodes = JoinSet::new();
    for number in 0..told.many {
        let identity = NodeIdentity::open_or_create(&told.folder.join(format!("{number}.key")))?;
        let mut tls = rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(identity.shown())));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        println!("{}", endpoint.local_addr()?.port());
        nodes.spawn(one(endpoint, told.bare));
    }
    nodes.join_all().await;
    Ok(())
}

/// Shows a node's certificate to everybody.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

async fn one(endpoint: Endpoint, bare: bool) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        connections.spawn(async move {
            let Ok(connection) = incoming.await else { return };
            let mut streams = JoinSet::new();
            while let Ok((send, recv)) = connection.accept_bi().await {
                // Who hangs up has had enough.
                streams.spawn(async move { answer(send, recv, bare).await.ok() });
            }
        });
    }
}

/// Answers every line, the first one too, as the server would that takes them all.
async fn answer(mut send: SendStream, mut recv: RecvStream, bare: bool) -> Result<()> {
    let (mut read, mut first) = (vec![0; READ], Vec::new());
    let mut answer = bare.then(|| "\n".to_owned());
    while let Some(size) = recv.read(&mut read).await? {
        let heard = &read[..size];
        let lines = heard.iter().filter(|byte| **byte == b'\n').count();
        if answer.is_none() {
            first.extend_from_slice(heard);
            if lines > 0 {
                let end = first.iter().position(|byte| *byte == b'\n').context("a whole line")?;
                let opening: Opening = std::str::from_utf8(&first[..end])?.parse()?;
                answer = Some(format!("data:success\n{}@", opening.from().context("who speaks")?));
            }
        }
        if let Some(answer) = &answer {
            send.write_all(answer.repeat(lines).as_bytes()).await?;
        }
    }
    Ok(())
}

/// A stream to a bare node.
pub(super) struct Bare {
    send: SendStream,
    recv: RecvStream,
    /// Both live as long as the stream.
    _road: (Endpoint, Connection),
}

impl Bare {
    pub(super) async fn open(node: &FarNode) -> Result<Self> {
        Self::open_from(&Self::endpoint()?, node).await
    }

    /// For any number of streams.
    pub(super) fn endpoint() -> Result<Endpoint> {
        Ok(Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?)
    }

    pub(super) async fn open_from(endpoint: &Endpoint, node: &FarNode) -> Result<Self> {
        let crypto = QuicClientConfig::try_from(pinned(&node.secret.public(), None, ALPN))?;
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let address = SocketAddr::from(([127, 0, 0, 1], node.port));
        let connection = endpoint.connect_with(config, address, "localhost")?.await?;
        let (send, recv) = connection.open_bi().await?;
        Ok(Self { send, recv, _road: (endpoint.clone(), connection) })
    }

    /// How long a line's answer takes, in microseconds.
    pub(super) async fn latency(&mut self, line: &str) -> Result<f64> {
        let began = Instant::now();
        self.send.write_all(line.as_bytes()).await?;
        self.recv.read_exact(&mut [0]).await?;
        Ok(micros(began.elapsed()))
    }

    /// Says a line so often, with a window of them without an answer.
    pub(super) async fn rush(&mut self, times: usize, line: &str) -> Result<()> {
        let window = Semaphore::new(WINDOW);
        let Self { send, recv, .. } = self;
        let saying = async {
            for _ in 0..times {
                window.acquire().await?.forget();
                send.write_all(line.as_bytes()).await?;
            }
            anyhow::Ok(())
        };
        let hearing = async {
            let (mut left, mut read) = (times, [0; 1024]);
            while left > 0 {
                let size = recv.read(&mut read).await?.context("hung up on")?;
                window.add_permits(size);
                left -= size;
            }
            Ok(())
        };
        tokio::try_join!(saying, hearing)?;
        Ok(())
    }
}
