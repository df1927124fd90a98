//! Saying a transcript to a real server and comparing its answers, one write at a time.

use anyhow::{Context as _, Result, bail, ensure};
use at_protocol::crypto::{Hash, cram_digest};
use at_protocol::keys::AtKeys;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::transcript::{Given, Memory, Proofs, Step, Transcript};
use crate::wire::Wire;

/// A connection on which single writes can be told apart.
pub trait Conversation {
    /// Writes `bytes` at once.
    ///
    /// # Errors
    /// The other end is gone.
    fn say(&mut self, bytes: &[u8]) -> Result<()>;

    /// What the other end wrote at once; `None` when it has closed.
    ///
    /// # Errors
    /// Nothing comes in time.
    fn hear(&mut self) -> Result<Option<String>>;
}

impl Conversation for Wire {
    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        Wire::say(self, bytes)
    }

    fn hear(&mut self) -> Result<Option<String>> {
        Wire::hear(self)
    }
}

/// The owner of a transcript's atSign: its activation secret, and keys made once for all of them.
pub struct Owner {
    /// What activates the atSign.
    pub secret: String,
    keys: AtKeys,
    /// An application's key in a secure element.
    element: EcdsaKeyPair,
}

impl Owner {
    /// An owner with this secret and the keys of `at-protocol`'s fixture, which are nobody's.
    ///
    /// # Errors
    /// The fixture cannot be read.
    pub fn new(secret: &str) -> Result<Self> {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/at-protocol/fixtures/python.atKeys");
        let keys = AtKeys::parse(&std::fs::read_to_string(fixture)?)?;
        let element = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self { secret: secret.to_owned(), keys, element })
    }

    /// Gives the atSign its keys, as clients without enrollments do.
    ///
    /// # Errors
    /// The server does not take them.
    pub fn activate(&self, atsign: &str, wire: &mut dyn Conversation) -> Result<()> {
        let challenge = self.challenge(atsign, wire)?;
        ask(wire, &format!("cram:{}", self.digest(&challenge)))?;
        ask(wire, &format!("update:privatekey:at_pkam_publickey {}", self.public_key()))?;
        ask(wire, &format!("update:public:publickey{atsign} {}", self.keys.encryption.public().to_base64()))?;
        ask(wire, "delete:privatekey:at_secret")?;
        Ok(())
    }

    /// Signs in with the first key.
    ///
    /// # Errors
    /// The server does not believe it.
    pub fn sign_in(&self, atsign: &str, wire: &mut dyn Conversation) -> Result<()> {
        let challenge = self.challenge(atsign, wire)?;
        ask(wire, &format!("pkam:{}", self.sign(&challenge)))?;
        Ok(())
    }

    /// Has an application with these namespaces ask for an enrollment, and approves it, on a connection that
    /// is authenticated as the owner; gives the enrollment's id.
    ///
    /// # Errors
    /// The server does not play along.
    pub fn enroll(
        &self,
        name: &str,
        grants: &[(String, String)],
        wire: &mut dyn Conversation,
    ) -> Result<String> {
        let namespaces: serde_json::Map<_, _> =
            grants.iter().map(|(name, right)| (name.clone(), right.clone().into())).collect();
        let asked = json!({
            "appName": name,
            "deviceName": "pixel",
            "namespaces": namespaces,
            "encryptedAPKAMSymmetricKey": "c3ltbWV0cmlj",
            "apkamPublicKey": self.app_public_key(),
        });
        let pending: Value = serde_json::from_str(&ask(wire, &format!("enroll:request:{asked}"))?)?;
        let id = pending["enrollmentId"].as_str().context("an enrollment has an id")?.to_owned();
        let approved = json!({
            "enrollmentId": id,
            "encryptedDefaultEncryptionPrivateKey": "cHJpdmF0ZQ==",
            "encryptedDefaultSelfEncryptionKey": "c2VsZg==",
        });
        ask(wire, &format!("enroll:approve:{approved}"))?;
        Ok(id)
    }

    /// Signs in with an application's key.
    ///
    /// # Errors
    /// The server does not believe it.
    pub fn sign_in_enrolled(&self, atsign: &str, id: &str, wire: &mut dyn Conversation) -> Result<()> {
        let challenge = self.challenge(atsign, wire)?;
        ask(wire, &format!("pkam:enrollmentId:{id}:{}", self.app_sign(&challenge)))?;
        Ok(())
    }

    fn challenge(&self, atsign: &str, wire: &mut dyn Conversation) -> Result<String> {
        ask(wire, &format!("from:{atsign}"))
    }
}

impl Proofs for Owner {
    fn digest(&self, challenge: &str) -> String {
        cram_digest(&self.secret, challenge)
    }

    fn sign(&self, challenge: &str) -> String {
        self.keys.pkam.sign(challenge.as_bytes(), Hash::Sha256)
    }

    fn sign512(&self, challenge: &str) -> String {
        self.keys.pkam.sign(challenge.as_bytes(), Hash::Sha512)
    }

