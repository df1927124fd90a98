//! Proving to an atServer that one is the owner of the atSign: by key, or once by the activation secret.

use at_protocol::crypto::{Hash, cram_digest};
use at_protocol::keys::AtKeys;
use at_protocol::response::{ErrorCode, RemoteError};
use at_protocol::verb::{Cram, From, HashingAlgo, Pkam, SigningAlgo, Verb};
use at_protocol::{AtSign, crypto::RsaPrivateKey};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::wire::{RequestError, Wire, WireError};

/// Why a server did not let us in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The connection ended before the server had decided.
    #[error("cannot sign in as {atsign}: {source}")]
    Wire {
        /// As whom.
        atsign: AtSign,
        /// What happened to the connection.
        source: WireError,
    },
    /// The server does not know the atSign as its own.
    #[error("this atServer is not that of {atsign}; does the directory name the right one?")]
    WrongServer {
        /// As whom.
        atsign: AtSign,
    },
    /// The server has no key to check ours against.
    #[error("{atsign} is not activated; run `atedge onboard {atsign}` first")]
    NotActivated {
        /// As whom.
        atsign: AtSign,
    },
    /// The signature does not fit the key that the server has.
    #[error("the keys of {atsign} are refused; is the key file that of this atSign?")]
    KeysRefused {
        /// As whom.
        atsign: AtSign,
    },
    /// The activation secret is not the server's.
    #[error("the activation secret of {atsign} is refused; check it with whoever hosts the atSign")]
    SecretRefused {
        /// As whom.
        atsign: AtSign,
    },
    /// The server has no activation secret any more.
    #[error("{atsign} is already activated; its activation secret has been used")]
    SecretUsed {
        /// As whom.
        atsign: AtSign,
    },
    /// The owner has not decided about the enrollment.
    #[error("the enrollment of these keys with {atsign} awaits its approval; run `atedge approve`")]
    EnrollmentPending {
        /// As whom.
        atsign: AtSign,
    },
    /// The owner has refused the enrollment.
    #[error("the enrollment of these keys with {atsign} was denied; enroll again")]
    EnrollmentDenied {
        /// As whom.
        atsign: AtSign,
    },
    /// The owner has taken the enrollment back.
    #[error("the enrollment of these keys with {atsign} was revoked; enroll again")]
    EnrollmentRevoked {
        /// As whom.
        atsign: AtSign,
    },
    /// The enrollment's time is over, or the server does not know it.
    #[error("the enrollment of these keys with {atsign} has expired or is unknown; enroll again")]
    EnrollmentExpired {
        /// As whom.
        atsign: AtSign,
    },
    /// The server refuses for another reason.
    #[error("{atsign} cannot sign in: {source}")]
    Refused {
        /// As whom.
        atsign: AtSign,
        /// What the server says.
        source: RemoteError,
    },
}

impl LoginError {
    /// Whether trying again may help without anybody changing keys or settings.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Wire { .. } | Self::EnrollmentPending { .. } => true,
            Self::Refused { source, .. } => crate::refusal::is_transient(source),
            Self::WrongServer { .. }
            | Self::NotActivated { .. }
            | Self::KeysRefused { .. }
            | Self::SecretRefused { .. }
            | Self::SecretUsed { .. }
            | Self::EnrollmentDenied { .. }
            | Self::EnrollmentRevoked { .. }
            | Self::EnrollmentExpired { .. } => false,
        }
    }
}

/// Signs in with the keys of an atSign, under their enrollment if they have one.
///
/// # Errors
/// See [`LoginError`].
pub async fn authenticate<S>(wire: &mut Wire<S>, atsign: &AtSign, keys: &AtKeys) -> Result<(), LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pkam(wire, atsign, &keys.pkam, keys.enrollment_id.as_deref()).await
}

async fn pkam<S>(
    wire: &mut Wire<S>,
    atsign: &AtSign,
    key: &RsaPrivateKey,
    enrollment: Option<&str>,
) -> Result<(), LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let challenge = challenge(wire, atsign).await?;
    let verb = Verb::Pkam(Pkam {
        signing: Some(SigningAlgo::Rsa2048),
        hashing: Some(HashingAlgo::Sha256),
        enrollment: enrollment.map(str::to_owned),
        signature: key.sign(challenge.as_bytes(), Hash::Sha256),
    });
    let refused = |code| match code {
        Some(ErrorCode::KeyNotFound) => Some(LoginError::NotActivated { atsign: atsign.clone() }),
        Some(ErrorCode::NotAuthenticated) => Some(LoginError::KeysRefused { atsign: atsign.clone() }),
        Some(ErrorCode::EnrollmentPending) => Some(LoginError::EnrollmentPending { atsign: atsign.clone() }),
        Some(ErrorCode::EnrollmentDenied) => Some(LoginError::EnrollmentDenied { atsign: atsign.clone() }),
        Some(ErrorCode::EnrollmentRevoked) => Some(LoginError::EnrollmentRevoked { atsign: atsign.clone() }),
        Some(ErrorCode::EnrollmentExpired) => Some(LoginError::EnrollmentExpired { atsign: atsign.clone() }),
        _ => None,
    };
    prove(wire, atsign, &verb, refused).await
}

/// Signs in with the activation secret, which works until the atSign is activated.
///
/// # Errors
/// See [`LoginError`].
pub async fn cram<S>(wire: &mut Wire<S>, atsign: &AtSign, secret: &str) -> Result<(), LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let challenge = challenge(wire, atsign).await?;
    let verb = Verb::Cram(Cram { digest: cram_digest(secret, &challenge) });
    let refused = |code| match code {
        Some(ErrorCode::KeyNotFound) => Some(LoginError::SecretUsed { atsign: atsign.clone() }),
        Some(ErrorCode::NotAuthenticated) => Some(LoginError::SecretRefused { atsign: atsign.clone() }),
        _ => None,
    };
    prove(wire, atsign, &verb, refused).await
}

/// Says who we are and gets what is to be signed.
async fn challenge<S>(wire: &mut Wire<S>, atsign: &AtSign) -> Result<String, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let from = Verb::From(From { atsign: atsign.clone(), config: None });
    let challenge = wire.request(&from).await.map_err(|error| match error {
        RequestError::Broken(source) => LoginError::Wire { atsign: atsign.clone(), source },
        // A node says so of an atSign that it does not host (wire reference §3.1).
        RequestError::Refused(source) if source.code() == Some(ErrorCode::InternalException) => {
            LoginError::WrongServer { atsign: atsign.clone() }
        }
        RequestError::Refused(source) => LoginError::Refused { atsign: atsign.clone(), source },
    })?;
    // How another atSign's server answers: it takes us for a peer. Signing what it says would prove
    // nothing to it, and ours to whoever stands in its place.
    if challenge.starts_with("proof:") {
        return Err(LoginError::WrongServer { atsign: atsign.clone() });
    }
    Ok(challenge)
}

async fn prove<S>(
    wire: &mut Wire<S>,
    atsign: &AtSign,
    verb: &Verb,
    known: impl Fn(Option<ErrorCode>) -> Option<LoginError>,
) -> Result<(), LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match wire.request(verb).await {
        Ok(_) => Ok(()),
        Err(RequestError::Broken(source)) => Err(LoginError::Wire { atsign: atsign.clone(), source }),
        Err(RequestError::Refused(source)) => {
            Err(known(source.code()).unwrap_or(LoginError::Refused { atsign: atsign.clone(), source }))
        }
    }
}
