//! Proving to an atServer that one is the owner of the atSign: by key, or once by the activation secret.

use at_protocol::crypto::{Hash, cram_digest};
use at_protocol::keys::AtKeys;
use at_protocol::response::{ErrorCode, RemoteError};
use at_protocol::verb::{Cram, From, Pkam, SigningAlgo, Verb};
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
            // It may be moving from one node to another, and the directory says soon which.
            Self::Wire { .. } | Self::EnrollmentPending { .. } | Self::WrongServer { .. } => true,
            Self::Refused { source, .. } => crate::refusal::is_transient(source),
            Self::NotActivated { .. }
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
        hashing: Some(Hash::Sha256),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::{keys, with_server};

    const CHALLENGE: (&str, &str) = ("from:@alice", "data:_s@alice:p\n@");

    async fn sign_in(script: &[(&str, &str)]) -> Result<(), LoginError> {
        let atsign = "@alice".parse().unwrap();
        with_server(script, async |wire| authenticate(wire, &atsign, &keys("@alice")).await).await
    }

    #[tokio::test]
    async fn the_challenge_is_signed_under_the_enrollment() {
        let mut keys = keys("@alice");
        let signature = keys.pkam.sign(b"_s@alice:p", Hash::Sha256);
        let atsign = "@alice".parse().unwrap();
        for (enrollment, named) in [(None, ""), (Some("6f1c".to_owned()), "enrollmentId:6f1c:")] {
            keys.enrollment_id = enrollment;
            let line = format!("pkam:signingAlgo:rsa2048:hashingAlgo:sha256:{named}{signature}\n");
            let script = [CHALLENGE, (line.as_str(), "data:success\n@alice@")];
            with_server(&script, async |wire| authenticate(wire, &atsign, &keys).await).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_secret_is_digested_with_the_challenge() {
        let line = format!("cram:{}\n", cram_digest("secret123", "_s@alice:p"));
        let atsign = "@alice".parse().unwrap();
        for (answer, expected) in [
            ("data:success\n@alice@", None),
            (
                "error:AT0401-Exception: Authentication Failed\n@",
                Some("the activation secret of @alice is refused; check it with whoever hosts the atSign"),
            ),
            (
                "error:AT0015-Exception: gone\n@",
                Some("@alice is already activated; its activation secret has been used"),
            ),
        ] {
            let script = [CHALLENGE, (line.as_str(), answer)];
            let outcome = with_server(&script, async |wire| cram(wire, &atsign, "secret123").await).await;
            assert_eq!(outcome.err().map(|error| error.to_string()).as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn another_server_gets_no_signature() {
        for answer in ["data:proof:_s@alice:p\n@", "error:AT0011-Exception: @alice is not hosted here\n@"] {
            assert!(matches!(sign_in(&[("from:@alice", answer)]).await, Err(LoginError::WrongServer { .. })));
        }
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        for (answer, expected, transient) in [
            (
                "error:AT0015-Exception: gone\n@",
                "@alice is not activated; run `atedge onboard @alice` first",
                false,
            ),
            (
                "error:AT0401-Exception: no\n@",
                "the keys of @alice are refused; is the key file that of this atSign?",
                false,
            ),
            (
                "error:AT0025:denied\n@",
                "the enrollment of these keys with @alice was denied; enroll again",
                false,
            ),
            (
                "error:AT0026:pending\n@",
                "the enrollment of these keys with @alice awaits its approval; run `atedge approve`",
                true,
            ),
            (
                "error:AT0027:revoked\n@",
                "the enrollment of these keys with @alice was revoked; enroll again",
                false,
            ),
            (
                "error:AT0028:gone\n@",
                "the enrollment of these keys with @alice has expired or is unknown; enroll again",
                false,
            ),
            (
                "error:{\"errorCode\":\"AT0024\",\"errorDescription\":\"paused\"}\n@",
                "@alice cannot sign in: AT0024: paused",
                true,
            ),
        ] {
            let error = sign_in(&[CHALLENGE, ("pkam:", answer)]).await.unwrap_err();
            assert_eq!((error.to_string().as_str(), error.is_transient()), (expected, transient));
        }
    }
}
