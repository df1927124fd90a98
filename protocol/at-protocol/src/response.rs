//! What a server answers (wire reference §2.3) and its error codes (§9).

use std::fmt;
use std::str::FromStr;

use crate::AtSign;

/// The codes of wire reference §9 that cross the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "`text` is the documentation, word for word the published one")]
pub enum ErrorCode {
    ServerException,
    DataStore,
    InvalidSyntax,
    Socket,
    BufferLimit,
    OutboundLimit,
    SecondaryNotFound,
    Handshake,
    Unauthorized,
    InternalError,
    InternalException,
    InboundLimit,
    Blocked,
    KeyNotFound,
    InvalidKey,
    UnableToConnect,
    IllegalArguments,
    Timeout,
    Paused,
    EnrollmentDenied,
    EnrollmentPending,
    EnrollmentRevoked,
    EnrollmentExpired,
    SelfRevocation,
    NotAuthenticated,
}

use ErrorCode as E;

/// Code, name on the wire, generic text: one row each.
const CODES: [(E, &str, &str); 25] = [
    (E::ServerException, "AT0001", "Server exception"),
    (E::DataStore, "AT0002", "DataStore exception"),
    (E::InvalidSyntax, "AT0003", "Invalid syntax"),
    (E::Socket, "AT0004", "Socket error"),
    (E::BufferLimit, "AT0005", "Buffer limit exceeded"),
    (E::OutboundLimit, "AT0006", "Outbound connection limit exceeded"),
    (E::SecondaryNotFound, "AT0007", "Secondary server not found"),
    (E::Handshake, "AT0008", "Handshake failure"),
    (E::Unauthorized, "AT0009", "UnAuthorized client in request"),
    (E::InternalError, "AT0010", "Internal server error"),
    (E::InternalException, "AT0011", "Internal server exception"),
    (E::InboundLimit, "AT0012", "Inbound connection limit exceeded"),
    (E::Blocked, "AT0013", "Connection Exception"),
    (E::KeyNotFound, "AT0015", "key not found"),
    (E::InvalidKey, "AT0016", "Invalid key"),
    (E::UnableToConnect, "AT0021", "Unable to connect to secondary"),
    (E::IllegalArguments, "AT0022", "Illegal arguments"),
    (E::Timeout, "AT0023", "Timeout waiting for response"),
    (E::Paused, "AT0024", "Server is paused"),
    (E::EnrollmentDenied, "AT0025", "Apkam Auth Denied"),
    (E::EnrollmentPending, "AT0026", "Apkam Auth Failed"),
    (E::EnrollmentRevoked, "AT0027", "Apkam Access Revoked"),
    (E::EnrollmentExpired, "AT0028", "Too Many Requests"),
    (E::SelfRevocation, "AT0031", "Cannot revoke self enrollment"),
    (E::NotAuthenticated, "AT0401", "Client authentication failed"),
];

impl ErrorCode {
    fn row(self) -> &'static (Self, &'static str, &'static str) {
        CODES.iter().find(|(code, ..)| *code == self).expect("every code has a row, as a test shows")
    }

    /// The code on the wire, such as `AT0015`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The published text of the code.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.row().2
    }

    /// Whether a server closes the connection after this error (wire reference §2.4).
    #[must_use]
    pub fn closes(self) -> bool {
        matches!(self, E::BufferLimit | E::Blocked | E::DataStore | E::Paused | E::InboundLimit)
    }
}

impl FromStr for ErrorCode {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        CODES.iter().find(|(_, code, _)| *code == name).map(|(code, ..)| *code).ok_or(())
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the verb came to, without prompt and without regard to who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// `data:<text>`.
    Data(String),
    /// `data: <json>`, with the space that `stats` has.
    SpacedData(String),
    /// Nothing: `monitor` is silent until there is something to say.
    Silence,
    /// `error:<code>-…` or its JSON form.
    Error(Failure),
    /// `error:<code>:<message>`, for the states of an enrollment.
    State(ErrorCode, String),
}

/// An error and what became of the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// Which error.
    pub code: ErrorCode,
    /// What happened, in words.
    pub message: String,
    /// Whether the connection ends with it.
    pub close: bool,
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        Self::Error(failure)
    }
}

impl Failure {
    /// A failure after which the connection stays or goes as its code says.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), close: code.closes() }
    }

    /// A failure that ends the connection.
    pub fn closing(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), close: true }
    }
}

/// The end of every answer: who the server thinks is there (wire reference §0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// `@`: nobody in particular.
    Anonymous,
    /// `@alice@`: the owner, or another atSign's server.
    Authenticated(AtSign),
    /// None at all: the connection is a monitor, whose stream some clients cut at line ends only.
    None,
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("@"),
            Self::Authenticated(atsign) => write!(f, "{atsign}@"),
            Self::None => Ok(()),
        }
    }
}

/// How errors are written to this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorStyle {
    /// As a JSON object, which clients above 3.0.37 take.
    pub json: bool,
    /// With the code's text in front, as the owner sees it; others see `Exception`.
    pub owner: bool,
}

