//! The transcripts against the pure session: every line is read, every verb survives printing, and the
//! session frames what each verb came to exactly as the transcript says.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::time::Instant;

use at_protocol::line::LineSplitter;
use at_protocol::response::{ErrorCode, Failure};
use at_protocol::session::server::{Action, Hosts, Identity, OwnerAuth, Proof, ServerSession};
use at_protocol::{AtSign, Response, Verb};
use atedge_tests::transcript::{Given, Memory, Proofs, Step, Transcript};

const UUID: &str = "0f0f0f0f-0000-4000-8000-000000000000";
const SESSION: &str = "_0f0f0f0f-0000-4000-8000-000000000001";

struct OnlyAlice;

impl Hosts for OnlyAlice {
    fn hosts(&self, atsign: &AtSign) -> bool {
        atsign.as_str() == "alice"
    }

    fn blocks(&self, _: &AtSign, caller: &AtSign) -> bool {
        // Whom the transcript of blocked callers has blocked.
        caller.as_str() == "mallory"
    }
}

/// The session only frames proofs; whether they hold is said by the transcript.
struct AnyProof;

impl Proofs for AnyProof {
    fn digest(&self, _: &str) -> String {
        "00".to_owned()
    }

    fn sign(&self, _: &str) -> String {
        "c2ln".to_owned()
    }

    fn sign512(&self, _: &str) -> String {
        "c2ln".to_owned()
    }

    fn public_key(&self) -> String {
        "a2V5".to_owned()
    }

    fn app_sign(&self, _: &str) -> String {
        "c2ln".to_owned()
    }

    fn app_public_key(&self) -> String {
        "a2V5".to_owned()
    }

    fn ecc_sign(&self, _: &str) -> String {
        "c2ln".to_owned()
    }

    fn ecc_public_key(&self) -> String {
        "04".to_owned()
    }
}

#[test]
fn the_session_frames_every_transcript() {
    for transcript in Transcript::all(|_| "alice".to_owned()).unwrap() {
        replay(&transcript);
    }
}

fn replay(transcript: &Transcript) {
    let alice: AtSign = "alice".parse().unwrap();
    let now = Instant::now();
    let mut session = ServerSession::new(SESSION.to_owned(), Some(alice.clone()), now);
    match &transcript.given {
        Given::Enrolled(_) => {
            drop(session.on_verdict(Ok(Identity::Owner(OwnerAuth::Apkam(UUID.to_owned())))))
        }
        Given::Owner => drop(session.on_verdict(Ok(Identity::Owner(OwnerAuth::PkamLegacy)))),
        Given::Peer => drop(session.on_verdict(Ok(Identity::Peer("bob".parse().unwrap())))),
        Given::Fresh | Given::Activated => {}
    }
    let mut lines = LineSplitter::new(session.line_limit());
    let mut memory = Memory::default();
    // What is remembered of a real server's answers is not known here.
    for (name, value) in [("enrollment", UUID), ("id", UUID), ("other", UUID), ("code", "A1B2C3")] {
        memory.remember(name, value);
    }
    let mut expected = transcript.steps.iter().peekable();
    while let Some(step) = expected.next() {
        let Step::Say(said) = step else { panic!("{}: {step:?} was not asked for", transcript.name) };
        let said = memory.fill(&said.replace("{first}", "5").replace("{first+3}", "8"), &AnyProof);
        lines.feed(said.unwrap().as_bytes());
        while let Some(line) = lines.next_line().unwrap() {
            let action = session.on_line(line, UUID, &OnlyAlice, now);
            let answer = expected.next_if(|step| matches!(step, Step::Expect(_) | Step::ExpectLoosely(_)));
            let closes = matches!(expected.peek(), Some(Step::Closed));
            settle(&transcript.name, &mut session, action, answer, closes, &mut memory);
            while expected.next_if(|step| is_push(step)).is_some() {}
        }
        expected.next_if(|step| **step == Step::Closed);
    }
}

fn is_push(step: &Step) -> bool {
    matches!(step, Step::Expect(text) | Step::ExpectLoosely(text) if text.starts_with("notification: "))
}

fn settle(
    name: &str,
    session: &mut ServerSession,
    action: Action,
    answer: Option<&Step>,
    closes: bool,
    memory: &mut Memory,
) {
    let template = match answer {
        Some(Step::Expect(text) | Step::ExpectLoosely(text)) => text.clone(),
        _ => String::new(),
    };
    let outcome = match action {
        Action::Close => return assert!(closes, "{name}: closed without a word"),
        Action::Send(text) | Action::SendAndClose(text) => {
            let expected = [Step::Expect(template.clone())];
            return assert!(
                memory.matches(&expected, &text).unwrap(),
                "{name}: {text:?} is not {template:?}"
            );
        }
        Action::Verify { proof, .. } => {
            let verdict = match (proof, template.as_str()) {
                (Proof::Pol, "@bob@") => Ok(Identity::Peer("bob".parse().unwrap())),
                (Proof::Cram(_), text) if text.starts_with("data:") => Ok(Identity::Owner(OwnerAuth::Cram)),
                (Proof::Pkam(_), text) if text.starts_with("data:") => {
                    Ok(Identity::Owner(OwnerAuth::PkamLegacy))
                }
                (_, text) => Err(response(text, closes)),
            };
            session.on_verdict(verdict)
        }
        Action::Apply { verb, .. } => {
            assert_eq!(verb.to_string().parse::<Verb>().as_ref(), Ok(&verb), "{name}");
            if matches!(verb, Verb::Monitor(_)) && !template.starts_with("error:") {
                session.start_monitoring();
                session.answer(&Response::Silence)
            } else if matches!(verb, Verb::Stream(_)) && !template.starts_with("error:") {
                // What comes, if anything does, is not an answer.
                return;
            } else {
                session.answer(&response(&template, closes))
            }
        }
    };
    match outcome {
        Action::Send(text) if text.is_empty() => {}
        Action::Send(text) | Action::SendAndClose(text) => assert_eq!(text, template, "{name}"),
        other @ (Action::Close | Action::Apply { .. } | Action::Verify { .. }) => panic!("{name}: {other:?}"),
    }
}

/// The response that renders as this answer.
fn response(template: &str, close: bool) -> Response {
    let (text, _) =
        template.split_once('\n').unwrap_or_else(|| panic!("an answer ends in a line end: {template:?}"));
    if let Some(json) = text.strip_prefix("data: ") {
        return Response::SpacedData(json.to_owned());
    }
    if let Some(data) = text.strip_prefix("data:") {
        return Response::Data(data.to_owned());
    }
    let error = text.strip_prefix("error:").unwrap_or_else(|| panic!("neither data nor error: {text}"));
    let (code, description) = match error.strip_prefix('{') {
        Some(_) => {
            let json: serde_json::Value = serde_json::from_str(error).unwrap();
            (
                json["errorCode"].as_str().unwrap().to_owned(),
                json["errorDescription"].as_str().unwrap().to_owned(),
            )
        }
        None => {
            let (code, rest) = error.split_at(6);
            if let Some(message) = rest.strip_prefix(':') {
                return Response::State(code.parse().unwrap(), message.to_owned());
            }
            (code.to_owned(), rest.strip_prefix('-').unwrap().to_owned())
        }
    };
    let code: ErrorCode = code.parse().unwrap();
    let owner = format!("{} : ", code.text());
    let message =
        description.strip_prefix("Exception: ").or_else(|| description.strip_prefix(&owner)).unwrap();
    Response::Error(Failure { code, message: message.to_owned(), close })
}
