//! Activating an atSign: from the activation secret to keys of one's own, once, whatever happens meanwhile.
//!
//! The keys exist on disk before the server hears of them, in a file `….partial` beside the final one. Each
//! step after that may be repeated, so a run that is cut off anywhere is finished by the next.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use at_protocol::crypto::{AesKey, Iv};
use at_protocol::keys::AtKeys;
use at_protocol::response::ErrorCode;
use at_protocol::verb::{Delete, Enroll, EnrollRequest, LLookup, Lookup, Scan, Shape, Update, Verb};
use at_protocol::{AtKey, AtSign, Metadata};
use serde::Deserialize;

use crate::account::{ConnectError, TlsWire, open};
use crate::keyfile::{self, KeysError};
use crate::login::{LoginError, authenticate, cram};
use crate::random;
use crate::resolve::Directory;
use crate::tls::ClientTls;
use crate::wire::RequestError;

/// Names of the first enrollment, as all SDKs give them (client conventions §2).
const APP: &str = "firstApp";
const DEVICE: &str = "firstDevice";

/// What is needed to activate an atSign.
pub struct Onboarding<'a> {
    /// Which.
    pub atsign: &'a AtSign,
    /// The activation secret, from whoever hosts the atSign.
    pub secret: &'a str,
    /// Where the keys go. The folder must exist, the file must not.
    pub keys: &'a Path,
    /// Who knows where the atServer is.
    pub directory: &'a Directory,
    /// Whom to trust.
    pub tls: &'a ClientTls,
}

/// What has been done, or is being done and takes a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// An earlier run was cut off; its keys are used.
    Resuming,
    /// The secret is accepted.
    SecretAccepted,
    /// Making two RSA keys: seconds, on a small machine.
    GeneratingKeys,
    /// The keys are on disk.
    KeysSaved,
    /// The server has the public half of the first key.
    Enrolled,
    /// The first key works.
    SignedIn,
    /// Others can find the public half of the second key.
    Published,
    /// The activation secret is void.
    SecretDeleted,
    /// The key file has its final name.
    Done,
}

/// Why an atSign was not activated.
#[derive(Debug, thiserror::Error)]
pub enum OnboardError {
    /// It has been, by whoever has its keys.
    #[error("{atsign} is already activated; use its key file, or have it reset by whoever hosts it")]
    AlreadyActivated {
        /// Which.
        atsign: AtSign,
    },
    /// There are keys already.
    #[error("the key file {} exists; name another, or move it away", .0.display())]
    KeyFileExists(PathBuf),
    /// Keys cannot be read or written.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The atServer cannot be reached, or does not let us in.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The keys of an earlier run that was cut off are not those that the server has.
    #[error(
        "the keys of an earlier attempt, {}, are refused ({source}); if {atsign} was reset, delete that file",
        partial.display()
    )]
    StalePartial {
        /// Which.
        atsign: AtSign,
        /// The keys.
        partial: PathBuf,
        /// How they were refused.
        source: LoginError,
    },
    /// The atServer did not do a step.
    #[error("cannot activate {atsign}: {step}: {source}; run the same again to continue")]
    Step {
        /// Which.
        atsign: AtSign,
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: RequestError,
    },
    /// The enrollment was not granted.
    #[error("{atsign} does not grant the first enrollment, its state is {status}")]
    NotApproved {
        /// Which.
        atsign: AtSign,
        /// What it says instead of `approved`.
        status: String,
    },
}

impl From<LoginError> for OnboardError {
    fn from(error: LoginError) -> Self {
        if let LoginError::SecretUsed { atsign } = error {
            return Self::AlreadyActivated { atsign };
        }
        Self::Connect(error.into())
    }
}

/// What `enroll:request` answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    enrollment_id: String,
    status: String,
}

/// The part of an enrollment's record that tells whose it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnrollmentRecord {
    #[serde(default)]
    apkam_public_key: Option<String>,
}

