//! What arrives over the network before anybody has been believed.

use std::time::Instant;

use at_protocol::line::{Line, LineSplitter};
use at_protocol::notification::Frame;
use at_protocol::response::RemoteError;
use at_protocol::rpc::{Answer, Request, RpcName};
use at_protocol::session::client::ClientSession;
use at_protocol::session::server::{Action, Hosts, Identity, OwnerAuth, ServerSession};
use at_protocol::{AtSign, Response, Verb, directory};

const LIMIT: usize = 64;

/// Lines do not depend on how the bytes were cut into reads, and keep to their limit.
pub(super) fn lines(input: &[u8]) {
    let cut = usize::from(input.first().copied().unwrap_or(1)).max(1);
    let (whole, whole_ended) = split(&[input]);
    let reads: Vec<&[u8]> = input.chunks(cut).collect();
    let (pieces, pieces_ended) = split(&reads);
    assert!(whole.iter().all(|line| line.len() <= LIMIT && !line.contains(&b'\n')));
    // A read of nothing but white space is a blank line as a whole, also what of it begins the next line.
    if reads.iter().any(|read| read.trim_ascii().is_empty()) {
        return;
    }
    assert_eq!((whole, whole_ended), (pieces, pieces_ended));
}

/// The lines of these reads, and whether one was too long.
fn split(reads: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let mut splitter = LineSplitter::new(LIMIT);
    let mut lines = Vec::new();
    for read in reads {
        splitter.feed(read);
        loop {
            match splitter.next_line() {
                Ok(Some(Line::Text(text))) => lines.push(text.into_bytes()),
                Ok(Some(Line::NotText)) => lines.push(b"?".to_vec()),
                Ok(Some(Line::Blank)) => {}
                Ok(None) => break,
                Err(_) => return (lines, true),
            }
        }
    }
    (lines, false)
}

/// What is understood is printed so that it is understood again, and as the same.
pub(super) fn verb(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(verb) = text.parse::<Verb>() else { return };
    let printed = verb.to_string();
    assert!(!printed.contains('\n') || text.trim().contains('\n'), "{printed:?} is no line");
    assert_eq!(printed.parse::<Verb>().as_ref(), Ok(&verb), "{printed:?}");
}

/// The same for metadata, by way of the verb that carries most of it.
pub(super) fn metadata(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    verb(format!("update{text}:@bob:x.y@alice v").as_bytes());
    verb(format!("notify:id:1{text}:@bob:x.y@alice:v").as_bytes());
}

/// The same for verbs whose parameters are JSON.
pub(super) fn json_verb(input: &[u8]) {
    const VERBS: [&str; 6] = [
        "update:json:",
        "batch:",
        "enroll:request:",
        "enroll:approve:",
        "enroll:list:",
        "from:@alice:clientConfig:",
    ];
    for said in VERBS {
        verb(&[said.as_bytes(), input].concat());
    }
}

/// A frame that is read is written so that it is read as the same.
pub(super) fn notification(input: &[u8]) {
    let Ok(frame) = serde_json::from_slice::<Frame>(input) else { return };
    let json = serde_json::to_string(&frame).expect("a frame can be written");
    assert_eq!(serde_json::from_str::<Frame>(&json).ok(), Some(frame));
}

/// Whatever stands behind `error:` is some error.
pub(super) fn remote_error(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // That there is a code we know is not promised.
    let error = RemoteError::parse(text);
    assert!(error.code().is_none() || !error.code.is_empty());
}

/// A client survives whatever a server writes, however it is cut.
pub(super) fn client_session(input: &[u8]) {
    let bob: AtSign = "@bob".parse().expect("an atSign");
    let cut = usize::from(input.first().copied().unwrap_or(1)).max(1);
    let mut session = ClientSession::default();
    for (number, read) in input.chunks(cut).enumerate() {
        if number % 5 == 4 {
            session.expect_pol(&bob);
        }
        session.feed(read);
        loop {
            match session.next_event() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

struct Alice;

impl Hosts for Alice {
    fn hosts(&self, atsign: &AtSign) -> bool {
        atsign.as_str() == "alice"
    }

    fn blocks(&self, _: &AtSign, caller: &AtSign) -> bool {
        caller.as_str() == "mallory"
    }
}

/// A server's session survives whatever a client says, and frames each answer as one that ends in a
/// prompt or a line.
pub(super) fn server_session(input: &[u8]) {
    let now = Instant::now();
    let alice: AtSign = "@alice".parse().expect("an atSign");
    let (&mode, input) = input.split_first().unwrap_or((&0, &[]));
    let tenant = (mode & 1 == 0).then(|| alice.clone());
    let mut session = ServerSession::new("_0f".to_owned(), tenant, now);
    if mode & 2 == 0 {
        framed(session.on_verdict(Ok(Identity::Owner(OwnerAuth::PkamLegacy))));
    }
    let mut lines = LineSplitter::new(session.line_limit());
    lines.feed(input);
    while let Ok(Some(line)) = lines.next_line() {
        match session.on_line(line, "proof", &Alice, now) {
            Action::Apply { .. } => framed(session.answer(&Response::Data("x".to_owned()))),
            Action::Verify { .. } if mode & 4 == 0 => {
                framed(session.on_verdict(Ok(Identity::Owner(OwnerAuth::Cram))));
            }
            Action::Verify { .. } => framed(session.on_verdict(Err(Response::Data("no".to_owned())))),
            action @ (Action::Send(_) | Action::SendAndClose(_)) => framed(action),
            Action::Close => return,
        }
        lines.set_limit(session.line_limit());
    }
}

fn framed(action: Action) {
    if let Action::Send(text) | Action::SendAndClose(text) = action {
        let whole = text.is_empty() || text.ends_with('@') || text.ends_with('\n');
        assert!(whole, "an answer without an end: {text:?}");
    }
}

/// An address that is understood is printed so that it is understood again.
pub(super) fn directory_answer(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(Some(address)) = directory::answer(text) {
        assert_eq!(directory::answer(&address.to_string()), Ok(Some(address)));
    }
}

/// Names and values of a call.
pub(super) fn rpc(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(name) = text.parse::<RpcName>() {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    if let Ok(request) = serde_json::from_str::<Request>(text) {
        let json = serde_json::to_string(&request).expect("a request can be written");
        assert_eq!(serde_json::from_str::<Request>(&json).ok(), Some(request));
    }
    if let Ok(answer) = serde_json::from_str::<Answer>(text) {
        let json = serde_json::to_string(&answer).expect("an answer can be written");
        assert_eq!(serde_json::from_str::<Answer>(&json).ok(), Some(answer));
    }
}
