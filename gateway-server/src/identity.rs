//! Who a node is: its key, and what a registrar has granted to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use at_protocol::crypto::{Ed25519Public, Ed25519Secret};
use at_protocol::directory::{Grant, InvalidRecord, Location, Registrars, SignedRecord};
use at_protocol::{AtSign, Timestamp};
use atedge_service::tls::{NodeIdentity, NodeIdentityError};
use zeroize::Zeroizing;

use crate::config::NodeConfig;

/// The file of a node's key, in its state folder.
pub(crate) const KEY_FILE: &str = "node.key";
/// So long before a grant ends somebody should get another: a month, for who looks once a week.
const SOON_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How many atSigns a concern names before it counts.
const NAMED: usize = 5;

/// A node's key and its grant.
pub struct Identity {
    key: Ed25519Secret,
    grant: Option<Grant>,
    /// Whether the grant is for this node, and signed by whom it names.
    is_own: bool,
}

/// Why a node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its key.
    #[error(transparent)]
    Key(#[from] NodeIdentityError),
    /// The grant's file.
    #[error("cannot read [server] node_grant {}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error("[server] node_grant {} is no grant: {source}; `atedge registrar grant` makes one", file.display())]
    NotAGrant {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        source: InvalidRecord,
    },
}

/// Something about a grant that somebody should see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// It is for another node: none of our records would be believed.
    AnotherNode {
        /// Which.
        granted: Ed25519Public,
        /// This one.
        own: Ed25519Public,
    },
    /// It was not signed by the registrar that it names.
    Forged,
    /// This node itself does not believe the registrar, and so does not believe its own records.
    UnknownRegistrar(Ed25519Public),
    /// It is over.
    Ended(Timestamp),
    /// It is over soon.
    EndsSoon(Timestamp),
    /// It does not say that the node may serve these, which are hosted here.
    Uncovered(Vec<AtSign>),
}

impl Identity {
    /// Reads the key in the folder `state`, which is made if there is none, and the grant that the
    /// configuration names.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn open(config: &NodeConfig, state: &Path) -> Result<Self, IdentityError> {
        let path = state.join(KEY_FILE);
        NodeIdentity::open_or_create(&path)?;
        Ok(Self::new(key(&path)?, grant(config)?))
    }

    fn new(key: Ed25519Secret, grant: Option<Grant>) -> Self {
        let mut identity = Self { key, grant: None, is_own: false };
        identity.set_grant(grant);
        identity
    }

    /// The same, if there is a key already; nothing is made.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn existing(config: &NodeConfig, state: &Path) -> Result<Option<Self>, IdentityError> {
        if state.join(KEY_FILE).exists() { Self::open(config, state).map(Some) } else { Ok(None) }
    }

    /// The key by which others know the node.
    #[must_use]
    pub fn public(&self) -> Ed25519Public {
        self.key.public()
    }

    /// What a registrar has granted, as the file says; see [`Identity::concerns`] for whether it is any good.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// Takes another grant in the place of the one it had.
    pub(crate) fn set_grant(&mut self, grant: Option<Grant>) {
        self.is_own = grant.as_ref().is_some_and(|grant| grant.node == self.public() && grant.is_signed());
        self.grant = grant;
    }

    /// The grant, if records of it are believed by who trusts its registrar.
    #[must_use]
    pub fn good_grant(&self, now: Timestamp) -> Option<&Grant> {
        self.grant.as_ref().filter(|grant| self.is_own && grant.not_after > now)
    }

    /// Signs where an atSign is served, by a grant that is good and covers it.
    pub(crate) fn sign(&self, atsign: &AtSign, at: Location, grant: Grant) -> SignedRecord {
        SignedRecord::sign(&self.key, atsign.clone(), at, grant)
    }

    /// What somebody should see to, for a node that hosts these and trusts those.
    #[must_use]
    pub fn concerns(&self, hosted: &[AtSign], trusted: &Registrars, now: Timestamp) -> Vec<Concern> {
        let Some(grant) = &self.grant else { return Vec::new() };
        let mut concerns = Vec::new();
        let own = self.public();
        if grant.node != own {
            concerns.push(Concern::AnotherNode { granted: grant.node.clone(), own });
        }
        if !grant.is_signed() {
            concerns.push(Concern::Forged);
        }
        if !trusted.know(&grant.registrar) {
            concerns.push(Concern::UnknownRegistrar(grant.registrar.clone()));
        }
        if grant.not_after <= now {
            concerns.push(Concern::Ended(grant.not_after));
        } else if grant.not_after <= now.plus_millis(SOON_MS) {
            concerns.push(Concern::EndsSoon(grant.not_after));
        }
        let uncovered: Vec<_> = hosted.iter().filter(|atsign| !grant.covers(atsign)).cloned().collect();
        if !uncovered.is_empty() {
            concerns.push(Concern::Uncovered(uncovered));
        }
        concerns
    }
}

/// The key in a PEM file, for signing.
fn key(path: &Path) -> Result<Ed25519Secret, IdentityError> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|source| NodeIdentityError::File { path: path.to_owned(), source })?;
    Ok(Ed25519Secret::from_pem(&text).map_err(|_| NodeIdentityError::NotAKey(path.to_owned()))?)
}

