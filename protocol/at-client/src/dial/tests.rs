//! Ways that are open, shut, or lead to somebody else.

use std::net::UdpSocket;

use at_protocol::crypto::Ed25519Secret;
use at_protocol::directory::{Address, Grant, Location, Registrar, Registrars, SignedRecord};
use at_protocol::{AtKey, Timestamp};
use zeroize::Zeroizing;

use super::*;
use crate::account::ConnectError;
use crate::stub::{Authority, Town, keys, node};
use crate::{Client, ClientConfig};

/// Beyond this a test has failed; no test waits so long to succeed.
const PATIENCE: Duration = Duration::from_secs(60);

fn dialer(town: &Town, transport: Transport) -> Dialer {
    Dialer::new(town.authority.client_tls(), transport)
}

fn config(town: &Town, name: &str, dialer: &Dialer) -> ClientConfig {
    ClientConfig { dialer: dialer.clone(), ..town.config(name, keys(name)) }
}

fn place(town: &Town) -> Place {
    Place { address: town.server.clone(), node: None }
}

async fn ask(client: &Client) {
    let key: AtKey = format!("diary.ns{}", client.atsign()).parse().unwrap();
    timeout(PATIENCE, client.get(&key)).await.unwrap().unwrap();
}

#[tokio::test]
async fn all_sessions_share_one_connection() {
    let town = Town::with(&["@alice", "@bobby3"]).await;
    let tunnel = town.tunnel();
    for transport in [Transport::Quic, Transport::Auto] {
        let dialer = dialer(&town, transport);
        let (alice, bob) = (config(&town, "@alice", &dialer), config(&town, "@bobby3", &dialer));
        let opened = tokio::join!(alice.connect(), bob.connect(), alice.connect());
        let wires = [opened.0.unwrap(), opened.1.unwrap(), opened.2.unwrap()];
        assert!(wires.iter().all(|wire| wire.stream().is_quic()), "{transport:?}");
        assert_eq!(dialer.connections(), 1);
        assert!(matches!(dialer.known(&place(&town)), Known::Open(_)));
        dialer.close(PATIENCE).await;
    }
    assert_eq!(tunnel.seen().len(), 6);
}

#[tokio::test]
async fn where_udp_does_not_pass_it_is_tls_for_a_while() {
    let town = Town::with(&["@alice"]).await;
    let dialer = dialer(&town, Transport::Auto);
    let alice = config(&town, "@alice", &dialer);
    // Nobody answers, however long one asks.
    let silent = UdpSocket::bind(("127.0.0.1", town.server.port())).unwrap();
    let wire = timeout(PATIENCE, alice.connect()).await.unwrap().unwrap();
    assert!(!wire.stream().is_quic());
    let Known::Shut(1, until) = dialer.known(&place(&town)) else { panic!("it was found out") };
    assert!(until > Instant::now());
    drop(silent);
    let tunnel = town.tunnel();
    assert!(!alice.connect().await.unwrap().stream().is_quic());
    assert_eq!((tunnel.connections(), dialer.connections()), (0, 0), "it is left alone");
    dialer.ways().insert(place(&town), Known::Shut(1, Instant::now()));
    let again = timeout(PATIENCE, alice.connect()).await.unwrap().unwrap();
    assert!(again.stream().is_quic());
}

