//! The same answers over HTTPS, for browsers: `/@name` says where a name is served, and `/@name/path` leads there
//! (atProtocol wire reference §1.3).

use std::convert::Infallible;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use at_protocol::AtSign;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;
use crate::wire::{Known, MISS_DELAY};

/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers: what browsers send, several times over.
const MAX_HEADERS: usize = 64;
/// How long a connection may last, whatever it does.
const LONGEST: Duration = Duration::from_mins(5);
/// The miss that is a connection's last; the first is answered at once.
const LAST_MISS: u8 = 3;

type Page = Response<Full<Bytes>>;

/// Serves one connection until either side ends it, or `stop`.
pub(crate) async fn serve<S>(stream: S, desk: &Desk, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let misses = AtomicU8::new(0);
    let service = service_fn(|request| async {
        let page = answer(desk, request, &misses).await;
        Ok::<_, Infallible>(page)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(desk.in_force().rules.limits.idle)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = timeout(LONGEST, connection) => if let Ok(Err(error)) = served {
            tracing::debug!(%error, "an HTTP connection broke");
        },
        () = stop.cancelled() => {}
    }
}

async fn answer(desk: &Desk, request: Request<Incoming>, misses: &AtomicU8) -> Page {
    if request.method() != Method::GET {
        let mut page = said(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return page;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let Some(Wanted { atsign, path }) = Wanted::parse(target) else { return not_found() };
    let Some(address) = find(desk, &atsign).await else {
        return miss(misses.fetch_add(1, Ordering::Relaxed).saturating_add(1)).await;
    };
    match path {
        None => said(StatusCode::OK, &address),
        Some(path) => match HeaderValue::from_str(&format!("https://{address}{path}")) {
            Ok(location) => {
                let mut page = said(StatusCode::FOUND, "");
                page.headers_mut().insert(LOCATION, location);
                page
            }
            // A host that no browser could reach.
            Err(_) => not_found(),
        },
    }
}

async fn find(desk: &Desk, atsign: &AtSign) -> Option<String> {
    let mut found = Vec::new();
    match desk.find(atsign.as_str(), &mut found) {
        Known::Here => String::from_utf8(found).ok(),
        Known::Nowhere => None,
        Known::Elsewhere(atsign) => desk.ask_upstream(&atsign).await.map(String::from),
    }
}

/// As for all clients: guessing names gets slow, then ends.
async fn miss(count: u8) -> Page {
    if count > 1 {
        sleep(MISS_DELAY).await;
    }
    let mut page = not_found();
    if count >= LAST_MISS {
        page.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    page
}

fn not_found() -> Page {
    said(StatusCode::NOT_FOUND, "404 Not Found\n")
}

fn said(status: StatusCode, text: &str) -> Page {
    let mut page = Response::new(Full::from(text.to_owned()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    page
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    atsign: AtSign,
    /// Where to go at its server, with the `/` that it begins with; as it came.
    path: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// `None` for what names no atSign.
    fn parse(target: &'a str) -> Option<Self> {
        let rest = target.strip_prefix('/')?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let name = decoded(name)?;
        let atsign = name.strip_prefix('@')?.parse().ok()?;
        Some(Self { atsign, path: behind.starts_with('/').then_some(behind) })
    }
}

/// A part of a path without its `%40` and the like.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, behind @ ..] = rest {
        if let (b'%', [high, low, behind @ ..]) = (first, behind) {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            bytes.push(digit(*high)? * 16 + digit(*low)?);
            rest = behind;
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(target: &str) -> Option<(String, Option<&str>)> {
        Wanted::parse(target).map(|Wanted { atsign, path }| (atsign.to_string(), path))
    }

    #[test]
    fn a_target_names_an_atsign_and_perhaps_a_path() {
        let alice = "@alice".to_owned();
        for target in ["/@alice", "/@Alice", "/%40alice", "/@al%69ce", "/@alice?x=1"] {
            assert_eq!(wanted(target), Some((alice.clone(), None)), "{target}");
        }
        assert_eq!(wanted("/@alice/"), Some((alice.clone(), Some("/"))));
        assert_eq!(wanted("/@alice/a/b%20?c=/d"), Some((alice, Some("/a/b%20?c=/d"))));
        assert_eq!(wanted("/@%F0%9F%A6%84/x"), Some(("@\u{1f984}".to_owned(), Some("/x"))));
        for bad in ["", "/", "/alice", "/@", "//@alice", "/@a:b", "/%4", "/%4zalice", "/%ff", "/@a%0d%0ab"] {
            assert_eq!(wanted(bad), None, "{bad}");
        }
    }
}
