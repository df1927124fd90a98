//! Saying a transcript to a real server and comparing its answers, one write at a time.

use anyhow::{Context as _, Result, bail, ensure};
use at_protocol::crypto::{Hash, cram_digest};
use at_protocol::keys::AtKeys;

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
}

impl Owner {
    /// An owner with this secret and the keys of `at-protocol`'s fixture, which are nobody's.
    ///
    /// # Errors
    /// The fixture cannot be read.
    pub fn new(secret: &str) -> Result<Self> {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/at-protocol/fixtures/python.atKeys");
        let keys = AtKeys::parse(&std::fs::read_to_string(fixture)?)?;
        Ok(Self { secret: secret.to_owned(), keys })
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

/// Says all of a transcript on a greeted connection that is in the state the transcript asks for, and
/// gives how many answers were as written, each in one write.
///
/// # Errors
/// The first answer that is another.
pub fn replay(transcript: &Transcript, proofs: &dyn Proofs, wire: &mut dyn Conversation) -> Result<usize> {
    let mut memory = Memory::default();
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
                let heard = hear(wire)?;
                let matches = memory.matches(&transcript.steps[at..=at], &heard)?;
                ensure!(matches, "{heard:?} is not {:?}", transcript.steps[at]);
                answers += 1;
                at += 1;
            }
            Step::ExpectLoosely(_) => {
                let rest = &transcript.steps[at..];
                let many = rest.iter().take_while(|step| matches!(step, Step::ExpectLoosely(_))).count();
                let mut heard = String::new();
                for _ in 0..many {
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

/// The next write but for the counter of commits that monitors are told every few seconds.
fn hear(wire: &mut dyn Conversation) -> Result<String> {
    loop {
        match wire.hear()? {
            Some(heard) if heard.starts_with("notification: {\"id\":\"-1\"") => {}
            Some(heard) => return Ok(heard),
            None => bail!("hung up on"),
        }
    }
}

/// Brings a greeted connection into the state that a transcript begins with; `second` is another greeted
/// connection to the same server. The state of a peer is not made here: it takes a [`Peer`](crate::peer::Peer).
///
/// # Errors
/// The server does not play along.
pub fn prepare(
    transcript: &Transcript,
    atsign: &str,
    owner: &Owner,
    wire: &mut dyn Conversation,
    second: &mut dyn Conversation,
) -> Result<()> {
    match transcript.given {
        Given::Fresh => Ok(()),
        Given::Activated | Given::Peer => owner.activate(atsign, second),
        Given::Owner => {
            owner.activate(atsign, second)?;
            owner.sign_in(atsign, wire)
        }
    }
}
