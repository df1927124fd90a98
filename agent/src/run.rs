//! The running agent: its tasks, and how they end.

mod speakers;

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use at_client::{Client, ConnectError, TrustedTime};
use atedge_service::{Notifier, OneLine, give_back_code, give_back_freed};
use speakers::{Means, Speakers, Spoken};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, SystemClock};
use crate::commands::{Commands, Declared, Handled};
use crate::config::{AgentConfig, Loaded, MetricsConfig};
use crate::connect::Way;
use crate::control::{Answer, Desk, Place, Reloading};
use crate::field::Field;
use crate::keys::{self, KeysError};
use crate::latest::Publisher;
use crate::look::Look;
use crate::metrics::MetricsServer;
use crate::outbox::{Expired, Opened, Outbox};
use crate::payload::ClockState;
use crate::reach::Reach;
use crate::reload::{Following, ReloadError};
use crate::seal::{Seal, file};
use crate::standing::Guard;
use crate::voice::{GRACE, HEARD, Own, Voice};

/// How often a clock that is not right is looked at.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);
/// After the start what it has run is given back, and again after each of these pauses.
const SETTLED: Duration = Duration::from_secs(5);
const SETTLE_AGAIN: Duration = Duration::from_secs(600);

/// What to run.
pub struct Agent {
    /// The configuration, checked.
    pub loaded: Loaded,
    /// Its main file, to read it again from.
    pub config: PathBuf,
    /// The folder of the outbox.
    pub state: PathBuf,
    /// Has the configuration read again; none where the signal means something else.
    pub hangup: Option<Signal>,
    /// Where the person at the gateway asks for this agent.
    pub socket: PathBuf,
}

