//! The server's end of a connection: who is there, what may be said, and the bytes of each answer.
//!
//! The driver reads lines and hands them to [`ServerSession::on_line`]; the [`Action`] that comes back is
//! what the driver has to do. Verbs are performed elsewhere; their [`Response`] returns through
//! [`ServerSession::answer`], which knows the prompt and the form of errors. One line at a time.

use std::time::{Duration, Instant};

use crate::line::{Line, LineTooLong, MAX_ANONYMOUS, MAX_AUTHENTICATED};
use crate::response::{ErrorCode, ErrorStyle, Failure, Prompt};
use crate::verb::{Access, ClientConfig, Cram, Pkam, VerbError};
use crate::{AtSign, Response, Verb};

/// How long a challenge may be answered (wire reference §3.1).
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(60);
/// How long nobody in particular may be silent, at most and in a crowd (wire reference §2.5).
const IDLE_ANONYMOUS: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(5));
/// How long an authenticated party may be silent, at most and in a crowd (wire reference §2.5).
const IDLE_AUTHENTICATED: (Duration, Duration) =
    (Duration::from_secs(30 * 24 * 60 * 60), Duration::from_secs(60));
/// Above this version clients take errors as JSON (wire reference §2.3).
const JSON_ERRORS_ABOVE: [u32; 3] = [3, 0, 37];

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// The tenant itself.
    Owner(OwnerAuth),
    /// Another atSign, proved by its server.
    Peer(AtSign),
}

/// How the owner proved itself, which bounds what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerAuth {
    /// By the activation secret.
    Cram,
    /// By the first key, without an enrollment.
    PkamLegacy,
    /// By the key of an enrollment, named by its id.
    Apkam(String),
}

/// A challenge that was put to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Who has to answer it.
    pub claim: AtSign,
    /// The session's id, such as `_4a160d33-…`.
    pub session: String,
    /// The nonce, a UUID.
    pub proof: String,
}

impl Challenge {
    /// What an owner signs or digests: everything after `data:` (wire reference §3.1).
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}:{}", self.cookie(), self.proof)
    }

    /// The name under which a peer shows its signature of the proof in its own store, `<session>@bob`.
    #[must_use]
    pub fn cookie(&self) -> String {
        format!("{}{}", self.session, self.claim)
    }
}

/// What the driver has to do with a line.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Send these bytes in one write.
    Send(String),
    /// Send these bytes in one write, then close.
    SendAndClose(String),
    /// Close without a word.
    Close,
    /// Perform the verb; hand what it came to, to [`ServerSession::answer`].
    Apply {
        /// Whose server is spoken to.
        tenant: AtSign,
        /// Who speaks.
        who: Identity,
        /// What is said.
        verb: Verb,
    },
    /// Check the proof; hand the outcome to [`ServerSession::on_verdict`].
    Verify {
        /// Whose server is spoken to.
        tenant: AtSign,
        /// What was asked, if it is still valid; it has been used up.
        challenge: Option<Challenge>,
        /// What was answered.
        proof: Proof,
    },
}

/// An answer to a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// By the activation secret.
    Cram(Cram),
    /// By a key.
    Pkam(Pkam),
    /// By a signature in the caller's own atServer.
    Pol,
}

/// Which tenants there are, and which of them a caller may speak to at all.
pub trait Hosts {
    /// Whether this atSign is hosted here.
    fn hosts(&self, atsign: &AtSign) -> bool;
    /// Whether `tenant` refuses every connection of `caller`.
    fn blocks(&self, tenant: &AtSign, caller: &AtSign) -> bool;
}

/// The state of one connection.
#[derive(Debug)]
pub struct ServerSession {
    id: String,
    tenant: Option<AtSign>,
    who: Identity,
    challenge: Option<(Challenge, Instant)>,
    json_errors: bool,
    monitoring: bool,
    last_line: Instant,
}

