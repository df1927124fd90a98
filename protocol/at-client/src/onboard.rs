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

use crate::account::{ConnectError, open};
use crate::dial::{AtWire, Dialer};
use crate::keyfile::{self, KeysError};
use crate::login::{LoginError, authenticate, cram};
use crate::random;
use crate::resolve::Directory;
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
    /// How its atServer is reached, and whom to trust.
    pub dialer: &'a Dialer,
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
        let mut wire = open(self.atsign, self.directory, self.dialer).await?;
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
        let mut wire = open(self.atsign, self.directory, self.dialer).await?;
        authenticate(&mut wire, self.atsign, keys).await.map_err(|source| {
            if source.is_transient() {
                OnboardError::Connect(source.into())
            } else {
                let (atsign, partial) = (self.atsign.clone(), partial.to_owned());
                OnboardError::StalePartial { atsign, partial, source }
            }
        })?;
        progress(Progress::SignedIn);
        let metadata = Metadata { is_encrypted: Some(false), ..Metadata::default() };
        let value = keys.encryption.public().to_base64();
        let update = Verb::Update(Box::new(Update::of(public_key(self.atsign), metadata, value)));
        self.step(&mut wire, "publishing the public key", &update).await?;
        progress(Progress::Published);
        let secret = AtKey::PrivateKey { name: "at_secret".parse().expect("letters are a name") };
        let delete = Verb::Delete(Delete::of(secret));
        self.step(&mut wire, "voiding the activation secret", &delete).await?;
        progress(Progress::SecretDeleted);
        Ok(())
    }

    /// Whether somebody's public key is there already, asked as nobody in particular.
    async fn is_activated(&self, wire: &mut AtWire) -> Result<bool, OnboardError> {
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
        wire: &mut AtWire,
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

    async fn request_enrollment(&self, wire: &mut AtWire, keys: &AtKeys) -> Result<String, OnboardError> {
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

    async fn step(&self, wire: &mut AtWire, step: &'static str, verb: &Verb) -> Result<String, OnboardError> {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::os::unix::fs::PermissionsExt;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;
    use crate::account::ClientConfig;
    use crate::stub::{SECRET, Town, When, keys};

    /// A hosted atSign, and where its keys shall go.
    struct Case {
        town: Town,
        atsign: AtSign,
        path: PathBuf,
    }

    impl Case {
        async fn new() -> Self {
            let town = Town::empty(&["@alice"]).await;
            let path = town.authority.folder().join("alice.atKeys");
            Self { town, atsign: "@alice".parse().unwrap(), path }
        }

        /// As if an earlier run had been cut off just after it had saved its keys.
        fn keep_partial(&self) {
            keyfile::write(&partial(&self.path), &self.atsign, &keys("@alice")).unwrap();
        }

        async fn run(&self, secret: &str, progress: impl FnMut(Progress)) -> Result<AtKeys, OnboardError> {
            let dialer = Dialer::from(self.town.authority.client_tls());
            let directory = &self.town.directory;
            Onboarding { atsign: &self.atsign, secret, keys: &self.path, directory, dialer: &dialer }
                .run(progress)
                .await
        }

        /// Activated, by keys that are on disk, and with nothing left over.
        async fn assert_done(&self, keys: &AtKeys) {
            let read = keyfile::read(&self.path).unwrap();
            assert_eq!(read.to_json(&self.atsign), keys.to_json(&self.atsign));
            assert_eq!(self.path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!partial(&self.path).exists());
            let (published, _) = self.town.world().record("@alice", "public:publickey@alice").unwrap();
            assert_eq!(published, read.encryption.public().to_base64());
            assert!(self.town.world().record("@alice", "privatekey:at_secret").is_none());
            assert!(read.enrollment_id.is_some());
            let config = ClientConfig { ..self.town.config("@alice", read) };
            config.connect().await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_atsign_is_activated_once() {
        let case = Case::new().await;
        let wrong = case.run("wrong", |_| ()).await.err().unwrap();
        assert!(matches!(
            wrong,
            OnboardError::Connect(ConnectError::Login(LoginError::SecretRefused { .. }))
        ));
        assert!(!partial(&case.path).exists());

        let told = RefCell::new(Vec::new());
        let keys = case.run(SECRET, |progress| told.borrow_mut().push(progress)).await.unwrap();
        case.assert_done(&keys).await;
        use Progress::*;
        assert_eq!(
            told.into_inner(),
            [SecretAccepted, GeneratingKeys, KeysSaved, Enrolled, SignedIn, Published, SecretDeleted, Done]
        );
        assert!(matches!(case.run(SECRET, |_| ()).await, Err(OnboardError::KeyFileExists(_))));
        std::fs::remove_file(&case.path).unwrap();
        assert!(matches!(case.run(SECRET, |_| ()).await, Err(OnboardError::AlreadyActivated { .. })));
        assert!(!partial(&case.path).exists());
    }

    #[tokio::test]
    async fn a_connection_may_break_at_any_line() {
        for line in [
            "lookup:publickey@alice",
            "from:@alice",
            "cram:",
            "scan",
            "enroll:request:",
            "pkam:",
            "update:isEncrypted:false:public:publickey@alice",
            "delete:privatekey:at_secret",
        ] {
            for when in [When::Before, When::After] {
                let case = Case::new().await;
                case.keep_partial();
                case.town.world().fault(line, when);
                assert!(case.run(SECRET, |_| ()).await.is_err(), "{line} {when:?}");
                let done = case.run(SECRET, |_| ()).await;
                case.assert_done(&done.unwrap_or_else(|error| panic!("{line} {when:?}: {error}"))).await;
                assert_eq!(case.town.world().count("enroll:request:"), case.enrollments(line, when));
            }
        }
    }

    impl Case {
        /// One, unless it was lost before the server heard it.
        fn enrollments(&self, line: &str, when: When) -> usize {
            if (line, when) == ("enroll:request:", When::Before) { 2 } else { 1 }
        }
    }

    #[tokio::test]
    async fn the_process_may_end_after_any_step() {
        use Progress::*;
        for last in [SecretAccepted, KeysSaved, Enrolled, SignedIn, Published, SecretDeleted] {
            let case = Case::new().await;
            case.keep_partial();
            let told = RefCell::new(Vec::new());
            let mut run = Box::pin(case.run(SECRET, |progress| told.borrow_mut().push(progress)));
            poll_fn(|cx| {
                let over = run.as_mut().poll(cx).is_ready();
                if over || told.borrow().contains(&last) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            drop(run);
            // The last steps are one: what follows the answer of the server is not waited for.
            if last == SecretDeleted {
                assert!(case.path.exists());
                std::fs::rename(&case.path, partial(&case.path)).unwrap();
            }
            case.assert_done(&case.run(SECRET, |_| ()).await.unwrap()).await;
        }
    }

    #[tokio::test]
    async fn keys_from_before_a_reset_are_named() {
        let case = Case::new().await;
        let mut stale = keys("@alice");
        stale.enrollment_id = Some("of-a-former-life".to_owned());
        keyfile::write(&partial(&case.path), &case.atsign, &stale).unwrap();
        let error = pin!(case.run(SECRET, |_| ())).await.err().unwrap();
        assert!(matches!(error, OnboardError::StalePartial { .. }));
        assert!(error.to_string().contains(&partial(&case.path).display().to_string()));
        assert!(partial(&case.path).exists());
    }

    #[tokio::test]
    async fn what_the_server_keeps_of_the_keys_does_not_disclose_them() {
        let case = Case::new().await;
        case.keep_partial();
        case.run(SECRET, |_| ()).await.unwrap();
        let request =
            case.town.world().lines.iter().find(|line| line.starts_with("enroll:")).unwrap().clone();
        let Ok(Verb::Enroll(enroll)) = request.parse() else { panic!() };
        let Enroll::Request(request) = *enroll else { panic!() };
        assert_ne!(request.enc_private_key_iv, request.self_enc_key_iv);
        let symmetric = keys("@alice").apkam_symmetric.unwrap();
        let iv = Iv::from_nonce(request.self_enc_key_iv.as_deref()).unwrap();
        let sealed = request.encrypted_default_self_encryption_key.unwrap();
        assert_eq!(
            symmetric.decrypt(&iv, &sealed).unwrap().as_slice(),
            keys("@alice").self_key.to_base64().as_bytes()
        );
    }
}
