//! Who speaks: the gateway, and the devices that have an atSign of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use at_client::{Client, Envelopes, Identity, TrustedTime};
use at_protocol::AtSign;
use at_protocol::caps::Claims;
use atedge_adapters::DeviceName;
use tokio::sync::{mpsc, watch};
use tracing::error;

use crate::clock::{Clock as _, SystemClock};
use crate::commands::Request;
use crate::config::AgentConfig;
use crate::connect::Way;
use crate::keys::{self, IDENTITY, KeysError};
use crate::link::ClientRoad;
use crate::outbox::{Outbox, Share};
use crate::reach::{Counted, Reach};
use crate::seal::Seal;
use crate::standing::{Guard, Guarded};
use crate::uplink::SendRules;
use crate::voice::{Voice, Voices};

/// In the state folder: what is known of readers.
const CAPS: &str = "caps.jsonl";
/// Connections of the gateway's own atSign, which speaks for many devices. There is more than one only while much is
/// sent; more than these bring little, and each has its buffers.
const CONNECTIONS: usize = 4;
/// What the agent announces: it takes receipts, and sends none.
const CLAIMS: Claims = Claims { receipts: false, aead: true, zstd: true };

/// A client of an atSign, and the key by which the agent vouches for what it sends as that.
pub(super) type Speaker = (Client, Identity);

/// Who speaks.
pub(super) struct Speakers {
    pub(super) gateway: Speaker,
    /// Those of the devices that have an atSign of their own; or why one cannot speak.
    own: BTreeMap<DeviceName, Result<Speaker, KeysError>>,
}

/// What all of them speak with.
pub(super) struct Means {
    pub(super) outbox: Outbox,
    pub(super) state: PathBuf,
    pub(super) clock: Arc<SystemClock>,
    pub(super) rules: watch::Receiver<SendRules>,
    pub(super) namespace: String,
    pub(super) guard: Arc<Guard>,
    /// Counts the receipts of all.
    pub(super) receipts: Arc<AtomicU64>,
    /// Where requests to any of them go.
    pub(super) requests: mpsc::Sender<Request>,
}

/// Everybody's voice.
pub(super) struct Spoken {
    pub(super) gateway: Voice<SystemClock>,
    /// Those of the devices that can speak.
    pub(super) own: BTreeMap<DeviceName, Voice<SystemClock>>,
    /// Each device's atSign, and whether it is let in; also of those that cannot speak.
    pub(super) reaches: BTreeMap<DeviceName, (AtSign, Arc<Reach>)>,
}

impl Speakers {
    /// All of the configuration's, of which only the gateway must have its keys.
    pub(super) fn of(config: &AgentConfig, state: &Path, way: &Way, seal: &Seal) -> Result<Self, KeysError> {
        let speaker = |atsign, source, identity: &str, connections| {
            let client = way.client(atsign, source, Some(seal), connections)?;
            Ok((client, keys::identity(&state.join(identity), seal, CLAIMS)?))
        };
        let gateway = speaker(&config.gateway.atsign, &config.gateway.keys, IDENTITY, CONNECTIONS)?;
        let own = config.device.iter().map(|(name, device)| {
            (name.clone(), speaker(&device.atsign, &device.keys, &format!("identity.{name}.pem"), 1))
        });
        Ok(Self { gateway, own: own.collect() })
    }

    /// Gives each its voice. What one that cannot speak would say waits in the queue.
    pub(super) fn speak(self, config: &AgentConfig, means: &Means) -> anyhow::Result<Spoken> {
        let gateway = means.voice(means.outbox.clone(), self.gateway, CAPS, Arc::default())?;
        let (mut own, mut reaches) = (BTreeMap::new(), BTreeMap::new());
        for (device, speaker) in self.own {
            let reach = Arc::<Reach>::default();
            match speaker {
                Ok(speaker) => {
                    let (share, known) = (Share::Of(device.clone()), format!("caps.{device}.jsonl"));
                    let outbox = means.outbox.share(share);
                    own.insert(device.clone(), means.voice(outbox, speaker, &known, Arc::clone(&reach))?);
                }
                Err(error) => {
                    error!(%device, "{error}; its readings wait until the agent starts with keys, the others go on");
                    reach.no(means.clock.now().wall_ms(), error.to_string());
                }
            }
            let atsign = config.device[&device].atsign.clone();
            reaches.insert(device, (atsign, reach));
        }
        Ok(Spoken { gateway, own, reaches })
    }
}

impl Means {
    fn voice(
        &self,
        outbox: Outbox,
        (client, identity): Speaker,
        known: &str,
        reach: Arc<Reach>,
    ) -> anyhow::Result<Voice<SystemClock>> {
        let (known, time) = (self.state.join(known), Arc::clone(&self.clock) as Arc<dyn TrustedTime>);
        let envelopes = Envelopes::on_time(client, Some(identity), Some(known), Some(time));
        let (rules, namespace) = (self.rules.clone(), self.namespace.clone());
        let sealing = ClientRoad { envelopes: envelopes.clone(), rules, namespace };
        let road = Guarded { road: sealing, guard: Arc::clone(&self.guard) };
        Ok(Voice {
            outbox,
            envelopes,
            road: Counted { road, reach, clock: Arc::clone(&self.clock) },
            rules: self.rules.clone(),
            namespace: self.namespace.clone(),
            receipts: Arc::clone(&self.receipts),
            requests: self.requests.clone(),
            seed: seed()?,
        })
    }
}

impl Spoken {
    /// The way out of each.
    pub(super) fn roads(&self) -> Voices<Counted<Guarded<ClientRoad>, SystemClock>> {
        Voices {
            gateway: self.gateway.road.clone(),
            own: self.own.iter().map(|(device, voice)| (device.clone(), voice.road.clone())).collect(),
        }
    }

    /// How many receipts to each were not known to be genuine.
    pub(super) fn refusals(&self) -> Vec<Arc<AtomicU64>> {
        let all = std::iter::once(&self.gateway).chain(self.own.values());
        all.map(|voice| voice.envelopes.refusals()).collect()
    }
}

/// For jitter.
fn seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("draw a random number")?;
    Ok(u64::from_ne_bytes(bytes))
}
