//! A desk, asked over its socket.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::caller::{Call, CallError};
use super::*;
use crate::clock::{Clock as _, SystemClock};
use crate::difference::Difference;
use crate::look::{Look, Status};
use crate::outbox::{Durability, Opened, Outbox, OutboxOptions, Trouble};
use crate::standing::{Claimed, Claiming, Standing};
use crate::tally::{State, Tallies};
use crate::tap::{Tapped, Taps};
use crate::voice::Own;

struct Bench {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    reloads: mpsc::Receiver<Reloading>,
    claims: mpsc::Receiver<Claiming>,
    stop: CancellationToken,
    desk: JoinHandle<()>,
    look: Look,
    taps: Taps,
}

/// A look at an agent that does nothing, with its queue in `folder`.
pub(crate) fn look(folder: &Path) -> Look {
    let clock = Arc::new(SystemClock::start());
    let options = OutboxOptions::new(folder, BTreeMap::new());
    let options = OutboxOptions { durability: Durability::None, ..options };
    let Opened { outbox, .. } = Outbox::open(options, clock.now()).unwrap();
    Look {
        gateway: "@gw".parse().unwrap(),
        clock,
        boot: outbox.boot(),
        folder: folder.to_owned(),
        tallies: Tallies::default(),
        reach: Arc::default(),
        receipts: Arc::default(),
        own: Own::default(),
        receipts_refused: Vec::new(),
        trouble: Trouble::default(),
        handled: Arc::default(),
        standing: watch::channel(Standing::default()).1,
    }
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let (reload, reloads) = mpsc::channel(1);
    let (claim, claims) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let (look, taps) = (look(folder.path()), Taps::default());
    let place = Place::take(socket.clone()).unwrap();
    let desk = Desk { place, reload, claim, look: look.clone(), taps: taps.clone() };
    let desk = tokio::spawn(desk.run(stop.clone()));
    Bench { _folder: folder, socket, reloads, claims, stop, desk, look, taps }
}

/// What is answered to these bytes.
fn answered(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(bytes).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[tokio::test]
async fn a_reload_is_answered_when_it_is_over() {
    let Bench { socket, mut reloads, stop, desk, _folder, .. } = bench();
    let ask = |socket: PathBuf| move || Call::new(&socket, &Ask::Reload {})?.answer::<Difference>();
    let asked = spawn_blocking(ask(socket.clone()));
    let difference = Difference { outbox: true, ..Difference::default() };
    let waiting = reloads.recv().await.unwrap();
    waiting.send(Answer::Done(difference.clone())).unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), Answer::Done(difference));

    let asked = spawn_blocking(ask(socket.clone()));
    drop(reloads.recv().await.unwrap());
    let failed = Answer::Failed("the agent is stopping".to_owned());
    assert_eq!(asked.await.unwrap().unwrap(), failed);

    stop.cancel();
    desk.await.unwrap();
    let down = spawn_blocking(ask(socket)).await.unwrap();
    assert!(matches!(down, Err(CallError::Down { .. })), "{down:?}");
}

#[tokio::test]
async fn a_claim_is_answered_by_whom_it_is_for() {
    let Bench { socket, mut claims, look, _folder, .. } = bench();
    let asked = spawn_blocking(move || Call::new(&socket, &Ask::Claim {})?.answer::<Claimed>());
    let claimed = Claimed { boot: look.boot };
    claims.recv().await.unwrap().send(Answer::Done(claimed)).unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), Answer::Done(claimed));
}

#[tokio::test]
async fn nonsense_is_refused_and_never_collected() {
    let Bench { socket, _folder, .. } = bench();
    for line in [
        b"hello\n".to_vec(),
        b"{\"ask\":\"explode\"}\n".to_vec(),
        vec![b'a'; MOST_ASK + 1],
        vec![0xff, b'\n'],
    ] {
        let socket = socket.clone();
        let answer = spawn_blocking(move || answered(&socket, &line)).await.unwrap();
        assert!(answer.starts_with(r#"{"refused":"not an ask"#), "{answer}");
    }
}

#[tokio::test]
async fn askers_who_say_nothing_keep_nobody_out_for_long() {
    let Bench { socket, mut reloads, _folder, .. } = bench();
    let silent: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    drop(silent);
    let asked = spawn_blocking(move || Call::new(&socket, &Ask::Reload {})?.answer::<Difference>());
    reloads.recv().await.unwrap().send(Answer::Done(Difference::default())).unwrap();
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_status_says_how_all_parts_are() {
    let Bench { socket, look, _folder, .. } = bench();
    look.tallies.of("shop").reached();
    look.tallies.of("scale").unreached(1, "unplugged".to_owned());
    look.reach.no(1, "no route to host".to_owned());
    let asked = spawn_blocking(move || Call::new(&socket, &Ask::Status {})?.answer::<Status>());
    let Answer::Done(status) = asked.await.unwrap().unwrap() else { panic!("it was not done") };
    assert_eq!((status.gateway.as_str(), status.version.as_str()), ("gw", env!("CARGO_PKG_VERSION")));
    assert_eq!(status.boot, look.boot.to_string());
    assert_eq!(status.adapters["shop"].state, State::Running);
    assert_eq!(status.adapters["scale"].why.as_deref(), Some("unplugged"));
    assert_eq!(status.server.why.as_deref(), Some("no route to host"));
    assert!(status.memory_kib > Some(1000));
    assert_eq!(status.queue.records, 0);
}

#[tokio::test]
async fn a_tapper_sees_what_it_asked_for_and_is_waited_for_by_nobody() {
    let Bench { socket, taps, stop, desk, _folder, .. } = bench();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let tapper = spawn_blocking(move || {
        let mut call = Call::new(&socket, &Ask::Tap { of: Some("shop".to_owned()) }).unwrap();
        assert_eq!(call.answer::<()>().unwrap(), Answer::Done(()));
        begun.send(()).unwrap();
        let first = call.next_line::<Tapped>().unwrap().unwrap();
        let mut seen = 0;
        // Reads on until the agent ends.
        while call.next_line::<Tapped>().unwrap().is_some() {
            seen += 1;
        }
        (first, seen)
    });
    has_begun.await.unwrap();
    taps.refused("scale", None, 1, "not asked for");
    // Far more than a socket holds, and none of it waits.
    for time in 0..100_000 {
        taps.refused("shop", None, time, "no route");
        if time % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    stop.cancel();
    desk.await.unwrap();
    let (first, seen) = tapper.await.unwrap();
    assert_eq!(
        first,
        Tapped::Refused { adapter: "shop".into(), device: None, time_ms: 0, why: "no route".into() }
    );
    assert!(seen > 0, "and more");
}
