//! Answers those who ask at the socket.

use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::codec::{Framed, LinesCodec};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Answer, Ask, MOST_ASK, Place};
use crate::difference::Difference;
use crate::look::Look;
use crate::standing::Claiming;
use crate::tap::Taps;

/// Who is answered at once; more wait.
const AT_ONCE: usize = 8;
/// How long an asker may take to say what it wants, and to take a line of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure to accept, as when there are no more descriptors.
const BREATH: Duration = Duration::from_secs(1);

/// A reload that somebody waits for.
pub type Reloading = oneshot::Sender<Answer<Difference>>;

/// Answers those who ask at the socket.
pub struct Desk {
    /// Where they come to.
    pub place: Place,
    /// Has the configuration followed. Holds as many as are answered at once.
    pub reload: mpsc::Sender<Reloading>,
    /// Has this box be the gateway, likewise.
    pub claim: mpsc::Sender<Claiming>,
    /// What is shown.
    pub look: Look,
    /// What comes in.
    pub taps: Taps,
}

type Line = Framed<UnixStream, LinesCodec>;

impl Desk {
    /// Answers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.place.listener.accept(), if open.len() < AT_ONCE => match accepted {
                    Ok((stream, _)) => open.push(self.serve(stream)),
                    Err(error) => {
                        warn!(%error, "cannot accept at the control socket");
                        sleep(BREATH).await;
                    }
                },
                Some(()) = open.next() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn serve(&self, stream: UnixStream) {
        let user = stream.peer_cred().map(|peer| peer.uid());
        let mut line = Framed::new(stream, LinesCodec::new_with_max_length(MOST_ASK));
        let Ok(Some(asked)) = timeout(PATIENCE, line.next()).await else { return };
        let ask = match asked {
            Ok(text) => Ask::parse(&text).map_err(|error| error.to_string()),
            Err(error) => Err(format!("not an ask: {error}")),
        };
        match ask {
            Ok(Ask::Reload {}) => {
                let answer = handed_on(&self.reload).await;
                say(&mut line, &answer).await;
            }
            Ok(Ask::Claim {}) => {
                let answer = handed_on(&self.claim).await;
                say(&mut line, &answer).await;
            }
            Ok(Ask::Status {}) => {
                let answer = match self.look.status().await {
                    Ok(status) => Answer::Done(status),
                    Err(error) => Answer::Failed(error.to_string()),
                };
                say(&mut line, &answer).await;
            }
            Ok(Ask::Tap { .. }) if !user.is_ok_and(|user| self.place.may_see_payloads(user)) => {
                let why = "what devices say is shown to root and the agent's user alone; try `sudo`";
                say(&mut line, &Answer::<()>::Refused(why.to_owned())).await;
            }
            Ok(Ask::Tap { of }) => self.tap(&mut line, of.as_deref()).await,
            Err(why) => {
                say(&mut line, &Answer::<()>::Refused(why)).await;
            }
        }
    }

    /// Shows what comes in, until the asker has gone or takes no more.
    async fn tap(&self, line: &mut Line, of: Option<&str>) {
        let Some(mut tap) = self.taps.tap() else {
            let why = "as many look on as may; end another `atedge-agent tap`".to_owned();
            say(line, &Answer::<()>::Failed(why)).await;
            return;
        };
        let mut listens = say(line, &Answer::Done(())).await;
        while listens {
            tokio::select! {
                tapped = tap.next() => match tapped {
                    Some(tapped) if of.is_none_or(|name| tapped.is_of(name)) => {
                        listens = say(line, &*tapped).await;
                    }
                    Some(_) => {}
                    None => return,
                },
                // Whatever is said now says no more than that somebody is there.
                said = line.next() => listens = matches!(said, Some(Ok(_))),
            }
        }
    }
}

/// The answer of whom it is for to decide.
async fn handed_on<T>(to: &mpsc::Sender<oneshot::Sender<Answer<T>>>) -> Answer<T> {
    let (tell, told) = oneshot::channel();
    if to.send(tell).await.is_ok()
        && let Ok(answer) = told.await
    {
        return answer;
    }
    Answer::Failed("the agent is stopping".to_owned())
}

/// Says a line, and whether it was taken. Whoever does not take it has gone.
async fn say(line: &mut Line, answer: &impl Serialize) -> bool {
    let Ok(text) = serde_json::to_string(answer) else { return false };
    match timeout(PATIENCE, line.send(text)).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => debug!(%error, "an asker has gone"),
        Err(_) => debug!("an asker does not listen"),
    }
    false
}