/// The grant that the configuration names, if it names one.
pub(crate) fn grant(config: &NodeConfig) -> Result<Option<Grant>, IdentityError> {
    let Some(file) = &config.node_grant else { return Ok(None) };
    let text =
        std::fs::read_to_string(file).map_err(|source| IdentityError::File { file: file.clone(), source })?;
    let grant = text.trim().parse();
    grant.map(Some).map_err(|source| IdentityError::NotAGrant { file: file.clone(), source })
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnotherNode { granted, own } => write!(
                f,
                "the grant is for the node {granted}, and this one is {own}: have the registrar grant anew"
            ),
            Self::Forged => f.write_str("the grant was not signed by the registrar that it names"),
            Self::UnknownRegistrar(key) => {
                write!(f, "the grant is from {key}, which is not among [server] registrars")
            }
            Self::Ended(when) => write!(f, "the grant ended at {when}: nobody believes this node any more"),
            Self::EndsSoon(when) => write!(f, "the grant ends at {when}: have the registrar grant anew"),
            Self::Uncovered(atsigns) => {
                let named: Vec<_> = atsigns.iter().take(NAMED).map(AtSign::to_string).collect();
                let more = atsigns.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let named = named.join(", ");
                write!(f, "the grant does not cover {named}{more}: others do not find them here by a record")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use at_protocol::directory::Registrar;

    use super::*;

    const NOW: i64 = 1_795_000_000_000;

    fn day(days: u64) -> Timestamp {
        Timestamp::from_millis(NOW).plus_millis(days * 24 * 60 * 60 * 1000)
    }

    fn secret(first: u8) -> Ed25519Secret {
        Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
    }

    fn trusting() -> Registrars {
        Registrars::new(vec![Registrar { key: secret(1).public(), atsigns: Vec::new() }])
    }

    fn granted(node: &Ed25519Public, atsigns: &[&str]) -> Grant {
        let atsigns = atsigns.iter().map(|text| text.parse().unwrap()).collect();
        Grant::sign(&secret(1), node.clone(), atsigns, day(100))
    }

    #[test]
    fn the_key_is_made_and_signs_and_the_grant_is_read() {
        let state = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::default();
        assert!(Identity::existing(&config, state.path()).unwrap().is_none());
        let made = Identity::open(&config, state.path()).unwrap();
        assert!(made.grant().is_none());
        let shown = NodeIdentity::open_or_create(&state.path().join(KEY_FILE)).unwrap();
        assert_eq!(made.public().as_bytes(), shown.public());

        let file = state.path().join("node.grant");
        config.node_grant = Some(file.clone());
        let refused = |config: &NodeConfig| Identity::open(config, state.path()).err().unwrap().to_string();
        assert!(refused(&config).contains("node.grant"));
        std::fs::write(&file, "{}").unwrap();
        assert!(refused(&config).contains("is no grant"));
        let grant = granted(&made.public(), &["*"]);
        std::fs::write(&file, format!("{grant}\n")).unwrap();
        let again = Identity::existing(&config, state.path()).unwrap().unwrap();
        assert_eq!(again.good_grant(day(0)), Some(&grant));
        assert_eq!(again.good_grant(day(100)), None);
    }

    #[test]
    fn what_is_wrong_with_a_grant_is_named() {
        let identity = |grant| Identity::new(secret(2), Some(grant));
        let hosted: Vec<AtSign> = ["@alice", "@bob"].map(|text| text.parse().unwrap()).to_vec();
        let own = secret(2).public();
        let concerns = |grant, days| identity(grant).concerns(&hosted, &trusting(), day(days));
        assert_eq!(concerns(granted(&own, &["@alice", "@b*"]), 0), []);
        assert_eq!(concerns(granted(&own, &["*"]), 70), [Concern::EndsSoon(day(100))]);
        assert_eq!(concerns(granted(&own, &["*"]), 100), [Concern::Ended(day(100))]);
        assert_eq!(concerns(granted(&own, &["@alice"]), 0), [Concern::Uncovered(hosted[1..].to_vec())]);
        let other = secret(3).public();
        let expected = Concern::AnotherNode { granted: other.clone(), own: own.clone() };
        assert_eq!(concerns(granted(&other, &["*"]), 0), [expected]);
        let mut forged = granted(&own, &["@alice"]);
        forged.atsigns = vec!["*".parse().unwrap()];
        assert_eq!(concerns(forged.clone(), 0), [Concern::Forged]);
        assert_eq!(identity(forged).good_grant(day(0)), None);
        let nobody = identity(granted(&own, &["*"])).concerns(&hosted, &Registrars::default(), day(0));
        assert_eq!(nobody, [Concern::UnknownRegistrar(secret(1).public())]);
    }

    #[test]
    fn many_uncovered_atsigns_are_counted() {
        let many = (0..8).map(|number| format!("@a{number}").parse().unwrap()).collect();
        let text = Concern::Uncovered(many).to_string();
        assert!(text.contains("@a4 and 3 more") && !text.contains("@a5"), "{text}");
    }
}
