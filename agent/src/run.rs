//! The running agent: its tasks, and how they end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use at_client::{
    Client, ClientConfig, ClientTls, ConnectError, Dialer, Directory, Envelopes, Identity, Trust, TrustedTime,
};
use at_protocol::caps::Claims;
use atedge_adapters::{AdapterError, Captured, Command};
use atedge_service::{Notifier, OneLine};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::{Clock, SystemClock};
use crate::commands::{CommandName, Commands, Rule};
use crate::config::AgentConfig;
use crate::intake::Intake;
use crate::keys;
use crate::link::{ClientRoad, Ear, announce};
use crate::outbox::{Opened, Outbox};
use crate::payload::ClockState;
use crate::records::RecordFile;
use crate::uplink::Uplink;

/// Captures between the adapters and the intake; when there are this many, adapters stop reading.
const CAPTURES: usize = 256;
/// Commands between us and an adapter; one more is refused.
const COMMANDS: usize = 16;
/// Receipts, and requests, that wait to be dealt with; when there are this many, nothing more is heard.
const HEARD: usize = 64;
/// How long what waits may take to be stored, sent and answered once the agent is to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long the farewell to the atServer may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// In the state folder: the directory's records that were believed.
const RECORDS: &str = "records.jsonl";
/// In the state folder: the key by which the agent vouches for what it sends.
const IDENTITY: &str = "identity.pem";
/// In the state folder: what is known of readers.
const CAPS: &str = "caps.jsonl";
/// What the agent announces: it takes receipts, and sends none.
const CLAIMS: Claims = Claims { receipts: false, aead: true, zstd: true };
/// How often a clock that is not right is looked at.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
/// How often the outbox is cleared of what is too old.
const KEEP: Duration = Duration::from_secs(60);

/// What to run.
pub struct Agent {
    /// The configuration, checked.
    pub config: AgentConfig,
    /// The declared commands, checked.
    pub rules: BTreeMap<CommandName, Rule>,
    /// The folder of the outbox.
    pub state: PathBuf,
}

