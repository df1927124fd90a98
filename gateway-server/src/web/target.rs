//! What a request's path asks for: one pure function.

use at_protocol::verb::Shape;
use at_protocol::{AtSign, KeyName};

/// Longest target, in characters (atProtocol wire reference §10.2).
const MAX_TARGET: usize = 1000;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/`.
    Home,
    /// `/ws`: the protocol itself, in WebSocket messages.
    Socket,
    /// A public record.
    Record(Wanted),
}

/// A public record, and the form of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose, if the path says so: `/@alice/…`.
    pub owner: Option<AtSign>,
    /// Its name: the segments of the path in reverse order, joined by dots.
    pub name: KeyName,
    /// `?at_rt=meta` or `all`.
    pub shape: Shape,
    /// `?at_ct=…`, else what the first part of the name looks like.
    pub content_type: String,
}

/// Why a target asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// It is too long.
    #[error("the path is longer than {MAX_TARGET} characters")]
    TooLong,
    /// A `%` without two hexadecimal digits, or bytes that are no UTF-8.
    #[error("the path is not encoded as it should be")]
    Encoding,
    /// The first segment begins with `@` and is no atSign.
    #[error("no atSign: {0}")]
    AtSign(#[from] at_protocol::atsign::InvalidAtSign),
    /// The rest cannot name a record.
    #[error("no name of a record: {0}")]
    Name(#[from] at_protocol::key::InvalidKey),
    /// `at_rt` or `at_ct` has a value that it cannot have.
    #[error("{0} cannot have this value")]
    Query(&'static str),
}

impl Target {
    /// Reads path and query as they stand in a request (atProtocol wire reference §2.6).
    ///
    /// # Errors
    /// See [`InvalidTarget`].
    pub fn parse(target: &str) -> Result<Self, InvalidTarget> {
        if target.len() > MAX_TARGET {
            return Err(InvalidTarget::TooLong);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments = path.split('/').filter(|segment| !segment.is_empty()).map(decoded);
        let mut segments = segments.collect::<Result<Vec<_>, _>>()?;
        let owner = match segments.first() {
            Some(first) if first.starts_with('@') => Some(segments.remove(0).parse::<AtSign>()?),
            Some(_) | None => None,
        };
        match segments.as_slice() {
            [] => return Ok(Self::Home),
            [only] if only == "ws" && owner.is_none() => return Ok(Self::Socket),
            _ => {}
        }
        segments.reverse();
        let (mut shape, mut content_type) = (Shape::Value, None);
        for (name, value) in query.split('&').filter_map(|parameter| parameter.split_once('=')) {
            match name {
                "at_rt" => shape = shape_of(value).ok_or(InvalidTarget::Query("at_rt"))?,
                "at_ct" => content_type = Some(media_type(&decoded(value)?)?),
                _ => {}
            }
        }
        let content_type = content_type.unwrap_or_else(|| match shape {
            Shape::Value => by_extension(&segments[0]).to_owned(),
            Shape::Meta | Shape::All => JSON.to_owned(),
        });
        let name = segments.join(".").parse()?;
        Ok(Self::Record(Wanted { owner, name, shape, content_type }))
    }
}

const JSON: &str = "application/json";
/// What a file's ending says about its content; anything else is plain text, which most records are.
const EXTENSIONS: [(&str, &str); 16] = [
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("gif", "image/gif"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", JSON),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("wasm", "application/wasm"),
    ("webp", "image/webp"),
    ("xml", "application/xml"),
];

fn by_extension(file: &str) -> &'static str {
    let extension = file.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let known = EXTENSIONS.iter().find(|(known, _)| extension.as_deref() == Some(known));
    known.map_or("text/plain; charset=utf-8", |(_, media_type)| media_type)
}

fn shape_of(value: &str) -> Option<Shape> {
    match value {
        "meta" => Some(Shape::Meta),
        "all" => Some(Shape::All),
        _ => None,
    }
}

/// Something that can stand in a header.
fn media_type(text: &str) -> Result<String, InvalidTarget> {
    let is_plain = text.contains('/') && text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    if is_plain { Ok(text.to_owned()) } else { Err(InvalidTarget::Query("at_ct")) }
}

/// Percent-decoding (RFC 3986 §2.1).
fn decoded(text: &str) -> Result<String, InvalidTarget> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(if byte == b'%' {
            let (high, low) = (digit(rest.next()), digit(rest.next()));
            let (high, low) = high.zip(low).ok_or(InvalidTarget::Encoding)?;
            u8::try_from(high << 4 | low).map_err(|_| InvalidTarget::Encoding)?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).map_err(|_| InvalidTarget::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: &str) -> Wanted {
        match Target::parse(target).unwrap() {
            Target::Record(wanted) => wanted,
            other @ (Target::Home | Target::Socket) => panic!("{target} is {other:?}"),
        }
    }

    #[test]
    fn a_path_is_read_from_its_end() {
        for (target, name) in [
            ("/index.html", "index.html"),
            ("/a/b/index.html", "index.html.b.a"),
            ("/@alice/a/b/index.html", "index.html.b.a"),
            ("/%40alice/publickey", "publickey"),
            ("//Wavi/phone/", "phone.wavi"),
            ("/_hidden.wavi", "_hidden.wavi"),
            ("/caf%C3%A9", "café"),
            ("/x/ws", "ws.x"),
        ] {
            assert_eq!(record(target).name.as_str(), name, "{target}");
        }
        assert_eq!(record("/@alice/x").owner, Some("@alice".parse().unwrap()));
        assert_eq!(record("/x").owner, None);
        assert_eq!(Target::parse("/"), Ok(Target::Home));
        assert_eq!(Target::parse("/@alice/?x"), Ok(Target::Home));
        assert_eq!(Target::parse("/ws"), Ok(Target::Socket));
        assert_eq!(Target::parse("/ws?x=y"), Ok(Target::Socket));
    }

    #[test]
    fn the_query_and_the_ending_say_what_it_comes_as() {
        for (target, shape, content_type) in [
            ("/a.html", Shape::Value, "text/html; charset=utf-8"),
            ("/b/a.PNG", Shape::Value, "image/png"),
            ("/phone.wavi", Shape::Value, "text/plain; charset=utf-8"),
            ("/a.html?at_rt=meta", Shape::Meta, "application/json"),
            ("/a?other&at_rt=all&x=y", Shape::All, "application/json"),
            ("/a.html?at_ct=text%2Fplain", Shape::Value, "text/plain"),
        ] {
            let wanted = record(target);
            assert_eq!((wanted.shape, wanted.content_type.as_str()), (shape, content_type), "{target}");
        }
    }

    #[test]
    fn what_asks_for_nothing_is_said() {
        let error = |target: &str| Target::parse(target).unwrap_err();
        assert_eq!(error(&format!("/{}", "x".repeat(1000))), InvalidTarget::TooLong);
        for target in ["/%", "/%4", "/%zz", "/%ff%fe"] {
            assert_eq!(error(target), InvalidTarget::Encoding, "{target}");
        }
        for target in ["/a:b", "/a%40b", "/a%0ab", "/public:x"] {
            assert!(matches!(error(target), InvalidTarget::Name(_)), "{target}");
        }
        assert!(matches!(error("/@/x"), InvalidTarget::AtSign(_)));
        for target in ["/x?at_ct=a%0d%0aSet-Cookie:x/y", "/x?at_rt=secret", "/x?at_ct=text"] {
            assert!(matches!(error(target), InvalidTarget::Query(_)), "{target}");
        }
    }
}
