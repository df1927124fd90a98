//! A directory that follows another, over QUIC.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Registrar, Registrars, SignedRecord};
use atedge_directory::follow::ReplicaSettings;
use atedge_directory::registry::{Put, RegistryError, Say};
use atedge_directory::{Database, Directory, DirectoryConfig, Nodes, Registry, Rules, Running};
use atedge_service::tls::{DevAuthority, NodeIdentity, OwnCertificate};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::extended::{key, patterns, record};

/// The registrar of this number, trusted about the plant.
fn trusting(registrar: u8) -> Registrars {
    let trusted = Registrar { key: key(registrar).public(), atsigns: patterns(&["@plant7*"]) };
    Registrars::new(vec![trusted])
}

/// A directory with a node key, in a folder of its own that outlives it.
struct Node {
    folder: TempDir,
    identity: Arc<NodeIdentity>,
}

struct Up {
    running: Running,
    stop: DropGuard,
}

impl Node {
    fn new() -> Result<Self> {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir()?;
        let identity = Arc::new(NodeIdentity::open_or_create(&folder.path().join("node.key"))?);
        Ok(Self { folder, identity })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn key(&self) -> Result<Ed25519Public> {
        Ok(Ed25519Public::from_bytes(*self.identity.public())?)
    }

    async fn start(&self, address: &str, followers: &[&Node], of: Option<(&Up, &Node)>) -> Result<Up> {
        let authority = DevAuthority::open_or_create(self.path(), &[])?;
        let rules = Rules {
            registrars: trusting(1),
            followers: followers.iter().map(|node| node.key()).collect::<Result<_>>()?,
            ..Rules::plain(OwnCertificate::open(&authority.cert(), &authority.key())?)
        };
        let of = of.map(|(up, node)| {
            anyhow::Ok(ReplicaSettings { of: up.running.address.to_string().parse()?, node: node.key()? })
        });
        let config = DirectoryConfig {
            address: address.parse()?,
            https: None,
            registry: Registry::open(self.path())?,
            rules,
            nodes: Some(Nodes { identity: Arc::clone(&self.identity), replica: of.transpose()? }),
        };
        let stop = CancellationToken::new();
        let running = Directory::start(config, stop.clone()).await?;
        Ok(Up { running, stop: stop.drop_guard() })
    }
}

const ANY: &str = "127.0.0.1:0";

impl Up {
    fn put(&self, atsign: &str, address: &str) -> Result<Put> {
        Ok(self.running.registry.put(&atsign.parse()?, &address.parse()?)?)
    }

    fn register(&self, record: SignedRecord, registrars: &Registrars) -> Result<()> {
        let now = std::time::SystemTime::now().into();
        self.running.registry.register(&[registrars.verify(record, now)?])?;
        Ok(())
    }

    /// Where a name is served.
    fn at(&self, name: &str) -> Option<String> {
        self.running.registry.find(name).map(String::from)
    }

