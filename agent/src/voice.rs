//! An atSign that the agent speaks as: the gateway's, or that of a device. Each sends, listens and announces by itself,
//! so that one that is not let in holds up nobody else; all of them share one connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use at_client::{Client, Envelopes};
use at_protocol::AtSign;
use atedge_adapters::DeviceName;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::Clock;
use crate::commands::Request;
use crate::link::{ClientRoad, Ear, announce};
use crate::outbox::Outbox;
use crate::payload::NoteId;
use crate::reach::{Counted, Reach, ServerStatus};
use crate::standing::Guarded;
use crate::uplink::{Note, NoteStatus, Road, RoadError, SendRules, Uplink};

/// Receipts, and requests, that wait to be dealt with; when there are this many, nothing more is heard.
pub const HEARD: usize = 64;
/// How long what waits may take to be sent and answered once the agent is to stop.
pub const GRACE: Duration = Duration::from_secs(5);
/// First and longest pause before an atSign that is not let in is tried again: seldom, so that its server does not take
/// the gateway for somebody who guesses.
const KNOCK: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];

/// What one atSign needs to be spoken as.
pub struct Voice<C> {
    /// The queue: the share of it that goes out as this atSign.
    pub outbox: Outbox,
    /// How it is said and heard.
    pub envelopes: Envelopes,
    /// The way out, guarded: this box must be alone to speak as the gateway, or as any of its devices.
    pub road: Counted<Guarded<ClientRoad>, C>,
    /// How the streams are sent, and to whom.
    pub rules: watch::Receiver<SendRules>,
    /// The last part of key names.
    pub namespace: String,
    /// Counts the receipts.
    pub receipts: Arc<AtomicU64>,
    /// Where requests go.
    pub requests: mpsc::Sender<Request>,
    /// Seed of the jitter.
    pub seed: u64,
}

impl<C> Voice<C> {
    /// Its client, and whether that is let in.
    pub fn client(&self) -> (Client, Arc<Reach>) {
        (self.envelopes.client().clone(), Arc::clone(&self.road.reach))
    }
}

impl<C: Clock> Voice<C> {
    /// Listens until `quiet`, and sends until `stop` and a little longer.
    ///
    /// # Errors
    /// When the outbox no longer answers.
    pub async fn speak(self, quiet: CancellationToken, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { outbox, envelopes, road, rules, namespace, receipts, requests, seed } = self;
        let (to_uplink, heard) = mpsc::channel(HEARD);
        let ear = Ear {
            envelopes: envelopes.clone(),
            rules: rules.clone(),
            outbox: outbox.clone(),
            guard: Arc::clone(&road.road.guard),
            namespace: namespace.clone(),
            receipts: to_uplink,
            requests,
        };
        let uplink = Uplink { outbox, road, namespace, rules, seed, receipts };
        let send = async { uplink.run(heard, stop, GRACE).await.context("send") };
        let listen = async { ear.run(quiet.clone()).await.context("listen") };
        let announce = async {
            announce(&envelopes, quiet.clone()).await;
            Ok(())
        };
        tokio::try_join!(send, listen, announce).map(|((), (), ())| ())
    }

    /// The same for the atSign of `device`, once its atServer lets it in. What waits for that, waits in the queue.
    ///
    /// # Errors
    /// As [`Self::speak`].
    pub async fn speak_for(
        self,
        device: DeviceName,
        quiet: CancellationToken,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let [mut pause, longest] = KNOCK;
        let client = self.envelopes.client().clone();
        loop {
            let connected = tokio::select! {
                connected = client.connect() => connected,
                () = quiet.cancelled() => return Ok(()),
            };
            let now_ms = self.road.clock.now().wall_ms();
            match connected {
                Ok(()) => {
                    self.road.reach.yes(now_ms);
                    break;
                }
                Err(error) => {
                    self.road.reach.no(now_ms, error.to_string());
                    if error.is_transient() {
                        break;
                    }
                    warn!(%device, "{error}; its readings wait, the others go on");
                }
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(longest),
                () = quiet.cancelled() => return Ok(()),
            }
        }
        self.speak(quiet, stop).await
    }
}

/// The ways out of all atSigns: what a device says goes out as the one that is its own.
pub struct Voices<R> {
    /// The gateway's.
    pub gateway: R,
    /// Those of the devices that have one.
    pub own: BTreeMap<DeviceName, R>,
}

impl<R: Road + Sync> Road for Voices<R> {
    async fn notify(&self, note: Note<'_>) -> Result<(), RoadError> {
        self.own.get(note.device).unwrap_or(&self.gateway).notify(note).await
    }

    async fn status(&self, id: &NoteId) -> Result<NoteStatus, RoadError> {
        self.gateway.status(id).await
    }
}

/// Devices with an atSign of their own, for whoever looks.
pub type Own = Arc<BTreeMap<DeviceName, (AtSign, Arc<Reach>)>>;

/// How it goes with the atSign of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoiceStatus {
    /// The atSign.
    pub atsign: AtSign,
    /// Its atServer.
    pub server: ServerStatus,
}
