//! Agents that trust the registrar: they speak to the node of the record and to nobody else, over either way.

use std::sync::Arc;

use at_client::tls::{ClientTls, DialError, Trust};
use at_client::{ClientConfig, ConnectError, Dialer, Transport};
use at_protocol::keys::AtKeys;
use atedge_service::tls::DevAuthority;

use crate::fleet::{Fleet, Node, atsign, key, record};

/// An agent of `@alice`'s who trusts no authority that has vouched for anybody here.
struct Agent {
    keys: Arc<AtKeys>,
    tls: ClientTls,
    _folder: tempfile::TempDir,
}

impl Agent {
    async fn of_alice(fleet: &Fleet, node: &Node) -> Self {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/at-protocol/fixtures/python.atKeys");
        let keys = AtKeys::parse(&std::fs::read_to_string(fixture).expect("a file")).expect("keys");
        let mut owner = fleet.owner(node, "@alice").await;
        owner.says(&format!("update:privatekey:at_pkam_publickey {}", keys.pkam.public().to_base64())).await;
        let folder = tempfile::tempdir().expect("a folder");
        let strangers = DevAuthority::open_or_create(folder.path(), &[]).expect("an authority");
        let tls = ClientTls::new(&Trust::Only(strangers.ca()), None).expect("an authority");
        Self { keys: Arc::new(keys), tls, _folder: folder }
    }

    fn config(&self, fleet: &Fleet, transport: Transport) -> ClientConfig {
        ClientConfig {
            atsign: atsign("@alice"),
            keys: Arc::clone(&self.keys),
            directory: Arc::new(fleet.trusted()),
            dialer: Dialer::new(self.tls.clone(), transport),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_of_the_record_needs_no_authority() {
    let fleet = Fleet::start().await;
    let node = fleet.node("first", &["@alice"], "").await;
    let agent = Agent::of_alice(&fleet, &node).await;
    for (transport, is_quic) in [(Transport::Quic, true), (Transport::Auto, true), (Transport::Tls, false)] {
        let wire = agent.config(&fleet, transport).connect().await.expect("let in");
        assert_eq!(wire.stream().is_quic(), is_quic, "{transport:?}");
    }
    // Where UDP does not pass, it is the same node that is spoken to, or nobody.
    let fleet = Fleet::start().await;
    let node = fleet.node("first", &["@alice"], "listen.quic = false").await;
    let agent = Agent::of_alice(&fleet, &node).await;
    let wire = agent.config(&fleet, Transport::Auto).connect().await.expect("let in");
    assert!(!wire.stream().is_quic());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_at_the_address_is_told_nothing() {
    for more in ["", "listen.quic = false"] {
        let fleet = Fleet::start().await;
        let node = fleet.node("first", &["@alice"], more).await;
        let agent = Agent::of_alice(&fleet, &node).await;
        // The registrar has granted this one, too; it is just not the one that answers there.
        fleet.say(&record(&key(9), "@alice", node.address.port(), 2));
        for transport in [Transport::Auto, Transport::Tls] {
            let refused = agent.config(&fleet, transport).connect().await.err().expect("refused");
            let is_refused =
                matches!(refused, ConnectError::Dial { source: DialError::WrongNode { .. }, .. });
            assert!(is_refused, "{transport:?}: {refused}");
        }
    }
}