impl ServerSession {
    /// A session with a fresh `id` (`_` and a UUID), for the tenant that port or SNI decided, if any.
    #[must_use]
    pub fn new(id: String, tenant: Option<AtSign>, now: Instant) -> Self {
        Self {
            id,
            tenant,
            who: Identity::Anonymous,
            challenge: None,
            json_errors: false,
            monitoring: false,
            last_line: now,
        }
    }

    /// A session of who was let in before it began, in a stream between nodes.
    #[must_use]
    pub fn entered(id: String, tenant: AtSign, who: Identity, now: Instant) -> Self {
        Self { who, ..Self::new(id, Some(tenant), now) }
    }

    /// What is sent on accept, alone in its record.
    #[must_use]
    pub fn greeting() -> &'static str {
        "@"
    }

    /// The session's id, as challenges have it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who is at the other end.
    #[must_use]
    pub fn who(&self) -> &Identity {
        &self.who
    }

    /// Whose server is spoken to, once decided.
    #[must_use]
    pub fn tenant(&self) -> Option<&AtSign> {
        self.tenant.as_ref()
    }

    /// The longest line that this party may send, in bytes.
    #[must_use]
    pub fn line_limit(&self) -> usize {
        match self.who {
            Identity::Anonymous => MAX_ANONYMOUS,
            Identity::Owner(_) | Identity::Peer(_) => MAX_AUTHENTICATED,
        }
    }

    /// From when on the party has been silent too long: the connection is to be closed then. `crowding` says
    /// how far the server is from its low-water mark (0) to its limit (1000), where patience is shortest.
    #[must_use]
    pub fn deadline(&self, crowding: u32) -> Instant {
        let (longest, shortest) = match self.who {
            Identity::Anonymous => IDLE_ANONYMOUS,
            Identity::Owner(_) | Identity::Peer(_) => IDLE_AUTHENTICATED,
        };
        self.last_line + longest - (longest - shortest) * crowding.min(1000) / 1000
    }

    /// A line has come. `proof` is a fresh UUID, used if the line asks for a challenge.
    pub fn on_line(&mut self, line: Line, proof: &str, hosts: &dyn Hosts, now: Instant) -> Action {
        self.last_line = now;
        let text = match line {
            Line::Text(text) => text,
            Line::Blank | Line::NotText => {
                return self.fail(Failure::new(ErrorCode::InvalidSyntax, "invalid command"));
            }
        };
        if text == "@exit" {
            return Action::Close;
        }
        match text.parse::<Verb>() {
            Ok(verb) => self.on_verb(verb, proof, hosts, now),
            Err(error) => self.fail(self.syntax_failure(&text, error)),
        }
    }

    /// A line was longer than allowed: the last words.
    pub fn on_too_long(&self, error: LineTooLong) -> Action {
        self.fail(Failure::new(ErrorCode::BufferLimit, error.to_string()))
    }

    /// The verb of an [`Action::Apply`] has come to this.
    pub fn answer(&self, response: &Response) -> Action {
        let close = matches!(response, Response::Error(failure) if failure.close);
        // Errors are not prompted as a peer (wire reference §2.3).
        let to_peer = matches!(self.who, Identity::Peer(_)) && matches!(response, Response::Error(_));
        let prompt = if to_peer { Prompt::Anonymous } else { self.prompt() };
        let text = response.render(self.error_style(), &prompt);
        if close { Action::SendAndClose(text) } else { Action::Send(text) }
    }

    /// Who has just been asked to answer this proof.
    #[must_use]
    pub fn challenged(&self, proof: &str) -> Option<&AtSign> {
        self.challenge.as_ref().filter(|(asked, _)| asked.proof == proof).map(|(asked, _)| &asked.claim)
    }

    /// Something went over the connection that was no line: it is not idle.
    pub fn stay(&mut self, now: Instant) {
        self.last_line = now;
    }

    /// The connection has become a monitor: from now on no prompts.
    pub fn start_monitoring(&mut self) {
        self.monitoring = true;
    }

    /// The connection is bound to the enrollment that it has just made by CRAM.
    pub fn bind(&mut self, enrollment: String) {
        self.who = Identity::Owner(OwnerAuth::Apkam(enrollment));
    }

    /// The proof of an [`Action::Verify`] holds for this identity, or fails.
    pub fn on_verdict(&mut self, verdict: Result<Identity, Response>) -> Action {
        match verdict {
            Ok(who) => {
                self.who = who;
                match &self.who {
                    // Exactly the prompt, without `data:` (wire reference §2.3).
                    Identity::Peer(_) => Action::Send(self.prompt().to_string()),
                    Identity::Owner(_) | Identity::Anonymous => {
                        self.answer(&Response::Data("success".into()))
                    }
                }
            }
            Err(response) => {
                self.who = Identity::Anonymous;
                self.answer(&response)
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all verbs but the proofs go one way")]
    fn on_verb(&mut self, verb: Verb, proof: &str, hosts: &dyn Hosts, now: Instant) -> Action {
        if let Verb::From(from) = verb {
            return self.on_from(from.atsign, from.config, proof, hosts, now);
        }
        if let Verb::To(to) = &verb {
            let is_other = self.tenant.as_ref().is_some_and(|tenant| *tenant != to.atsign);
            if is_other || !hosts.hosts(&to.atsign) {
                let message = format!("{} is not hosted here", to.atsign);
                return self.fail(Failure::new(ErrorCode::SecondaryNotFound, message));
            }
            self.tenant = Some(to.atsign.clone());
        }
        // A pol call-back begins with a look-up of its tenant's record: the owner named decides.
        if let (None, Some(owner)) = (&self.tenant, looked_up_owner(&verb)) {
            self.tenant = Some(owner).filter(|owner| hosts.hosts(owner));
        }
        let Some(tenant) = self.tenant.clone() else {
            return match verb {
                Verb::Noop(_) | Verb::Info(_) => {
                    Action::Apply { tenant: nobody(), who: Identity::Anonymous, verb }
                }
                _ => self.fail(Failure::new(
                    ErrorCode::InvalidSyntax,
                    "say from:<atSign> first: this node hosts several",
                )),
            };
        };
        let challenge = |session: &mut Self| {
            let (challenge, asked) = session.challenge.take()?;
            (now.duration_since(asked) <= CHALLENGE_LIFETIME).then_some(challenge)
        };
        match verb {
            Verb::Cram(cram) => {
                let challenge = challenge(self).filter(|challenge| challenge.claim == tenant);
                Action::Verify { tenant, challenge, proof: Proof::Cram(cram) }
            }
            Verb::Pkam(pkam) => {
                let challenge = challenge(self).filter(|challenge| challenge.claim == tenant);
                Action::Verify { tenant, challenge, proof: Proof::Pkam(pkam) }
            }
            Verb::Pol => match challenge(self).filter(|challenge| challenge.claim != tenant) {
                Some(challenge) => Action::Verify { tenant, challenge: Some(challenge), proof: Proof::Pol },
                None => self.fail(Failure::closing(
                    ErrorCode::InternalException,
                    "You must execute a from command first",
                )),
            },
            verb => match self.refuse(verb.access(), &verb) {
                Some(failure) => self.fail(failure),
                None => Action::Apply { tenant, who: self.who.clone(), verb },
            },
        }
    }

    fn on_from(
        &mut self,
        claim: AtSign,
        config: Option<ClientConfig>,
        proof: &str,
        hosts: &dyn Hosts,
        now: Instant,
    ) -> Action {
        let Some(tenant) =
            self.tenant.clone().or_else(|| Some(claim.clone()).filter(|claim| hosts.hosts(claim)))
        else {
            return self
                .fail(Failure::closing(ErrorCode::InternalException, format!("{claim} is not hosted here")));
        };
        if hosts.blocks(&tenant, &claim) {
            return self.fail(Failure::new(ErrorCode::Blocked, "Unable to connect"));
        }
        self.json_errors =
            config.and_then(|config| config.version).is_some_and(|version| takes_json(&version));
        let challenge = Challenge { claim, session: self.id.clone(), proof: proof.to_owned() };
        let prefix = if challenge.claim == tenant { "" } else { "proof:" };
        let text = format!("{prefix}{}", challenge.text());
        self.tenant = Some(tenant);
        self.challenge = Some((challenge, now));
        self.answer(&Response::Data(text))
    }

    fn refuse(&self, access: Access, verb: &Verb) -> Option<Failure> {
        match (access, &self.who) {
            (Access::Anyone, _) | (_, Identity::Owner(_)) | (Access::OwnerOrPeer, Identity::Peer(_)) => {
                self.refuse_foreign_scan(verb)
            }
            (Access::OwnerOrPeer, Identity::Anonymous) => Some(Failure::new(
                ErrorCode::NotAuthenticated,
                "Notify command cannot be executed without authentication",
            )),
            (Access::Owner, Identity::Anonymous | Identity::Peer(_)) => {
                Some(Failure::new(ErrorCode::NotAuthenticated, "Command cannot be executed without auth"))
            }
        }
    }

    fn refuse_foreign_scan(&self, verb: &Verb) -> Option<Failure> {
        match (verb, &self.who) {
            (Verb::Scan(scan), Identity::Anonymous | Identity::Peer(_)) if scan.commit_log => {
                Some(Failure::new(ErrorCode::NotAuthenticated, "Command cannot be executed without auth"))
            }
            (Verb::Scan(scan), Identity::Anonymous | Identity::Peer(_)) if scan.of.is_some() => {
                Some(Failure::new(
                    ErrorCode::NotAuthenticated,
                    "Scan to another atSign cannot be performed without auth",
                ))
            }
            _ => None,
        }
    }

    fn syntax_failure(&self, line: &str, error: VerbError) -> Failure {
        match error {
            VerbError::AtSign(_) if line.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from")) => {
                Failure::closing(ErrorCode::InternalException, error.to_string())
            }
            VerbError::NoEnrollParameters => Failure::new(ErrorCode::IllegalArguments, error.to_string()),
            VerbError::Json => Failure::closing(ErrorCode::InternalException, error.to_string()),
            VerbError::Unknown
            | VerbError::Syntax { .. }
            | VerbError::Parameter(_)
            | VerbError::Key(_)
            | VerbError::AtSign(_) => Failure::new(ErrorCode::InvalidSyntax, error.to_string()),
        }
    }

    fn fail(&self, failure: Failure) -> Action {
        self.answer(&Response::Error(failure))
    }

    fn prompt(&self) -> Prompt {
        match (&self.who, &self.tenant) {
            _ if self.monitoring => Prompt::None,
            (Identity::Owner(_), Some(tenant)) => Prompt::Authenticated(tenant.clone()),
            (Identity::Peer(peer), _) => Prompt::Authenticated(peer.clone()),
            (Identity::Owner(_) | Identity::Anonymous, _) => Prompt::Anonymous,
        }
    }

    fn error_style(&self) -> ErrorStyle {
        ErrorStyle { json: self.json_errors, owner: matches!(self.who, Identity::Owner(_)) }
    }
}

/// The tenant of verbs that no tenant answers: `noop` and `info` of the node.
fn nobody() -> AtSign {
    "nobody".parse().expect("a plain word is an atSign")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only look-ups name an owner to ask")]
fn looked_up_owner(verb: &Verb) -> Option<AtSign> {
    match verb {
        Verb::Lookup(lookup) => Some(lookup.owner.clone()),
        Verb::PLookup(lookup) => Some(lookup.owner.clone()),
        _ => None,
    }
}

fn takes_json(version: &str) -> bool {
    let mut numbers = [0u32; 3];
    for (slot, part) in numbers.iter_mut().zip(version.split(['.', '-', '+'])) {
        *slot = part.parse().unwrap_or(0);
    }
    numbers > JSON_ERRORS_ABOVE
}

#[cfg(test)]
mod tests;