impl Agent {
    /// Runs until `stop`, then ends in the order of the flow: the adapters stop, what they captured is
    /// stored, what is stored is sent as far as that goes quickly, the outbox is closed.
    ///
    /// # Errors
    /// When the outbox cannot be opened or fails, or our atServer does not accept us
    /// and waiting will not change that.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let clock = Arc::new(SystemClock::start());
        let time = Arc::clone(&clock) as Arc<dyn TrustedTime>;
        let config = &self.loaded.config;
        let way = Way::new(&config.gateway, &self.state, time, |file| Arc::new(file))?;
        let opened = Outbox::open(config.outbox_options(self.state.clone()), clock.now())?;
        let Opened { outbox, thread, salvaged, seal } = opened;
        let speakers = Speakers::of(config, &self.state, &way, &seal)?;
        if let Err(error) = keep_sealed(config, &self.state, &seal) {
            warn!("{}; the next start tries again", OneLine(error.as_ref()));
        }
        if let Some(saved) = &salvaged {
            warn!(records = saved.records, damaged = %saved.moved_to.display(), "went on with what was saved");
        }
        if let Some(seen) = outbox.seen_s().await.context("ask the outbox what time it was")? {
            clock.not_before(seen);
        }
        info!(boot = %outbox.boot(), gateway = %self.loaded.config.gateway.atsign, "the outbox is open");
        let guard = Guard::new(speakers.gateway.0.clone(), outbox.clone(), salvaged.is_some());
        let result = self.run_with(outbox, speakers, Arc::new(guard), clock, stop).await;
        way.close().await;
        tokio::task::spawn_blocking(move || thread.join()).await.context("close the outbox")?;
        result
    }

    /// All tasks. The first that fails stops the others and is the error returned.
    async fn run_with(
        self,
        outbox: Outbox,
        speakers: Speakers,
        guard: Arc<Guard>,
        clock: Arc<SystemClock>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let Loaded { config, rules, tables, .. } = self.loaded;
        let namespace = config.gateway.namespace.as_str().to_owned();
        let (sending, rules_now) = watch::channel(config.send_rules());
        let (to_commands, requests) = mpsc::channel(HEARD);
        let client = speakers.gateway.0.clone();
        let means = Means {
            outbox: outbox.clone(),
            state: self.state.clone(),
            clock: Arc::clone(&clock),
            rules: rules_now.clone(),
            namespace: namespace.clone(),
            guard: Arc::clone(&guard),
            receipts: Arc::default(),
            requests: to_commands,
        };
        let spoken = speakers.speak(&config, &means)?;
        let (road, reach) = (spoken.roads(), Arc::clone(&spoken.gateway.road.reach));
        // Each stage stops when the one before it has ended.
        let (adapters_stop, uplink_stop) = (stop.child_token(), CancellationToken::new());

        let (declared, declared_now) = watch::channel(Declared::default());
        let field = Field::new(outbox.clone(), Arc::clone(&clock), rules_now.clone(), adapters_stop.clone());
        let mut following = Following {
            file: self.config,
            tables,
            rules: Arc::new(rules),
            state: self.state.clone(),
            outbox: outbox.clone(),
            field,
            sending,
            declared,
        };
        following.start(config.adapter.keys(), &config.adapter)?;
        following.declare();

        let handled = Arc::<Handled>::default();
        let look = Look {
            gateway: config.gateway.atsign,
            clock: Arc::<SystemClock>::clone(&clock),
            boot: outbox.boot(),
            folder: self.state,
            tallies: following.field.tallies().clone(),
            reach: Arc::clone(&reach),
            own: Own::new(spoken.reaches.clone()),
            receipts: Arc::clone(&means.receipts),
            receipts_refused: spoken.refusals(),
            trouble: outbox.trouble(),
            handled: Arc::clone(&handled),
            standing: guard.standing(),
        };
        // What hears requests holds the way to the commands, and nothing else does.
        drop(means);
        let mut stages = Stages { tasks: JoinSet::new(), stop: adapters_stop.clone() };
        let publisher = Publisher {
            newest: following.field.newest().clone(),
            gateway: client.clone(),
            own: spoken
                .reaches
                .keys()
                .map(|name| (name.clone(), spoken.own.get(name).map(Voice::client)))
                .collect(),
            rules: rules_now,
            guard: Arc::clone(&guard),
            clock: Arc::clone(&clock),
            namespace: namespace.clone(),
        };
        stages.spawn(|stop| async move {
            publisher.run(stop).await;
            Ok(())
        });
        let Spoken { gateway, own, .. } = spoken;
        stages.spawn(|stop| gateway.speak(stop, uplink_stop.clone()));
        for (device, voice) in own {
            stages.spawn(|stop| voice.speak_for(device, stop, uplink_stop.clone()));
        }
        let commands = Commands {
            outbox: outbox.clone(),
            road,
            clock: Arc::clone(&clock),
            declared: declared_now,
            namespace,
            handled,
        };
        stages.spawn(|_| async move { commands.run(requests).await.context("carry out commands") });
        let (clocked, watched) = (outbox.clone(), Arc::clone(&clock));
        stages.spawn(
            |stop| async move { set_right(&clocked, &*watched, stop).await.context("set times right") },
        );
        let (claim, claims) = mpsc::channel(1);
        stages.spawn(|stop| async move { guard.run(claims, stop).await.context("look for clones") });
        let (kept, keeper_clock) = (outbox.clone(), Arc::clone(&clock));
        stages
            .spawn(|stop| async move { keep(&kept, &*keeper_clock, stop).await.context("clear the outbox") });
        stages.spawn(|stop| async move { first_connection(&client, &reach, &*clock, stop).await });
        stages.spawn(|stop| async move {
            settle(stop).await;
            Ok(())
        });
        let (reload, reloads) = mpsc::channel(1);
        let taps = following.field.taps().clone();
        let desk = |place| Desk { place, reload, claim, look: look.clone(), taps };
        stages.show(config.metrics, self.socket, &look, desk).await;
        let watchdog = tokio::spawn(Notifier.watchdog(uplink_stop.clone()));
        Notifier.ready();
        let mut asked = Asked { hangup: self.hangup, reloads };
        let mut result = until_the_end(&stop, &outbox, &mut following, &mut stages.tasks, &mut asked).await;
        Notifier.stopping();
        info!("stopping");
        adapters_stop.cancel();
        note(&mut result, following.field.end().await);
        uplink_stop.cancel();
        drop((following, outbox));
        stages.end(&mut result).await;
        watchdog.await.ok();
        result
    }
}

/// Seals the keys that are not, and, when everything is sealed with the seal key that there is now, lets go of the one
/// that a credential has taken over from.
fn keep_sealed(config: &AgentConfig, state: &Path, seal: &Seal) -> anyhow::Result<()> {
    let sources =
        std::iter::once(&config.gateway.keys).chain(config.device.values().map(|device| &device.keys));
    let kept: Vec<_> = sources.map(|source| keys::keep_sealed(source, state, seal)).collect();
    file::follow(state, seal).context("seal the keys anew")?;
    for error in kept.into_iter().filter_map(Result::err) {
        // One that cannot be read has been complained of, and the seal key makes no difference to it.
        if matches!(error, KeysError::Unsealed { .. }) {
            return Err(error.into());
        }
    }
    Ok(seal.settle()?)
}

type Tasks = JoinSet<anyhow::Result<()>>;

/// What runs beside the adapters.
struct Stages {
    tasks: Tasks,
    /// Ends most of them.
    stop: CancellationToken,
}

