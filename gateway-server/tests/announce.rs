//! A node tells a directory of its atSigns. The directory is a model of one: it takes records whose number
//! grows, and counts who came how.

#![cfg(test)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use at_protocol::crypto::{Ed25519Public, Ed25519Secret};
use at_protocol::directory::{EXTENDED, Grant, Location, SignedRecord};
use at_protocol::session::server::Hosts as _;
use at_protocol::{AtSign, Timestamp};
use atedge_server::store::Tenant;
use atedge_server::{Identity, Offline, Running, Server, ServerConfig, ServerTls};
use atedge_service::tls::{ClientCertificates, TlsSettings};
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Beyond this a test has failed; no test waits so long to succeed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory, as far as a node is concerned.
struct Directory {
    desk: Arc<Desk>,
    address: SocketAddr,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

#[derive(Default)]
struct Desk {
    records: Mutex<HashMap<AtSign, SignedRecord>>,
    changed: Notify,
    registrations: AtomicUsize,
    connections: AtomicUsize,
}

impl Directory {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let directory = Self { desk: Arc::default(), address, folder, stop: CancellationToken::new() };
        directory.open(listener);
        directory
    }

    fn open(&self, listener: TcpListener) {
        let settings = TlsSettings { dev: true, ..TlsSettings::default() };
        let certificate = settings.certificate(self.folder.path()).unwrap();
        let tls = certificate.server_config(ClientCertificates::Ignored, &[EXTENDED]).unwrap();
        let (desk, stop) = (Arc::clone(&self.desk), self.stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((tcp, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (desk, tls) = (Arc::clone(&desk), TlsAcceptor::from(Arc::clone(&tls)));
                let served = async move { desk.serve(tls, tcp).await };
                let stop = stop.clone();
                tokio::spawn(async move { stop.run_until_cancelled(served).await });
            }
        });
    }

    /// Nobody is served any more, and what is open breaks.
    fn close(&mut self) {
        std::mem::take(&mut self.stop).cancel();
    }