impl Response {
    /// The answer as bytes of one write, prompt included. Empty for [`Response::Silence`].
    #[must_use]
    pub fn render(&self, style: ErrorStyle, prompt: &Prompt) -> String {
        match self {
            Self::Data(text) if text.starts_with("data:") => format!("{text}\n{prompt}"),
            Self::Data(text) => format!("data:{text}\n{prompt}"),
            Self::SpacedData(json) => format!("data: {json}\n{prompt}"),
            Self::Silence => String::new(),
            Self::State(code, message) => format!("error:{code}:{}\n{prompt}", one_line(message)),
            Self::Error(failure) => format!("error:{}\n{prompt}", failure.render(style)),
        }
    }
}

impl Failure {
    fn render(&self, style: ErrorStyle) -> String {
        let description = if style.owner {
            format!("{} : {}", self.code.text(), self.message)
        } else {
            format!("Exception: {}", self.message)
        };
        let description = one_line(&description);
        if style.json {
            let json = serde_json::json!({ "errorCode": self.code.name(), "errorDescription": description });
            json.to_string()
        } else {
            format!("{}-{description}", self.code)
        }
    }
}

/// A line end in a message, which may repeat what the caller said, would end the answer early.
fn one_line(message: &str) -> String {
    message.replace(['\n', '\r'], " ")
}

/// An error as a client reads it, in any of its three forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RemoteError {
    /// The code as it was sent; it may be one that we do not know.
    pub code: String,
    /// The description.
    pub message: String,
}

impl RemoteError {
    /// Reads what follows `error:`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Ok(serde_json::Value::Object(json)) = serde_json::from_str(text) {
            let member = |name: &str| json.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            return Self { code: member("errorCode"), message: member("errorDescription") };
        }
        let end = text.find(['-', ':']).unwrap_or(text.len());
        let message = text.get(end + 1..).unwrap_or_default();
        Self { code: text[..end].trim().to_owned(), message: message.trim().to_owned() }
    }

    /// The code, if it is one of ours.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.code.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: ErrorStyle = ErrorStyle { json: false, owner: true };
    const OTHER: ErrorStyle = ErrorStyle { json: false, owner: false };

    fn alice() -> Prompt {
        Prompt::Authenticated("@alice".parse().unwrap())
    }

    #[test]
    fn answers_end_in_their_prompt() {
        assert_eq!(Response::Data("5".into()).render(OWNER, &alice()), "data:5\n@alice@");
        assert_eq!(Response::Data("data:5".into()).render(OTHER, &Prompt::Anonymous), "data:5\n@");
        assert_eq!(Response::SpacedData("[]".into()).render(OWNER, &alice()), "data: []\n@alice@");
        assert_eq!(Response::Data("ok".into()).render(OWNER, &Prompt::None), "data:ok\n");
        assert_eq!(Response::Silence.render(OWNER, &alice()), "");
    }

    #[test]
    fn errors_have_the_three_published_forms() {
        let missing = Response::Error(Failure::new(E::KeyNotFound, "x@alice does not exist in keystore"));
        assert_eq!(
            missing.render(OWNER, &alice()),
            "error:AT0015-key not found : x@alice does not exist in keystore\n@alice@"
        );
        assert_eq!(
            missing.render(OTHER, &Prompt::Anonymous),
            "error:AT0015-Exception: x@alice does not exist in keystore\n@"
        );
        assert_eq!(
            missing.render(ErrorStyle { json: true, owner: false }, &Prompt::Anonymous),
            "error:{\"errorCode\":\"AT0015\",\"errorDescription\":\"Exception: x@alice does not exist in keystore\"}\n@"
        );
        let pending = Response::State(E::EnrollmentPending, "enrollment_id: 1f is pending".into());
        assert_eq!(pending.render(OTHER, &Prompt::Anonymous), "error:AT0026:enrollment_id: 1f is pending\n@");
    }

    #[test]
    fn no_message_ends_its_answer_early() {
        let said = "x\ndata:success\r\n@alice@".to_owned();
        for response in [
            Response::State(E::EnrollmentExpired, said.clone()),
            Response::Error(Failure::new(E::KeyNotFound, said)),
        ] {
            assert_eq!(response.render(OWNER, &alice()).matches(['\n', '\r']).count(), 1);
        }
    }

    #[test]
    fn a_client_reads_every_form() {
        for text in [
            "AT0015-key not found : gone",
            "AT0015:key not found : gone",
            r#"{"errorCode":"AT0015","errorDescription":"key not found : gone"}"#,
        ] {
            let error = RemoteError::parse(text);
            assert_eq!(
                (error.code(), error.message.as_str()),
                (Some(E::KeyNotFound), "key not found : gone")
            );
        }
        assert_eq!(RemoteError::parse("AT9999").code(), None);
    }

    #[test]
    fn every_code_has_one_row() {
        for (code, name, _) in CODES {
            assert_eq!((code.name(), name.parse()), (name, Ok(code)));
        }
    }
}