impl Stages {
    /// Starts one, which may heed the token.
    fn spawn<F>(&mut self, stage: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(stage(self.stop.clone()));
    }

    /// Lets machines and people look. Where a place for that is not to be had, devices are served all the same.
    async fn show(
        &mut self,
        metrics: Option<MetricsConfig>,
        socket: PathBuf,
        look: &Look,
        desk: impl FnOnce(Place) -> Desk,
    ) {
        if let Some(MetricsConfig { listen, .. }) = metrics {
            match MetricsServer::bind(listen, look.clone()).await {
                Ok(server) => self.spawn(|stop| async move {
                    server.run(stop).await;
                    Ok(())
                }),
                Err(error) => {
                    warn!(%listen, %error, "there are no metrics; `[metrics] listen` names another address");
                }
            }
        }
        match Place::take(socket.clone()) {
            Ok(place) => {
                let desk = desk(place);
                self.spawn(|stop| async move {
                    desk.run(stop).await;
                    Ok(())
                });
            }
            Err(error) => {
                warn!(socket = %socket.display(), %error, "nobody can ask for this agent; `--socket` names another place");
            }
        }
    }

    /// Waits for their ends, but not for long.
    async fn end(mut self, result: &mut anyhow::Result<()>) {
        let ended = timeout(GRACE + GRACE, async {
            while let Some(ended) = self.tasks.join_next().await {
                note(result, ended.context("a task panicked").and_then(|ended| ended));
            }
        });
        if ended.await.is_err() {
            warn!("not everything ended in time");
            self.tasks.shutdown().await;
        }
    }
}

/// Tends what runs, until `stop` or the first failure.
async fn until_the_end(
    stop: &CancellationToken,
    outbox: &Outbox,
    following: &mut Following<SystemClock>,
    stages: &mut Tasks,
    asked: &mut Asked,
) -> anyhow::Result<()> {
    let failed = outbox.failed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = failed.cancelled() => bail!("the outbox is damaged; the next start moves it away"),
            result = first_failure(stages) => return result,
            tended = following.field.tend() => {
                tended?;
                following.declare();
            }
            waiting = asked.reload() => {
                let answer = match following.reload().await? {
                    Ok(difference) => Answer::Done(difference),
                    Err(error @ ReloadError::Refused(_)) => Answer::Refused(error.to_string()),
                    Err(error @ ReloadError::Queue(_)) => Answer::Failed(error.to_string()),
                };
                // Whoever asked may have gone.
                waiting.map(|waiting| waiting.send(answer).ok());
            }
        }
    }
}

/// The ways to ask for a reload.
struct Asked {
    hangup: Option<Signal>,
    reloads: mpsc::Receiver<Reloading>,
}

impl Asked {
    /// Waits until a reload is asked for, by somebody who waits for its end or by the signal. Cancel-safe.
    async fn reload(&mut self) -> Option<Reloading> {
        let Self { hangup, reloads } = self;
        let signal = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(()) = signal => None,
            Some(reloading) = reloads.recv() => Some(reloading),
            else => pending().await,
        }
    }
}

/// Waits until a stage fails; those that end well are waited for no longer.
async fn first_failure(stages: &mut Tasks) -> anyhow::Result<()> {
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

/// Clears the outbox now and then, and the commands' records with it.
async fn keep(
    outbox: &Outbox,
    clock: &impl Clock,
    stop: CancellationToken,
) -> Result<(), crate::outbox::OutboxError> {
    loop {
        let now = clock.now();
        let Expired { records, passed_over, again_after } = outbox.expire(now).await?;
        if records > 0 {
            warn!(records, "records were not confirmed in time and are lost");
        }
        if passed_over > 0 {
            warn!(records = passed_over, "silent readers were passed over; `queue stat` says which");
        }
        outbox.forget_commands(now.wall_ms()).await?;
        tokio::select! {
            () = sleep(again_after) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Gives back what is freed, and the memory of code that has run and is not likely to again: soon after the start, and
/// now and then, since reconnections, drains and reloads take much of it anew.
async fn settle(stop: CancellationToken) {
    let mut pause = SETTLED;
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        give_back_freed();
        if let Err(error) = give_back_code() {
            debug!(%error, "the memory of code is not given back");
            return;
        }
        pause = SETTLE_AGAIN;
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
async fn first_connection(
    client: &Client,
    reach: &Reach,
    clock: &impl Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        connected = client.connect() => match connected {
            Ok(()) => {
                info!("signed in");
                reach.yes(clock.now().wall_ms());
                Notifier.status("signed in");
            }
            Err(error) if error.is_transient() => {
                say_unreachable(&error);
                reach.no(clock.now().wall_ms(), error.to_string());
            }
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