    /// Opens again, on the port that it had.
    async fn reopen(&self) {
        let listener = timeout(PATIENCE, async {
            loop {
                // The one before may take a moment to go.
                match TcpListener::bind(self.address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        self.open(listener.await.expect("the port is free again"));
    }

    /// Waits until it knows what is wanted.
    async fn until(&self, is_so: impl Fn(&HashMap<AtSign, SignedRecord>) -> bool) {
        let waiting = async {
            loop {
                let changed = self.desk.changed.notified();
                if is_so(&self.desk.records()) {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the directory is told in time");
    }

    /// Waits until so many registrations were made.
    async fn registrations(&self, count: usize) {
        self.until(|_| self.desk.registrations.load(Ordering::SeqCst) >= count).await;
    }

    fn record(&self, atsign: &AtSign) -> SignedRecord {
        self.desk.records()[atsign].clone()
    }

    fn put(&self, record: SignedRecord) {
        self.desk.records().insert(record.atsign.clone(), record);
    }
}

impl Desk {
    fn records(&self) -> MutexGuard<'_, HashMap<AtSign, SignedRecord>> {
        self.records.lock().unwrap()
    }

    async fn serve(&self, tls: TlsAcceptor, tcp: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(tls.accept(tcp).await.ok()?);
        self.connections.fetch_add(1, Ordering::SeqCst);
        stream.write_all(b"@").await.ok()?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return Some(());
            }
            let answer = self.answer(line.trim_end())?;
            stream.write_all(format!("{answer}\r\n@").as_bytes()).await.ok()?;
            self.changed.notify_waiters();
        }
    }

    fn answer(&self, line: &str) -> Option<String> {
        let mut records = self.records();
        if let Some(name) = line.strip_prefix("record:") {
            let record = records.get(&name.parse().unwrap());
            return Some(record.map_or("null".to_owned(), SignedRecord::to_string));
        }
        let record: SignedRecord = line.strip_prefix("register:")?.parse().unwrap();
        self.registrations.fetch_add(1, Ordering::SeqCst);
        let known = records.get(&record.atsign).filter(|known| **known != record);
        if let Some(known) = known.filter(|known| known.at.seq >= record.at.seq) {
            return Some(format!("error:number {} is known already", known.at.seq));
        }
        let answer = format!("ok seq={}", record.at.seq);
        records.insert(record.atsign.clone(), record);
        Some(answer)
    }
}

/// A node, started again and again.
struct House {
    state: tempfile::TempDir,
    config: ServerConfig,
    running: Option<(Running, CancellationToken)>,
}

impl House {
    /// A node with a grant for everybody, and these tenants.
    async fn new(directory: &Directory, tenants: impl IntoIterator<Item = AtSign>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (file, ca) = (state.path().join("node.grant"), directory.folder.path().join("ca.pem"));
        let mut config: ServerConfig = toml::from_str(&format!(
            "listen.address = \"127.0.0.1:0\"\ntls.dev = true\nserver.host = \"localhost\"\n\
             server.node_grant = {file:?}\ndirectory.address = \"localhost:{}\"\ndirectory.ca = {ca:?}\n",
            directory.address.port(),
        ))
        .unwrap();
        let node = node_key(state.path());
        std::fs::write(&file, grant(&node).to_string()).unwrap();
        config.store.check = false;
        let mut house = Self { state, config, running: None };
        // All of them in a few commits, and without signing keys, which take a second each.
        let grant = house.config.server.node_grant.take();
        let running = house.start().await;
        let added = tenants.into_iter().map(|atsign| {
            let tenant = Tenant { atsign, listen: None };
            async move { running.node().add_tenant(tenant, "secret").await.unwrap() }
        });
        join_all(added).await;
        house.stop().await;
        house.config.server.node_grant = grant;
        house
    }

    async fn start(&mut self) -> &Running {
        let tls = ServerTls::load(&self.config, self.state.path()).unwrap();
        let stop = CancellationToken::new();
        let started = Server::start(self.config.clone(), tls, self.state.path(), stop.clone()).await;
        &self.running.insert((started.unwrap(), stop)).0
    }

    async fn stop(&mut self) {
        let (running, stop) = self.running.take().unwrap();
        stop.cancel();
        timeout(PATIENCE, running.finished()).await.expect("a stop");
    }

    fn key(&self) -> Ed25519Public {
        node_key(self.state.path())
    }
}

/// The key of the node whose state is in a folder.
fn node_key(state: &Path) -> Ed25519Public {
    Identity::open(&ServerConfig::default().server, state).unwrap().public()
}

fn registrar() -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([1; 32]))
}

fn days(days: u64) -> Timestamp {
    Timestamp::from(std::time::SystemTime::now()).plus_millis(days * 86_400_000)
}

fn grant(node: &Ed25519Public) -> Grant {
    Grant::sign(&registrar(), node.clone(), vec!["*".parse().unwrap()], days(300))
}

/// What another node says of an atSign, with a grant of the same registrar.
fn of_another_node(atsign: &AtSign, seq: u64) -> SignedRecord {
    let key = Ed25519Secret::from_seed(&Zeroizing::new([9; 32]));
    let address = "elsewhere.example:6464".parse().unwrap();
    let at = Location { address, quic: 6464, seq, not_after: days(20) };
    let grant = grant(&key.public());
    SignedRecord::sign(&key, atsign.clone(), at, grant)
}

fn atsign(name: &str) -> AtSign {
    name.parse().unwrap()
}

#[tokio::test]
async fn a_fleet_is_announced_on_one_connection_and_the_same_again_after_a_restart() {
    let directory = Directory::start().await;
    let fleet: HashSet<AtSign> = (0..270).map(|number| atsign(&format!("@device{number}"))).collect();
    let mut house = House::new(&directory, fleet.iter().cloned()).await;
    let port = house.start().await.address().port();
    directory.until(|records| records.len() == fleet.len()).await;
    assert_eq!(directory.desk.connections.load(Ordering::SeqCst), 1);
    let first = directory.record(&atsign("@device7"));
    assert_eq!((first.node(), first.at.seq, first.at.quic), (&house.key(), 1, port));
    assert_eq!(first.at.address.to_string(), format!("localhost:{port}"));
    assert!(first.is_signed() && first.grant.is_signed());

    // The port is another one, so each says so with the next number; and then nothing has changed.
    house.stop().await;
    let address = house.start().await.address();
    directory.until(|records| records.values().all(|record| record.at.seq == 2)).await;
    let before = directory.desk.records().clone();
    house.stop().await;
    house.config.listen.address = address;
    house.start().await;
    directory.registrations(3 * fleet.len()).await;
    assert_eq!(*directory.desk.records(), before);

    // One more, which another process brings.
    let (late, file) = (atsign("@late"), house.state.path().join("late"));
    let head = r#"{"format":"atedge-tenant","version":1,"atsign":"@late","listen":null}"#;
    std::fs::write(&file, format!("{head}\n{{\"rows\":0}}\n")).unwrap();
    let store = Offline::open(house.config.clone(), house.state.path()).await.unwrap();
    store.import(&file, None).await.unwrap();
    directory.until(|records| records.contains_key(&late)).await;
    house.stop().await;
}

#[tokio::test]
async fn a_directory_that_was_down_or_set_back_is_told_again_and_numbers_never_fall() {
    let mut directory = Directory::start().await;
    let alice = atsign("@alice");
    let mut house = House::new(&directory, [alice.clone()]).await;
    directory.close();
    let address = house.start().await.address();
    house.config.listen.address = address;
    directory.reopen().await;
    directory.until(|records| records.contains_key(&alice)).await;
    let known = directory.record(&alice);

    // It was set back: the same is registered again. It knows a higher number of ours: the next one is made.
    house.stop().await;
    directory.desk.records().clear();
    house.start().await;
    directory.until(|records| records.contains_key(&alice)).await;
    assert_eq!(directory.record(&alice), known);
    house.stop().await;
    let pem = std::fs::read_to_string(house.state.path().join("node.key")).unwrap();
    let key = Ed25519Secret::from_pem(&pem).unwrap();
    let ahead = Location { seq: 41, ..known.at.clone() };
    directory.put(SignedRecord::sign(&key, alice.clone(), ahead, known.grant.clone()));
    house.start().await;
    directory.registrations(4).await;
    house.stop().await;
    // What it was told then was ours already: it is told the same.
    assert_eq!(directory.record(&alice).at.seq, 41);
    house.config.server.host = Some("node.example".to_owned());
    house.start().await;
    directory.until(|records| records[&alice].at.seq == 42).await;
    assert_eq!(directory.record(&alice).at.address.host(), "node.example");
    house.stop().await;
}

#[tokio::test]
async fn whom_another_node_serves_is_served_here_no_more() {
    let mut directory = Directory::start().await;
    let (alice, bob) = (atsign("@alice"), atsign("@bob"));
    let mut house = House::new(&directory, [alice.clone(), bob.clone()]).await;
    let theirs = of_another_node(&alice, 5);
    directory.put(theirs.clone());
    let away = async |house: &House, directory: &Directory| {
        directory.until(|records| records.contains_key(&bob)).await;
        let node = house.running.as_ref().unwrap().0.node();
        let gone = async {
            while node.hosts(&alice) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, gone).await.expect("it is served no more");
        assert!(node.hosts(&bob));
    };
    house.start().await;
    away(&house, &directory).await;
    assert_eq!(directory.record(&alice), theirs);
    house.stop().await;

    // With the directory down, it is known from the start.
    directory.close();
    let running = house.start().await;
    assert!(!running.node().hosts(&alice) && running.node().hosts(&bob));
    assert_eq!(running.tenants().await.unwrap().len(), 2, "nothing is lost");
    house.stop().await;
}
