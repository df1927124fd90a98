//! Names that are not kept here, asked of another directory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use at_protocol::crypto::Ed25519Secret;
use at_protocol::directory::{Registrar, Registrars};
use atedge_directory::upstream::{Upstream, UpstreamSettings};
use atedge_directory::{Limits, Rules};
use atedge_service::tls::{ClientCertificates, DevAuthority};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::site::{Site, ask, site};

/// A directory that knows all that begins with `known`, and remembers what it is asked.
struct Above {
    settings: UpstreamSettings,
    asked: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
    tasks: JoinSet<Result<()>>,
}

impl Above {
    async fn start(fresh: Duration) -> Result<Self> {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir()?;
        let authority = DevAuthority::open_or_create(folder.path(), &[])?;
        let tls = TlsAcceptor::from(authority.server_config(ClientCertificates::Ignored)?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let settings = UpstreamSettings {
            address: format!("localhost:{}", listener.local_addr()?.port()).parse()?,
            ca: Some(authority.ca()),
            fresh,
            names: 100,
        };
        let asked = Arc::default();
        let mut tasks = JoinSet::new();
        let remembered = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut guests = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await?;
                guests.spawn(Self::serve(tls.clone(), socket, Arc::clone(&remembered)));
            }
        });
        Ok(Self { settings, asked, folder, tasks })
    }

    async fn serve(tls: TlsAcceptor, socket: TcpStream, asked: Arc<Mutex<Vec<String>>>) -> Result<()> {
        let mut stream = BufReader::new(tls.accept(socket).await?);
        stream.write_all(b"@").await?;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let name = std::mem::take(&mut line).trim().to_owned();
            let answer = if name.starts_with("known") { "far.example:7\r\n@" } else { "null\r\n@" };
            asked.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn below(&self) -> Result<Site> {
        let site = site(Limits::default()).await?;
        let upstream = Some(Upstream::new(self.settings.clone())?);
        let key = Ed25519Secret::from_seed(&Zeroizing::new([1; 32])).public();
        let registrars = Registrars::new(vec![Registrar { key, atsigns: vec!["@plant7*".parse()?] }]);
        site.running.apply(Rules { upstream, registrars, ..site.running.rules() })?;
        Ok(site)
    }
}

#[tokio::test]
async fn other_names_are_asked_for_once_and_private_ones_never() -> Result<()> {
    let above = Above::start(Duration::from_hours(1)).await?;
    let site = above.below().await?;
    let mut wire = site.greeted().await?;
    for _ in 0..3 {
        assert_eq!(ask(&mut wire, "@Known1\n").await?, "far.example:7\r\n@");
        assert_eq!(ask(&mut wire, "alice\n").await?, "a.example:6464\r\n@");
    }
    for name in ["plant7gw1", "unknown", "plant7", "PLANT7x", "not.a.name", "unknown", "a b", "@plant7gw1"] {
        // Each in a connection of its own: a second miss would be held back.
        assert_eq!(ask(&mut site.greeted().await?, &format!("{name}\n")).await?, "null\r\n@");
    }
    assert_eq!(ask(&mut wire, "known2\n").await?, "far.example:7\r\n@");
    assert_eq!(above.asked(), ["known1", "unknown", "known2"]);
    Ok(())
}

#[tokio::test]
async fn what_was_known_is_answered_while_the_directory_above_is_down() -> Result<()> {
    // Every answer is old at once.
    let mut above = Above::start(Duration::ZERO).await?;
    let site = above.below().await?;
    let mut wire = site.greeted().await?;
    for _ in 0..2 {
        assert_eq!(ask(&mut wire, "known1\n").await?, "far.example:7\r\n@");
    }
    assert_eq!(above.asked(), ["known1", "known1"]);
    above.tasks.shutdown().await;
    assert_eq!(ask(&mut wire, "known1\n").await?, "far.example:7\r\n@");
    assert_eq!(ask(&mut wire, "known2\n").await?, "null\r\n@");
    assert_eq!(ask(&mut wire, "alice\n").await?, "a.example:6464\r\n@");
    Ok(())
}

#[tokio::test]
async fn a_directory_above_that_others_vouch_for_is_not_believed() -> Result<()> {
    let mut above = Above::start(Duration::from_hours(1)).await?;
    let other = DevAuthority::open_or_create(&above.folder.path().join("other"), &[])?;
    above.settings.ca = Some(other.ca());
    let site = above.below().await?;
    assert_eq!(ask(&mut site.greeted().await?, "known1\n").await?, "null\r\n@");
    ensure!(above.asked().is_empty());
    above.tasks.abort_all();
    above.tasks.join_next().await.context("a task")?.ok();
    Ok(())
}
