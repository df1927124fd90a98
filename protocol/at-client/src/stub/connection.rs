//! One connection to the server of the town.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use at_protocol::line::{Line, LineSplitter, MAX_AUTHENTICATED};
use at_protocol::session::server::{Action, ServerSession};
use at_protocol::{Response, Verb};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::world::{Fault, When, World};

/// Serves until either end closes. The world's lock is never held while waiting.
pub(super) async fn serve<S>(mut stream: S, world: Arc<Mutex<World>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let id = format!("_{}", world.lock().unwrap().next_number());
    let mut session = ServerSession::new(id, None, Instant::now());
    let mut lines = LineSplitter::new(MAX_AUTHENTICATED);
    let (push, mut pushed) = mpsc::unbounded_channel::<String>();
    let mut buffer = vec![0; 16 * 1024];
    if stream.write_all(ServerSession::greeting().as_bytes()).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            Some(text) = pushed.recv() => {
                if text == World::HANG_UP || stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            read = stream.read(&mut buffer) => match read {
                Ok(size) if size > 0 => lines.feed(&buffer[..size]),
                _ => return,
            }
        }
        while let Ok(Some(line)) = lines.next_line() {
            let Line::Text(text) = line else { return };
            let fault = world.lock().unwrap().heard(&text);
            if let Some(Fault { when: When::Before, .. }) = fault {
                return;
            }
            if let Some(Fault { when: When::Hang, .. }) = fault {
                std::future::pending::<()>().await;
            }
            let answer = {
                let mut world = world.lock().unwrap();
                let proof = world.next_number().to_string();
                let action = session.on_line(Line::Text(text), &proof, &*world, Instant::now());
                perform(&mut world, &mut session, action, &push)
            };
            if let Some(Fault { when: When::After, .. }) = fault {
                return;
            }
            let (text, close) = match answer {
                Action::Send(text) => (text, false),
                Action::SendAndClose(text) => (text, true),
                Action::Close | Action::Apply { .. } | Action::Verify { .. } => return,
            };
            if stream.write_all(text.as_bytes()).await.is_err() || close {
                return;
            }
        }
    }
}

fn perform(
    world: &mut World,
    session: &mut ServerSession,
    action: Action,
    push: &mpsc::UnboundedSender<String>,
) -> Action {
    match action {
        Action::Verify { tenant, challenge, proof } => {
            let verdict = world.verify(&tenant, challenge, &proof);
            session.on_verdict(verdict)
        }
        Action::Apply { tenant, verb: Verb::Monitor(monitor), .. } => {
            if !world.prompts_on_monitors {
                session.start_monitoring();
            }
            match world.subscribe(&tenant, &monitor, push.clone()) {
                Ok(()) => session.answer(&Response::Silence),
                Err(failure) => session.answer(&Response::Error(failure)),
            }
        }
        Action::Apply { tenant, who, verb } => {
            let response = world.apply(&tenant, &who, verb).unwrap_or_else(Response::Error);
            session.answer(&response)
        }
        said @ (Action::Send(_) | Action::SendAndClose(_) | Action::Close) => said,
    }
}