    /// Waits until a name is served there, or nowhere.
    async fn comes(&self, name: &str, address: Option<&str>) -> Result<()> {
        while self.at(name).as_deref() != address {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn end(self) {
        drop(self.stop);
        self.running.wait().await;
    }
}

#[tokio::test]
async fn it_has_all_the_names_and_answers_when_the_other_is_gone() -> Result<()> {
    let (first, second) = (Node::new()?, Node::new()?);
    let primary = first.start(ANY, &[&second], None).await?;
    let address = primary.running.address.to_string();
    let named = |n| Ok((format!("@a{n}").parse()?, format!("h{n}.example:1").parse()?));
    let many = (0..3_000).map(named).collect::<Result<Vec<_>>>()?;
    Database::open(first.path())?.put(&many, Say::Anyway)?;
    let replica = second.start(ANY, &[], Some((&primary, &first))).await?;
    replica.comes("a2999", Some("h2999.example:1")).await?;
    primary.put("@alice", "a.example:1")?;
    primary.register(record("@plant7gw1", "n1.example:1", 7)?, &trusting(1))?;
    primary.running.registry.remove(&"@a0".parse()?)?;
    replica.comes("plant7gw1", Some("n1.example:1")).await?;
    replica.comes("a0", None).await?;
    assert_eq!(replica.at("alice").as_deref(), Some("a.example:1"));
    assert_eq!(replica.running.registry.is_signed("plant7gw1"), Some(true));
    let kept = replica.running.registry.record(&"@plant7gw1".parse()?)?;
    assert_eq!(kept, primary.running.registry.record(&"@plant7gw1".parse()?)?);
    // Nobody else's word is taken.
    let refused = replica.running.registry.put(&"@alice".parse()?, &"evil.example:1".parse()?);
    assert!(matches!(refused, Err(RegistryError::Follows)), "{refused:?}");
    primary.end().await;
    assert_eq!(replica.at("a1").as_deref(), Some("h1.example:1"));
    let primary = first.start(&address, &[&second], None).await?;
    primary.put("@alice", "b.example:2")?;
    replica.comes("alice", Some("b.example:2")).await?;
    replica.end().await;
    // While it was away, more has changed.
    primary.put("@bob", "b.example:3")?;
    primary.running.registry.remove(&"@a1".parse()?)?;
    let replica = second.start(ANY, &[], Some((&primary, &first))).await?;
    replica.comes("bob", Some("b.example:3")).await?;
    replica.comes("a1", None).await?;
    assert_eq!(replica.running.registry.len(), primary.running.registry.len());
    Ok(())
}

#[tokio::test]
async fn it_checks_what_nodes_have_signed_by_itself() -> Result<()> {
    let (first, second) = (Node::new()?, Node::new()?);
    let primary = first.start(ANY, &[&second], None).await?;
    let replica = second.start(ANY, &[], Some((&primary, &first))).await?;
    primary.register(record("@plant7gw1", "n1.example:1", 7)?, &trusting(1))?;
    replica.comes("plant7gw1", Some("n1.example:1")).await?;
    replica.running.apply(Rules { registrars: trusting(3), ..replica.running.rules() })?;
    primary.register(record("@plant7gw2", "n2.example:1", 7)?, &trusting(1))?;
    // Nor may an operator's word of the other directory take a node's place.
    let mut captured = Database::open(first.path())?;
    let evil = [("@plant7gw1".parse()?, "evil.example:1".parse()?)];
    captured.put(&evil, Say::Anyway)?;
    primary.comes("plant7gw1", Some("evil.example:1")).await?;
    primary.put("@last", "l.example:1")?;
    replica.comes("last", Some("l.example:1")).await?;
    assert_eq!((replica.at("plant7gw1").as_deref(), replica.at("plant7gw2")), (Some("n1.example:1"), None));
    Ok(())
}

#[tokio::test]
async fn who_follows_another_forgets_what_that_one_does_not_know() -> Result<()> {
    let (first, other, second) = (Node::new()?, Node::new()?, Node::new()?);
    let primary = first.start(ANY, &[&second], None).await?;
    for name in ["@alice", "@bob"] {
        primary.put(name, "a.example:1")?;
    }
    let replica = second.start(ANY, &[], Some((&primary, &first))).await?;
    replica.comes("bob", Some("a.example:1")).await?;
    replica.end().await;
    let another = other.start(ANY, &[&second], None).await?;
    another.put("@bob", "a.example:1")?;
    another.put("@carol", "c.example:1")?;
    let replica = second.start(ANY, &[], Some((&another, &other))).await?;
    replica.comes("alice", None).await?;
    replica.comes("carol", Some("c.example:1")).await?;
    assert_eq!(replica.at("bob").as_deref(), Some("a.example:1"));
    replica.end().await;
    // It follows nobody any more.
    let leader = second.start(ANY, &[], None).await?;
    ensure!(matches!(leader.put("@alice", "d.example:1")?, Put::Done { before: None }));
    Ok(())
}

#[tokio::test]
async fn a_stranger_is_told_nothing_and_nobody_else_is_believed() -> Result<()> {
    let (first, second, third) = (Node::new()?, Node::new()?, Node::new()?);
    let primary = first.start(ANY, &[&second], None).await?;
    primary.put("@alice", "a.example:1")?;
    let stranger = third.start(ANY, &[], Some((&primary, &first))).await?;
    // It expects another node at that address.
    let mistaken = second.start(ANY, &[], Some((&primary, &third))).await?;
    let right = Node::new()?;
    let followers = vec![second.key()?, right.key()?];
    primary.running.apply(Rules { followers: followers.clone(), ..primary.running.rules() })?;
    let replica = right.start(ANY, &[], Some((&primary, &first))).await?;
    replica.comes("alice", Some("a.example:1")).await?;
    ensure!(stranger.running.registry.is_empty() && mistaken.running.registry.is_empty());
    // Once it may, it is told.
    let followers = [followers, vec![third.key()?]].concat();
    primary.running.apply(Rules { followers, ..primary.running.rules() })?;
    stranger.comes("alice", Some("a.example:1")).await?;
    ensure!(mistaken.running.registry.is_empty());
    Ok(())
}