impl Agent {
    /// Runs until `stop`, then ends in the order of the flow: the adapters stop, what they captured is
    /// stored, what is stored is sent as far as that goes quickly, the outbox is closed.
    ///
    /// # Errors
    /// When the outbox cannot be opened or fails, an adapter gives up, or our atServer does not accept us
    /// and waiting will not change that.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let clock = Arc::new(SystemClock::start());
        let client = self.client(&clock)?;
        let opened = Outbox::open(self.config.outbox_options(self.state.clone()), clock.now())?;
        let Opened { outbox, thread, salvaged } = opened;
        if let Some(saved) = salvaged {
            warn!(records = saved.records, damaged = %saved.moved_to.display(), "went on with what was saved");
        }
        if let Some(seen) = outbox.seen_s().await.context("ask the outbox what time it was")? {
            clock.not_before(seen);
        }
        info!(boot = %outbox.boot(), gateway = %self.config.gateway.atsign, "the outbox is open");
        let dialer = client.config().dialer.clone();
        let result = self.run_with(outbox, client, clock, stop).await;
        dialer.close(FAREWELL).await;
        tokio::task::spawn_blocking(move || thread.join()).await.context("close the outbox")?;
        result
    }

    fn client(&self, clock: &Arc<SystemClock>) -> anyhow::Result<Client> {
        let gateway = &self.config.gateway;
        let trust = Trust::System { and: gateway.ca.clone() };
        let tls = ClientTls::with_time(&trust, Arc::clone(clock) as Arc<dyn TrustedTime>)?;
        let keys = Arc::new(keys::load(&gateway.keys)?);
        let mut directory = Directory::new(gateway.directory.clone(), tls.clone());
        let registrars = gateway.registrars();
        if !registrars.is_empty() {
            let file = RecordFile::open(self.state.join(RECORDS));
            directory = directory.trusting(registrars, file.records(), Arc::new(file));
        }
        let dialer = Dialer::new(tls, gateway.transport);
        Ok(Client::new(ClientConfig {
            atsign: gateway.atsign.clone(),
            keys,
            directory: Arc::new(directory),
            dialer,
        }))
    }

    /// All tasks. The first that fails stops the others and is the error returned.
    async fn run_with(
        self,
        outbox: Outbox,
        client: Client,
        clock: Arc<SystemClock>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let namespace = self.config.gateway.namespace.as_str().to_owned();
        let identity = Identity::open(&self.state.join(IDENTITY), "agent", CLAIMS)?;
        let known = Some(self.state.join(CAPS));
        let time = Some(Arc::clone(&clock) as Arc<dyn TrustedTime>);
        let envelopes = Envelopes::on_time(client.clone(), Some(identity), known, time);
        let road = ClientRoad {
            envelopes: envelopes.clone(),
            needs: Arc::new(self.config.needs()),
            namespace: namespace.clone(),
        };
        let (to_intake, captured) = mpsc::channel(CAPTURES);
        let (to_uplink, receipts) = mpsc::channel(HEARD);
        let (to_commands, requests) = mpsc::channel(HEARD);
        // Each stage stops when the one before it has ended.
        let (adapters_stop, uplink_stop) = (stop.child_token(), CancellationToken::new());

        let streams = self.config.stream.keys().cloned().collect();
        let stream_rules = self.config.stream_rules();
        let (mut adapters, orders) = start_adapters(&self.config, &to_intake, &adapters_stop)?;
        drop(to_intake);

        let intake = Intake { outbox: outbox.clone(), clock: Arc::clone(&clock), streams };
        let mut intake = tokio::spawn(intake.run(captured));
        let mut stages = JoinSet::new();
        let seed = seed()?;
        let uplink = Uplink {
            outbox: outbox.clone(),
            road: road.clone(),
            namespace: namespace.clone(),
            streams: stream_rules,
            drain: self.config.outbox.drain.rules(),
            seed,
        };
        let stop_uplink = uplink_stop.clone();
        stages.spawn(async move { uplink.run(receipts, stop_uplink, GRACE).await.context("send") });
        let ear = Ear {
            envelopes: envelopes.clone(),
            readers: Arc::new(self.config.readers()),
            outbox: outbox.clone(),
            namespace: namespace.clone(),
            receipts: to_uplink,
            requests: to_commands,
        };
        let stop_ear = adapters_stop.clone();
        stages.spawn(async move { ear.run(stop_ear).await.context("listen") });
        let commands = Commands {
            outbox: outbox.clone(),
            road,
            clock: Arc::clone(&clock),
            rules: self.rules,
            adapters: orders,
            namespace,
        };
        stages.spawn(async move { commands.run(requests).await.context("carry out commands") });
        let (kept, stop_keeper, kept_by) = (outbox.clone(), adapters_stop.clone(), Arc::clone(&clock));
        stages.spawn(async move { keep(&kept, &*kept_by, stop_keeper).await.context("clear the outbox") });
        let (clocked, stop_clock, watched) = (outbox.clone(), adapters_stop.clone(), Arc::clone(&clock));
        stages.spawn(
            async move { set_right(&clocked, &*watched, stop_clock).await.context("set times right") },
        );
        let stop_announcing = adapters_stop.clone();
        stages.spawn(async move {
            announce(&envelopes, stop_announcing).await;
            Ok(())
        });
        let stop_first = adapters_stop.clone();
        stages.spawn(async move { first_connection(&client, stop_first).await });
        let watchdog = tokio::spawn(Notifier.watchdog(uplink_stop.clone()));
        Notifier.ready();

        let failed = outbox.failed();
        let mut result = tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = failed.cancelled() => Err(anyhow::anyhow!("the outbox is damaged; the next start moves it away")),
            Some(ended) = adapters.join_next() => ended.context("an adapter panicked").and_then(|ended| Ok(ended?)),
            result = first_failure(&mut stages) => result,
        };
        Notifier.stopping();
        info!("stopping");
        adapters_stop.cancel();
        while let Some(ended) = adapters.join_next().await {
            note(&mut result, ended.context("an adapter panicked").and_then(|ended| Ok(ended?)));
        }
        if timeout(GRACE, &mut intake).await.is_err() {
            warn!("some readings could not be stored in time; their senders still have them");
            intake.abort();
        }
        uplink_stop.cancel();
        drop(outbox);
        let drained = timeout(GRACE + GRACE, async {
            while let Some(ended) = stages.join_next().await {
                note(&mut result, ended.context("a task panicked").and_then(|ended| ended));
            }
        });
        if drained.await.is_err() {
            warn!("not everything ended in time");
            stages.shutdown().await;
        }
        watchdog.await.ok();
        result
    }
}

