//! `stream`: announces, takes and ends streams (atProtocol wire reference §4.22). What flows is the
//! session's affair.

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Announcement, Notify, Stream};
use at_protocol::{AtKey, AtSign, ErrorCode};

use super::notify::notification;
use super::{Effect, Request};
use crate::access::{Principal, stream_key};

pub(super) async fn perform(request: &Request<'_>, stream: Stream) -> Result<Effect, Failure> {
    let streams = &request.node.streams;
    match stream {
        Stream::Init(announced) => {
            let Announcement { receiver, namespace, start_byte: _, id, file, length } = *announced;
            let most = request.node.config.streams.per_tenant;
            let sending = streams.announce(request.tenant, sender(request), &id, most).ok_or_else(unknown)?;
            let key = stream_key("stream_id", sender(request), namespace.as_ref(), &receiver);
            notify(request, receiver, &key, format!("{id}:{file}:{length}")).await?;
            Ok(Effect::Offer(Box::new(sending)))
        }
        Stream::Resume { receiver, id, start_byte } => {
            let key = stream_key("stream_resume", sender(request), None, &receiver);
            notify(request, receiver, &key, format!("{id}:{start_byte}")).await?;
            Ok(Effect::Answer(Response::Silence))
        }
        Stream::Receive { id } => {
            streams.receive(request.tenant, &id).map(Effect::Receive).ok_or_else(unknown)
        }
        Stream::Done { id } => {
            if streams.finish(request.tenant, &id) {
                Ok(Effect::Leave)
            } else {
                Err(unknown())
            }
        }
    }
}

fn unknown() -> Failure {
    Failure::new(ErrorCode::NotAuthenticated, "Invalid stream id")
}

/// Who announces: the tenant, or the atSign whose server is connected.
fn sender<'a>(request: &Request<'a>) -> &'a AtSign {
    match request.who {
        Principal::Peer(peer) => peer,
        Principal::Anonymous | Principal::Activation | Principal::Owner | Principal::Enrolled(_) => {
            request.tenant
        }
    }
}

async fn notify(request: &Request<'_>, receiver: AtSign, key: &AtKey, value: String) -> Result<(), Failure> {
    let from = sender(request);
    let notify = Notify::of(receiver, key.name(), from.clone(), Some(value));
    let mut made = notification(request, from, notify)?;
    made.is_encrypted = false;
    let store = &request.node.store;
    let taken =
        if from == request.tenant { store.send(made, request.now) } else { store.receive(made, request.now) };
    taken.await?;
    Ok(())
}