    fn public_key(&self) -> String {
        self.keys.pkam.public().to_base64().to_owned()
    }

    // The fixture has two keys, and what they are called in it does not matter here.
    fn app_sign(&self, challenge: &str) -> String {
        self.keys.encryption.sign(challenge.as_bytes(), Hash::Sha256)
    }

    fn app_public_key(&self) -> String {
        self.keys.encryption.public().to_base64().to_owned()
    }

    fn ecc_sign(&self, challenge: &str) -> String {
        let signature = self.element.sign(&SystemRandom::new(), challenge.as_bytes());
        BASE64.encode(hex::encode(signature.expect("a key that was just made signs")))
    }

    fn ecc_public_key(&self) -> String {
        hex::encode(self.element.public_key())
    }
}

/// Says a line and gives what follows `data:` in the answer.
///
/// # Errors
/// The answer is another.
pub fn ask(wire: &mut dyn Conversation, line: &str) -> Result<String> {
    wire.say(format!("{line}\n").as_bytes())?;
    let answer = wire.hear()?.with_context(|| format!("hung up on after {line:.60}"))?;
    let data = answer.strip_prefix("data:").and_then(|rest| rest.split('\n').next());
    Ok(data.with_context(|| format!("{line:.60} was answered {answer:.200}"))?.to_owned())
}

/// Says all of a transcript on a greeted connection that is in the state the transcript asks for, with what
/// is remembered of how it came to be so, and gives how many answers were as written, each in one write.
///
/// # Errors
/// The first answer that is another.
pub fn replay(
    transcript: &Transcript,
    mut memory: Memory,
    proofs: &dyn Proofs,
    wire: &mut dyn Conversation,
) -> Result<usize> {
    let mut answers = 0;
    let mut at = 0;
    while at < transcript.steps.len() {
        match &transcript.steps[at] {
            Step::Say(said) => {
                let said = memory.fill(said, proofs)?;
                wire.say(said.as_bytes())?;
                at += 1;
            }
            Step::Closed => {
                let heard = wire.hear()?;
                ensure!(heard.is_none(), "{heard:?} instead of a hang-up");
                return Ok(answers);
            }
            Step::Expect(_) => {
                let rest = &transcript.steps[at..];
                let many = rest.iter().take_while(|step| matches!(step, Step::Expect(_))).count();
                let heard = hear(wire)?;
                // Whole answers to lines that came together may come together.
                let mut told = 1;
                while !memory.matches(&rest[..told], &heard)? {
                    told += 1;
                    ensure!(told <= many, "{heard:?} is not {:?}", rest[0]);
                }
                answers += told;
                at += told;
            }
            Step::ExpectLoosely(_) => {
                let rest = &transcript.steps[at..];
                let many = rest.iter().take_while(|step| matches!(step, Step::ExpectLoosely(_))).count();
                let mut heard = hear(wire)?;
                // What is pushed may come with what is answered, or by itself.
                let lines = |text: &str| text.matches('\n').count();
                let expected: usize = rest[..many].iter().map(|step| lines(step.text())).sum();
                while lines(&heard) < expected {
                    heard += &hear(wire)?;
                }
                let matches = memory.matches(&rest[..many], &heard)?;
                ensure!(matches, "{heard:?} is not {:?}", &rest[..many]);
                answers += many;
                at += many;
            }
        }
    }
    // Had the server said anything beyond, it would stand before this answer.
    wire.say(b"noop:0\n")?;
    let last = hear(wire)?;
    ensure!(last.starts_with("data:ok\n"), "{last:?} was said unasked");
    Ok(answers)
}

/// The next write, without the counter of commits that monitors are told every few seconds.
fn hear(wire: &mut dyn Conversation) -> Result<String> {
    loop {
        let Some(heard) = wire.hear()? else { bail!("hung up on") };
        let counted = |line: &&str| !line.starts_with("notification: {\"id\":\"-1\"");
        let rest: String = heard.split_inclusive('\n').filter(counted).collect();
        if !rest.is_empty() {
            return Ok(rest);
        }
    }
}

/// Brings a greeted connection into the state that a transcript begins with; `second` is another greeted
/// connection to the same server. Gives what the transcript may name. The state of a peer is not made here: it takes a [`Peer`](crate::peer::Peer).
///
/// # Errors
/// The server does not play along.
pub fn prepare(
    transcript: &Transcript,
    atsign: &str,
    owner: &Owner,
    wire: &mut dyn Conversation,
    second: &mut dyn Conversation,
) -> Result<Memory> {
    let mut memory = Memory::default();
    if transcript.given != Given::Fresh {
        owner.activate(atsign, second)?;
    }
    match &transcript.given {
        Given::Fresh | Given::Activated | Given::Peer => {}
        Given::Owner => owner.sign_in(atsign, wire)?,
        Given::Enrolled(grants) => {
            owner.sign_in(atsign, second)?;
            let id = owner.enroll("given", grants, second)?;
            owner.sign_in_enrolled(atsign, &id, wire)?;
            memory.remember("enrollment", &id);
        }
    }
    Ok(memory)
}
