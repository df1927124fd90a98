//! An atSign with its keys, and the way to its atServer.

use std::sync::Arc;

use at_protocol::AtSign;
use at_protocol::directory::Address;
use at_protocol::keys::AtKeys;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::dial::{AtWire, Dialer, Unreached};
use crate::login::{LoginError, authenticate};
use crate::resolve::{Directory, ResolveError};
use crate::tls::DialError;
use crate::wire::{Wire, WireError};

/// A connection over TLS to an atServer, or to what speaks like one.
pub type TlsWire = Wire<TlsStream<TcpStream>>;

/// What a client needs to act for an atSign.
#[derive(Clone)]
pub struct ClientConfig {
    /// For whom.
    pub atsign: AtSign,
    /// Its keys.
    pub keys: Arc<AtKeys>,
    /// Who knows where its atServer is.
    pub directory: Arc<Directory>,
    /// How it is reached, and whom to trust. Share it: clients of one process need one connection to a node.
    pub dialer: Dialer,
}

/// Why there is no authenticated connection to the atServer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The directory does not answer.
    #[error("cannot find the atServer of {atsign}: {source}")]
    Resolve {
        /// For whom.
        atsign: AtSign,
        /// What is wrong with the directory.
        source: ResolveError,
    },
    /// The directory answers that there is no such atSign.
    #[error("the directory {directory} does not know {atsign}; is it spelled right, and added there?")]
    UnknownAtSign {
        /// For whom.
        atsign: AtSign,
        /// Who was asked.
        directory: Address,
    },
    /// The atServer is not reached, or not who it should be.
    #[error("cannot reach the atServer of {atsign}: {source}")]
    Dial {
        /// For whom.
        atsign: AtSign,
        /// How dialling failed.
        source: DialError,
    },
    /// The atServer does not begin as atServers do.
    #[error("the atServer of {atsign} at {address} does not greet: {source}")]
    Greeting {
        /// For whom.
        atsign: AtSign,
        /// Where it should be.
        address: Address,
        /// What came instead.
        source: WireError,
    },
    /// The atServer does not let us in.
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl ConnectError {
    /// Whether trying again may help without anybody changing keys or settings.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { source, .. } => source.is_transient(),
            Self::UnknownAtSign { .. } => false,
            Self::Dial { source, .. } => source.is_transient(),
            Self::Greeting { .. } => true,
            Self::Login(error) => error.is_transient(),
        }
    }
}

/// Opens a connection to the atServer of `atsign`, as nobody in particular: enough to look at public
/// records and to sign in.
///
/// # Errors
/// See [`ConnectError`].
pub async fn open(atsign: &AtSign, directory: &Directory, dialer: &Dialer) -> Result<AtWire, ConnectError> {
    let found = directory.find(atsign).await;
    let found = found.map_err(|source| ConnectError::Resolve { atsign: atsign.clone(), source })?;
    let found = found.ok_or_else(|| ConnectError::UnknownAtSign {
        atsign: atsign.clone(),
        directory: directory.address().clone(),
    })?;
    dialer.reach(&found).await.map_err(|unreached| {
        let atsign = atsign.clone();
        match unreached {
            Unreached::Dial(source) => {
                // It may have moved.
                directory.suspect(&atsign);
                ConnectError::Dial { atsign, source }
            }
            Unreached::Greeting(source) => ConnectError::Greeting { atsign, address: found.address, source },
        }
    })
}

impl ClientConfig {
    /// Opens a connection and signs in.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self) -> Result<AtWire, ConnectError> {
        let mut wire = open(&self.atsign, &self.directory, &self.dialer).await?;
        let login = authenticate(&mut wire, &self.atsign, &self.keys).await;
        if let Err(LoginError::WrongServer { .. }) = &login {
            self.directory.suspect(&self.atsign);
        }
        login?;
        Ok(wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::{Town, keys};

    #[tokio::test]
    async fn every_stage_says_what_failed_on_what_and_what_to_try() {
        let mut town = Town::empty(&["@alice"]).await;
        let refused = async |town: &Town, name| town.config(name, keys(name)).connect().await.err().unwrap();
        let directory = town.directory.address().clone();
        assert_eq!(
            refused(&town, "@nobody").await.to_string(),
            format!("the directory {directory} does not know @nobody; is it spelled right, and added there?")
        );
        assert_eq!(
            refused(&town, "@alice").await.to_string(),
            "@alice is not activated; run `atedge onboard @alice` first"
        );
        town.world().activate(&"@alice".parse().unwrap(), &keys("@bobby3"));
        assert!(matches!(
            refused(&town, "@alice").await,
            ConnectError::Login(LoginError::KeysRefused { .. })
        ));
        town.close_directory().await;
        let error = refused(&town, "@unasked").await;
        assert!(error.is_transient());
        assert_eq!(
            error.to_string(),
            format!(
                "cannot find the atServer of @unasked: cannot ask the directory: cannot connect to {directory}: \
                 Connection refused (os error 111); is it running, and is no firewall in between?"
            )
        );
    }

    #[tokio::test]
    async fn a_revoked_enrollment_is_named() {
        let town = Town::with(&["@alice"]).await;
        town.world().edit("@alice", "e1.new.enrollments.__manage@alice", |value, _| {
            *value = r#"{"approval":{"state":"revoked"}}"#.to_owned();
        });
        let mut enrolled = keys("@alice");
        enrolled.enrollment_id = Some("e1".to_owned());
        let refused = town.config("@alice", enrolled).connect().await.err().unwrap();
        assert!(matches!(refused, ConnectError::Login(LoginError::EnrollmentRevoked { .. })));
        assert!(!refused.is_transient());
    }
}
