//! The front for browsers, on the port of the protocol: public records over HTTP, and the protocol itself in
//! WebSocket messages (atProtocol wire reference §2.6).
//!
//! It does nothing that a stranger could not do with a line: a `GET` is a `lookup` by nobody in particular.

mod patience;
mod socket;
mod target;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use at_protocol::response::Response as Answer;
use at_protocol::verb::{Lookup, Shape};
use at_protocol::{AtSign, ErrorCode, Verb, base2e15};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

use crate::access::Principal;
use crate::admission::{Held, SMALL};
use crate::node::Node;
use crate::session::{self, Caller};
use crate::verbs::{self, Effect, Whole};

pub use target::{InvalidTarget, Target, Wanted};

/// Most bytes of a request's head; the target has at most a thousand.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers: what browsers send, several times over.
const MAX_HEADERS: usize = 64;
const HOME: &str = "This is an atServer.\n\nIts atSigns' public records are read here: /@<atSign>/<name>, a name's parts \
                    in reverse order, with ?at_rt=meta or all for what is known about them. /ws speaks the \
                    atProtocol over WebSocket.\n";

type Page = Response<Content>;

/// Serves one connection until either side ends it, or `stop`.
pub(crate) async fn serve<S>(stream: S, node: Arc<Node>, caller: Caller, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &node.config.limits.node;
    let upgrade = Mutex::new(None);
    let service = service_fn(|request| async {
        let page = answer(&node, caller.tenant.as_ref(), request, &upgrade).await;
        Ok::<_, Infallible>(page)
    });
    let stream = patience::Patient::new(stream, limits.write);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http_idle)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        served = connection => if let Err(error) = served {
            tracing::debug!(%error, "an HTTP connection broke");
        },
        () = stop.cancelled() => return,
    }
    let agreed = upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Agreed { upgrade, tenant, _held }) = agreed
        && let Ok(upgraded) = upgrade.await
    {
        let stream = socket::Lines::new(TokioIo::new(upgraded)).await;
        let caller = Caller { tenant, ..caller };
        session::serve(stream, Arc::clone(&node), caller, stop).await;
    }
}

/// A connection that is to be a WebSocket.
struct Agreed {
    upgrade: OnUpgrade,
    tenant: Option<AtSign>,
    /// Room for a message.
    _held: Held,
}

async fn answer(
    node: &Node,
    decided: Option<&AtSign>,
    mut request: Request<Incoming>,
    upgrade: &Mutex<Option<Agreed>>,
) -> Page {
    if request.method() != Method::GET {
        let mut page = said(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return page;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let wanted = match Target::parse(target) {
        Ok(Target::Home) => return said(StatusCode::OK, HOME),
        Ok(Target::Record(wanted)) => wanted,
        Ok(Target::Socket) => {
            let tenant = decided.cloned().or_else(|| by_host(node, request.headers()));
            return match accepted(request.headers()) {
                None => said(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket of version 13\n"),
                Some(accept) => match node.admission.room().take(socket::MAX_MESSAGE, false) {
                    None => said(StatusCode::SERVICE_UNAVAILABLE, "too many WebSockets\n"),
                    Some(held) => {
                        let agreed =
                            Agreed { upgrade: hyper::upgrade::on(&mut request), tenant, _held: held };
                        *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(agreed);
                        switching(&accept)
                    }
                },
            };
        }
        Err(error) => return said(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let tenant = decided.cloned().or_else(|| by_host(node, request.headers()));
    let owner = match (tenant, &wanted.owner) {
        (Some(tenant), Some(named)) => Some(tenant).filter(|tenant| tenant == named),
        (tenant, named) => tenant.or_else(|| named.clone()),
    };
    match owner.filter(|owner| node.is_hosted(owner)) {
        Some(owner) => record(node, &owner, wanted).await,
        None => not_found(),
    }
}

/// A public record of a tenant, as it would be looked up by nobody in particular.
async fn record(node: &Node, owner: &AtSign, wanted: Wanted) -> Page {
    let Wanted { name, shape, content_type, .. } = wanted;
    let session = format!("_{}", crate::random::uuid());
    let who = Principal::Anonymous;
    let request = verbs::Request { node, session: &session, tenant: owner, who: &who, now: node.now() };
    // Whether a value is text or bytes stands in its metadata.
    let asked = if shape == Shape::Value { Shape::All } else { shape };
    let lookup = Lookup { name, owner: owner.clone(), shape: asked, bypass_cache: false };
    let Effect::Answer(answer) = verbs::perform(&request, Verb::Lookup(lookup)).await else {
        return not_found();
    };
    let found = match answer {
        Answer::Data(found) => found,
        Answer::Error(failure) if failure.code != ErrorCode::KeyNotFound => {
            return said(StatusCode::INTERNAL_SERVER_ERROR, "the record cannot be read\n");
        }
        Answer::Error(_) | Answer::State(..) | Answer::SpacedData(_) | Answer::Silence => return not_found(),
    };
    // One whose time has not come, or is over.
    if found == "null" {
        return not_found();
    }
    let bytes = if shape == Shape::Value { value(found) } else { Some(found.into_bytes()) };
    let Some(bytes) = bytes else { return not_found() };
    let held = if bytes.len() > SMALL {
        match node.admission.room().take(bytes.len(), false) {
            None => return said(StatusCode::SERVICE_UNAVAILABLE, "the server has no room for this now\n"),
            held @ Some(_) => held,
        }
    } else {
        None
    };
    let mut page = Response::new(Content { bytes: Full::from(bytes), _held: held });
    let media_type = HeaderValue::from_str(&content_type);
    page.headers_mut()
        .insert(CONTENT_TYPE, media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    page.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}

/// What a whole record holds; `None` if its value stands for another's, which is not there.
fn value(whole: String) -> Option<Vec<u8>> {
    let Ok(Whole { data, metadata, .. }) = serde_json::from_str::<Whole>(&whole) else {
        // A server's proof of itself has no metadata (atProtocol wire reference §3.6).
        return Some(whole.into_bytes());
    };
    let data = data?;
    let is_binary = metadata.set.is_binary == Some(true);
    Some(if is_binary { base2e15::decode(&data) } else { data.into_bytes() })
}

/// The tenant that the `Host` header names.
fn by_host(node: &Node, headers: &HeaderMap) -> Option<AtSign> {
    let host = headers.get(HOST)?.to_str().ok()?;
    node.tenant_of_host(host.split(':').next()?)
}

/// The answer to a WebSocket's key (RFC 6455 §4.2.2), if a WebSocket is asked for.
fn accepted(headers: &HeaderMap) -> Option<String> {
    let has = |name: HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    let asked = has(UPGRADE, "websocket") && has(CONNECTION, "upgrade") && has(SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    Some(derive_accept_key(key.as_bytes()))
}

fn switching(accept: &str) -> Page {
    let mut page = said(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = page.headers_mut();
    headers.clear();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    page
}

fn not_found() -> Page {
    said(StatusCode::NOT_FOUND, "404 Not Found\n")
}

fn said(status: StatusCode, text: &str) -> Page {
    let mut page = Response::new(Content { bytes: Full::from(text.to_owned()), _held: None });
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::UPGRADE_REQUIRED {
        page.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        page.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    page
}

/// An answer's bytes, with the room they take until they are sent.
struct Content {
    bytes: Full<Bytes>,
    _held: Option<Held>,
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.bytes).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes.size_hint()
    }
}