impl Onboarding<'_> {
    /// Activates the atSign, or finishes what an earlier run began, and gives its keys. `progress` is told
    /// of each step.
    ///
    /// # Errors
    /// See [`OnboardError`]. Nothing is lost: the same call continues.
    pub async fn run(&self, mut progress: impl FnMut(Progress)) -> Result<AtKeys, OnboardError> {
        let partial = partial(self.keys);
        if self.keys.exists() {
            return Err(OnboardError::KeyFileExists(self.keys.to_owned()));
        }
        let mut kept = match keyfile::read(&partial) {
            Err(KeysError::Missing(_)) => None,
            kept => Some(kept?),
        };
        if kept.is_some() {
            progress(Progress::Resuming);
        }
        let keys = match kept.take_if(|keys| keys.enrollment_id.is_some()) {
            Some(enrolled) => enrolled,
            None => self.enroll(kept, &partial, &mut progress).await?,
        };
        self.publish(&keys, &partial, &mut progress).await?;
        keyfile::rename(&partial, self.keys)?;
        progress(Progress::Done);
        Ok(keys)
    }

    /// From the secret to an enrollment whose keys and id are on disk.
    async fn enroll(
        &self,
        kept: Option<AtKeys>,
        partial: &Path,
        progress: &mut impl FnMut(Progress),
    ) -> Result<AtKeys, OnboardError> {
        let mut wire = open(self.atsign, self.directory, self.tls).await?;
        if self.is_activated(&mut wire).await? {
            return Err(OnboardError::AlreadyActivated { atsign: self.atsign.clone() });
        }
        cram(&mut wire, self.atsign, self.secret).await?;
        progress(Progress::SecretAccepted);
        let resumed = kept.is_some();
        let mut keys = match kept {
            Some(keys) => keys,
            None => {
                progress(Progress::GeneratingKeys);
                let generated =
                    tokio::task::spawn_blocking(|| AtKeys::generate(random::key(), random::key()));
                generated.await.expect("making keys does not panic, and nobody aborts it")
            }
        };
        keyfile::write(partial, self.atsign, &keys)?;
        progress(Progress::KeysSaved);
        // Cut off between the server's yes and our note of it, we are enrolled without knowing as whom.
        let earlier = if resumed { self.find_enrollment(&mut wire, &keys).await? } else { None };
        keys.enrollment_id = Some(match earlier {
            Some(id) => id,
            None => self.request_enrollment(&mut wire, &keys).await?,
        });
        keyfile::write(partial, self.atsign, &keys)?;
        progress(Progress::Enrolled);
        Ok(keys)
    }

    /// Signs in with the new key, publishes the other one and voids the secret.
    async fn publish(
        &self,
        keys: &AtKeys,
        partial: &Path,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), OnboardError> {
        let mut wire = open(self.atsign, self.directory, self.tls).await?;
        authenticate(&mut wire, self.atsign, keys).await.map_err(|source| {
            if source.is_transient() {
                OnboardError::Connect(source.into())
            } else {
                let (atsign, partial) = (self.atsign.clone(), partial.to_owned());
                OnboardError::StalePartial { atsign, partial, source }
            }
        })?;
        progress(Progress::SignedIn);
        let update = Verb::Update(Box::new(Update {
            key: public_key(self.atsign),
            metadata: Metadata { is_encrypted: Some(false), ..Metadata::default() },
            value: keys.encryption.public().to_base64().to_owned(),
        }));
        self.step(&mut wire, "publishing the public key", &update).await?;
        progress(Progress::Published);
        let secret = AtKey::PrivateKey { name: "at_secret".parse().expect("letters are a name") };
        let delete = Verb::Delete(Delete { key: secret, priority: None });
        self.step(&mut wire, "voiding the activation secret", &delete).await?;
        progress(Progress::SecretDeleted);
        Ok(())
    }

    /// Whether somebody's public key is there already, asked as nobody in particular.
    async fn is_activated(&self, wire: &mut TlsWire) -> Result<bool, OnboardError> {
        let name = "publickey".parse().expect("letters are a name");
        let lookup = Lookup { name, owner: self.atsign.clone(), shape: Shape::Value, bypass_cache: false };
        match wire.request(&Verb::Lookup(lookup)).await {
            Ok(value) => Ok(value != "null"),
            Err(RequestError::Refused(error)) if error.code() == Some(ErrorCode::KeyNotFound) => Ok(false),
            Err(source) => Err(self.failed("asking for the public key", source)),
        }
    }

    /// The enrollment that the server has made of these keys, if it has.
    async fn find_enrollment(
        &self,
        wire: &mut TlsWire,
        keys: &AtKeys,
    ) -> Result<Option<String>, OnboardError> {
        let scan = Scan { regex: Some(r"\.new\.enrollments\.__manage".to_owned()), ..Scan::default() };
        let listed = self.step(wire, "looking for an earlier enrollment", &Verb::Scan(scan)).await?;
        for key in serde_json::from_str::<Vec<String>>(&listed).unwrap_or_default() {
            let Ok(key) = key.parse::<AtKey>() else { continue };
            let id = key.name().as_str().split('.').next().unwrap_or_default().to_owned();
            let read = Verb::LLookup(LLookup { key, shape: Shape::Value });
            let record = match wire.request(&read).await {
                Ok(record) => record,
                // Gone since it was listed.
                Err(RequestError::Refused(_)) => continue,
                Err(source) => return Err(self.failed("reading an earlier enrollment", source)),
            };
            let record = serde_json::from_str::<EnrollmentRecord>(&record).ok();
            if record.and_then(|record| record.apkam_public_key).as_deref()
                == Some(keys.pkam.public().to_base64())
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    async fn request_enrollment(&self, wire: &mut TlsWire, keys: &AtKeys) -> Result<String, OnboardError> {
        let (private_iv, self_iv) = (random::iv(), random::iv());
        // Keys from elsewhere may lack it; nobody but this enrollment reads what it seals.
        let fresh;
        let symmetric = match &keys.apkam_symmetric {
            Some(key) => key,
            None => {
                fresh = random::key();
                &fresh
            }
        };
        let private = keys.encryption.to_pkcs8_base64();
        let request = EnrollRequest {
            app_name: Some(APP.to_owned()),
            device_name: Some(DEVICE.to_owned()),
            encrypted_default_encryption_private_key: Some(seal(symmetric, &private_iv, &private)),
            encrypted_default_self_encryption_key: Some(seal(
                symmetric,
                &self_iv,
                &keys.self_key.to_base64(),
            )),
            // With the zero IV for both, what is known of the one would disclose the other.
            enc_private_key_iv: Some(private_iv.to_base64()),
            self_enc_key_iv: Some(self_iv.to_base64()),
            apkam_public_key: Some(keys.pkam.public().to_base64().to_owned()),
            ..EnrollRequest::default()
        };
        let verb = Verb::Enroll(Box::new(Enroll::Request(request)));
        let answer = self.step(wire, "enrolling the first key", &verb).await?;
        match serde_json::from_str::<Granted>(&answer) {
            Ok(granted) if granted.status == "approved" => Ok(granted.enrollment_id),
            Ok(Granted { status, .. }) => {
                Err(OnboardError::NotApproved { atsign: self.atsign.clone(), status })
            }
            Err(_) => {
                Err(OnboardError::NotApproved { atsign: self.atsign.clone(), status: "unknown".to_owned() })
            }
        }
    }

    async fn step(
        &self,
        wire: &mut TlsWire,
        step: &'static str,
        verb: &Verb,
    ) -> Result<String, OnboardError> {
        wire.request(verb).await.map_err(|source| self.failed(step, source))
    }

    fn failed(&self, step: &'static str, source: RequestError) -> OnboardError {
        OnboardError::Step { atsign: self.atsign.clone(), step, source }
    }
}

/// Where keys lie until the atSign is activated: `….partial` beside their final place.
#[must_use]
pub fn partial(keys: &Path) -> PathBuf {
    let mut name = keys.file_name().map(OsString::from).unwrap_or_default();
    name.push(".partial");
    keys.with_file_name(name)
}

fn public_key(atsign: &AtSign) -> AtKey {
    AtKey::Public { name: "publickey".parse().expect("letters are a name"), owner: atsign.clone() }
}

fn seal(key: &AesKey, iv: &Iv, text: &str) -> String {
    key.encrypt(iv, text.as_bytes())
}