#[tokio::test]
async fn without_tcp_it_is_quic_and_without_either_an_error() {
    let town = Town::with(&["@alice"]).await;
    let (own, shown) = node(2);
    let tunnel = town.tunnel_as(&shown);
    let nowhere: Address = "localhost:1".parse().unwrap();
    let found = found(&own, &town, nowhere);
    let dialer = dialer(&town, Transport::Auto);
    let wire = timeout(PATIENCE, dialer.reach(&found)).await.unwrap().ok().unwrap();
    assert!(wire.stream().is_quic());
    dialer.close(PATIENCE).await;
    tunnel.close().await;
    let error = timeout(PATIENCE, dialer.reach(&found)).await.unwrap().err().unwrap();
    assert!(matches!(error, Unreached::Dial(DialError::Connect { .. })));
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again_and_those_who_wait_are_told() {
    let town = Town::with(&["@alice"]).await;
    let tunnel = town.tunnel();
    let dialer = dialer(&town, Transport::Quic);
    let alice = Client::new(config(&town, "@alice", &dialer));
    ask(&alice).await;
    tunnel.close().await;
    let tunnel = town.tunnel();
    dialer.0.news.send_replace(None);
    let far = Instant::now() + 2 * PATIENCE;
    let told = timeout(PATIENCE, dialer.pause(far));
    let (told, ()) = tokio::join!(told, ask(&alice));
    assert!(told.is_ok(), "nobody waits for the end of a pause when the way is free");
    assert_eq!((tunnel.connections(), tunnel.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_change_of_address_is_noticed_by_nobody() {
    let town = Town::with(&["@alice"]).await;
    let tunnel = town.tunnel();
    let dialer = dialer(&town, Transport::Quic);
    let alice = Client::new(config(&town, "@alice", &dialer));
    ask(&alice).await;
    dialer.0.carrier.move_house();
    ask(&alice).await;
    let other = config(&town, "@alice", &dialer).connect().await.unwrap();
    assert!(other.stream().is_quic());
    let seen = tunnel.seen();
    assert_eq!((tunnel.connections(), seen.len()), (1, 2), "{seen:?}");
    assert_ne!(seen[0], seen[1]);
    assert_eq!(town.world().count("from:@alice"), 2, "the first session went on");
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_left() {
    let town = Town::with(&["@alice"]).await;
    let tunnel = town.tunnel();
    let dialer = dialer(&town, Transport::Quic);
    let alice = config(&town, "@alice", &dialer);
    let mut first = alice.connect().await.unwrap();
    let place = place(&town);
    let held = dialer.0.carrier.stream(&place, PATIENCE).await.ok().unwrap();
    dialer.0.carrier.suspect(&place, &held.connection()).await;
    // Twice is once.
    dialer.0.carrier.suspect(&place, &held.connection()).await;
    let second = alice.connect().await.unwrap();
    assert!(second.stream().is_quic());
    let left = timeout(PATIENCE, first.next()).await.unwrap();
    assert!(left.is_err(), "what was on it moves over");
    while tunnel.connections() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_is_there_is_checked_on_either_way() {
    let town = Town::with(&["@alice"]).await;
    // The town's server shows an authority's certificate over TCP, and whatever the test says over UDP.
    let (own, shown) = node(2);
    let (other, _) = node(3);
    let tunnel = town.tunnel_as(&shown);
    let right = found(&own, &town, town.server.clone());
    for transport in [Transport::Quic, Transport::Auto] {
        let wire = timeout(PATIENCE, dialer(&town, transport).reach(&right)).await.unwrap();
        assert!(wire.ok().unwrap().stream().is_quic());
    }
    let wrong = found(&other, &town, town.server.clone());
    for transport in [Transport::Quic, Transport::Tls, Transport::Auto] {
        let refused = timeout(PATIENCE, dialer(&town, transport).reach(&wrong)).await.unwrap();
        let Some(Unreached::Dial(error)) = refused.err() else { panic!("{transport:?}") };
        // The town's TCP server has no Ed25519 certificate at all.
        let is_refused = matches!(error, DialError::WrongNode { .. } | DialError::Tls { .. });
        assert!(is_refused, "{transport:?}: {error}");
        assert!(error.is_transient(), "it may have moved");
    }
    // Without a record an authority must vouch, over UDP as over TCP.
    let unknown = Found { address: town.server.clone(), record: None };
    let refused = dialer(&town, Transport::Quic).reach(&unknown).await.err().unwrap();
    let Unreached::Dial(error) = refused else { panic!("it is refused") };
    assert!(matches!(error, DialError::Certificate { .. } | DialError::UnknownIssuer { .. }), "{error}");
    assert!(!error.is_transient());
    let wire = timeout(PATIENCE, dialer(&town, Transport::Auto).reach(&unknown)).await.unwrap();
    assert!(!wire.ok().unwrap().stream().is_quic(), "the authority's certificate is shown over TCP");
    tunnel.close().await;
    let strangers = Dialer::new(Authority::new().client_tls(), Transport::Quic);
    let _tunnel = town.tunnel();
    let refused = config(&town, "@alice", &strangers).connect().await.err().unwrap();
    let is_refused = matches!(&refused, ConnectError::Dial { source: DialError::UnknownIssuer { .. }, .. });
    assert!(is_refused, "{refused}");
}

/// What a directory that is believed says of somebody whom this node serves.
fn found(node: &Ed25519Secret, town: &Town, address: Address) -> Found {
    let registrar = Ed25519Secret::from_seed(&Zeroizing::new([1; 32]));
    let not_after = Timestamp::from(std::time::SystemTime::now()).plus_millis(3_600_000);
    let grant = Grant::sign(&registrar, node.public(), vec!["*".parse().unwrap()], not_after);
    let at = Location { address, quic: town.server.port(), seq: 1, not_after };
    let record = SignedRecord::sign(node, "@alice".parse().unwrap(), at, grant);
    let trusted = vec![Registrar { key: registrar.public(), atsigns: Vec::new() }];
    let verified = Registrars::new(trusted).verify(record, Timestamp::from_millis(0)).unwrap();
    Found::from(Arc::new(verified))
}