type Adapters = JoinSet<Result<(), AdapterError>>;

/// Starts what is configured; returns the ways to order something of each.
fn start_adapters(
    config: &AgentConfig,
    to_intake: &mpsc::Sender<Captured>,
    stop: &CancellationToken,
) -> anyhow::Result<(Adapters, BTreeMap<String, mpsc::Sender<Command>>)> {
    let mut adapters = JoinSet::new();
    let mut orders = BTreeMap::new();
    for (name, config) in &config.adapter {
        let adapter = config.clone().build(name)?;
        let (order, ordered) = mpsc::channel(COMMANDS);
        adapters.spawn(adapter.run(to_intake.clone(), ordered, stop.clone()));
        orders.insert(name.clone(), order);
    }
    Ok((adapters, orders))
}

/// Waits until a stage fails; those that end well are waited for no longer.
async fn first_failure(stages: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = stages.join_next().await {
        ended.context("a task panicked")??;
    }
    Ok(())
}

/// Keeps the first error; the log has the others.
fn note(result: &mut anyhow::Result<()>, ended: anyhow::Result<()>) {
    match ended {
        Err(error) if result.is_ok() => *result = Err(error),
        Err(error) => error!("{}", OneLine(error.as_ref())),
        Ok(()) => {}
    }
}

/// Clears the outbox every minute, and the commands' records with it.
async fn keep(
    outbox: &Outbox,
    clock: &impl Clock,
    stop: CancellationToken,
) -> Result<(), crate::outbox::OutboxError> {
    let mut ticks = interval(KEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let now = clock.now();
                let expired = outbox.expire(now).await?;
                if expired.records > 0 {
                    warn!(records = expired.records, "records were not confirmed in time and are lost");
                }
                if expired.passed_over > 0 {
                    warn!(records = expired.passed_over, "silent readers were passed over; `queue stat` says which");
                }
                outbox.forget_commands(now.wall_ms()).await?;
            }
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Where the clock is not right at the start, waits until it is, and sets right what was taken meanwhile.
async fn set_right(
    outbox: &Outbox,
    clock: &impl Clock,
    stop: CancellationToken,
) -> Result<(), crate::outbox::OutboxError> {
    let mut now = clock.now();
    if now.state == ClockState::Sync {
        return Ok(());
    }
    warn!("the clock of this machine is not set; times are repaired when it is");
    let mut ticks = interval(LOOK_AT_CLOCK);
    while now.state == ClockState::Free {
        tokio::select! {
            _ = ticks.tick() => now = clock.now(),
            () = stop.cancelled() => return Ok(()),
        }
    }
    info!("the clock is set; times since the start are repaired");
    outbox.synchronised(now).await
}

/// Signs in once at the start, to say early and clearly what no waiting will mend. What may mend itself,
/// such as a directory that does not answer, is said and left to the uplink.
async fn first_connection(client: &Client, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        connected = client.connect() => match connected {
            Ok(()) => {
                info!("signed in");
                Notifier.status("signed in");
            }
            Err(error) if error.is_transient() => say_unreachable(&error),
            Err(error) => bail!(error),
        },
        () = stop.cancelled() => {}
    }
    Ok(())
}

fn say_unreachable(error: &ConnectError) {
    warn!("{error}; keeping what comes in, and trying again");
    Notifier.status("not connected; keeping what comes in");
}

/// For jitter.
fn seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("draw a random number")?;
    Ok(u64::from_ne_bytes(bytes))
}
