//! A directory of one's own.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use atedge_directory::{Directory, DirectoryConfig, Limits, Registry, Rules, Running};
use atedge_service::tls::{DevAuthority, OwnCertificate, read_certificates};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A directory that knows @alice and @bob, and how to reach it.
pub(crate) struct Site {
    pub(crate) running: Running,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) stop: DropGuard,
}

pub(crate) async fn site(limits: Limits) -> Result<Site> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let folder = tempfile::tempdir()?;
    let authority = DevAuthority::open_or_create(folder.path(), &[])?;
    let registry = Registry::open(folder.path())?;
    registry.put(&"@alice".parse()?, &"a.example:6464".parse()?)?;
    registry.put(&"@bob".parse()?, &"b.example:25000".parse()?)?;
    let stop = CancellationToken::new();
    let certificate = OwnCertificate::open(&authority.cert(), &authority.key())?;
    let rules = Rules { limits, ..Rules::plain(certificate) };
    let address = "127.0.0.1:0".parse()?;
    let config = DirectoryConfig { address, https: Some(address), registry, rules, nodes: None };
    let running = Directory::start(config, stop.clone()).await?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read_certificates(&authority.ca())?);
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Site { running, client: Arc::new(client), folder, stop: stop.drop_guard() })
}

impl Site {
    /// A connection that has not been greeted yet.
    pub(crate) async fn dial(&self) -> Result<TlsStream<TcpStream>> {
        self.speaking(&[]).await
    }

    /// The same, of a client that asks for these protocols.
    pub(crate) async fn speaking(&self, protocols: &[&[u8]]) -> Result<TlsStream<TcpStream>> {
        self.to(self.running.address, protocols).await
    }

    /// A connection to another port of the directory.
    pub(crate) async fn to(&self, address: SocketAddr, protocols: &[&[u8]]) -> Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        let mut client = ClientConfig::clone(&self.client);
        client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let tls = TlsConnector::from(Arc::new(client));
        Ok(tls.connect(ServerName::try_from("localhost")?, socket).await?)
    }

    pub(crate) async fn greeted(&self) -> Result<TlsStream<TcpStream>> {
        let mut wire = self.dial().await?;
        ensure!(one_read(&mut wire).await? == "@", "no greeting");
        Ok(wire)
    }
}

/// What a single read gives: clients rely on answer and prompt coming together.
pub(crate) async fn one_read(wire: &mut TlsStream<TcpStream>) -> Result<String> {
    let mut buffer = [0; 16 * 1024];
    let count = wire.read(&mut buffer).await?;
    Ok(String::from_utf8(buffer[..count].to_vec())?)
}

pub(crate) async fn ask(wire: &mut TlsStream<TcpStream>, line: &str) -> Result<String> {
    wire.write_all(line.as_bytes()).await?;
    one_read(wire).await
}
