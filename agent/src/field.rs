//! The field side at work: each adapter with an intake of its own, so that one that is slow or blocked never
//! holds up another's acknowledgements.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use atedge_adapters::{Adapter, AdapterConfig, AdapterError, Command, ConfigError};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::intake::Intake;
use crate::latest::Newest;
use crate::outbox::Outbox;
use crate::tally::Tallies;
use crate::tap::Taps;
use crate::uplink::SendRules;

/// Captures between an adapter and its intake; when there are this many, the adapter stops reading.
const CAPTURES: usize = 256;
/// Commands between us and an adapter; one more is refused.
const COMMANDS: usize = 16;
/// How long what an adapter has captured may take to be stored once it has ended.
const GRACE: Duration = Duration::from_secs(5);
/// How long an adapter that was stopped may take to end, its intake's grace included.
const LEAVE: Duration = Duration::from_secs(15);
/// Pause before an adapter that gave up is started again.
const AGAIN: Duration = Duration::from_secs(30);

/// The adapters, and what becomes of their captures.
pub struct Field<C> {
    outbox: Outbox,
    clock: Arc<C>,
    rules: watch::Receiver<SendRules>,
    stop: CancellationToken,
    lines: BTreeMap<String, Line>,
    /// What came in since the agent started, also of adapters that were changed.
    tallies: Tallies,
    taps: Taps,
    newest: Newest,
    tasks: JoinSet<Result<(), AdapterError>>,
}

/// One adapter with its intake: a task that ends when both have.
struct Line {
    config: AdapterConfig,
    orders: mpsc::Sender<Command>,
    stop: CancellationToken,
    task: AbortHandle,
    /// It gave up, and is started again then.
    again: Option<Instant>,
}

impl<C: Clock + 'static> Field<C> {
    /// No adapters yet. What they capture goes to `outbox` if `rules` know its stream; all stop with
    /// `stop`.
    pub fn new(
        outbox: Outbox,
        clock: Arc<C>,
        rules: watch::Receiver<SendRules>,
        stop: CancellationToken,
    ) -> Self {
        let (tallies, taps, newest) = (Tallies::default(), Taps::default(), Newest::default());
        let (lines, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { outbox, clock, rules, stop, lines, tallies, taps, newest, tasks }
    }

    /// Starts an adapter.
    ///
    /// # Errors
    /// When its settings make no sense.
    pub fn start(&mut self, name: &str, config: AdapterConfig) -> Result<(), ConfigError> {
        let adapter = config.clone().build(name)?;
        let tally = self.tallies.of(name);
        tally.begin();
        let intake = Intake {
            outbox: self.outbox.apart(),
            clock: Arc::clone(&self.clock),
            rules: self.rules.clone(),
            tally,
            adapter: name.into(),
            taps: self.taps.clone(),
            newest: self.newest.clone(),
        };
        let (orders, ordered) = mpsc::channel(COMMANDS);
        let stop = self.stop.child_token();
        let task = self.tasks.spawn(run_line(name.to_owned(), adapter, intake, ordered, stop.clone()));
        let line = Line { config, orders, stop, task, again: None };
        self.lines.insert(name.to_owned(), line);
        Ok(())
    }

    /// What came in through each adapter.
    pub const fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// The newest values of its devices.
    pub const fn newest(&self) -> &Newest {
        &self.newest
    }

    /// Where what comes in can be tapped.
    pub const fn taps(&self) -> &Taps {
        &self.taps
    }

    /// The ways to order something of each adapter.
    pub fn orders(&self) -> BTreeMap<String, mpsc::Sender<Command>> {
        self.lines.iter().map(|(name, line)| (name.clone(), line.orders.clone())).collect()
    }

    /// Stops these adapters, and waits until what they have captured is stored. The others go on.
    ///
    /// # Errors
    /// When one of them panicked.
    pub async fn stop(&mut self, names: &[String]) -> anyhow::Result<()> {
        let stopped: Vec<&Line> = names.iter().filter_map(|name| self.lines.get(name)).collect();
        stopped.iter().for_each(|line| line.stop.cancel());
        let going: BTreeSet<Id> =
            stopped.iter().filter(|line| line.again.is_none()).map(|line| line.task.id()).collect();
        self.wait_for(going).await?;
        self.lines.retain(|name, _| !names.contains(name));
        Ok(())
    }

    /// Waits until all adapters have ended, which have been told to stop.
    ///
    /// # Errors
    /// When one of them panicked.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        let running = self.lines.values().filter(|line| line.again.is_none());
        let going = running.map(|line| line.task.id()).collect();
        self.wait_for(going).await
    }

    async fn wait_for(&mut self, mut going: BTreeSet<Id>) -> anyhow::Result<()> {
        let deadline = Instant::now() + LEAVE;
        while !going.is_empty() {
            match timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => {
                    let id = id_of(&ended);
                    if going.remove(&id) {
                        if let Err(error) = outcome(ended)? {
                            error!("{error}");
                        }
                    } else {
                        self.gave_up(ended)?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    for line in self.lines.values().filter(|line| going.contains(&line.task.id())) {
                        line.task.abort();
                    }
                    warn!("an adapter did not end in time; its task was ended");
                    going.clear();
                }
            }
        }
        Ok(())
    }

    /// Waits until an adapter gives up, and starts it again after a pause; returns when it was. The others go
    /// on meanwhile. Cancel-safe.
    ///
    /// # Errors
    /// When one of them panicked.
    pub async fn tend(&mut self) -> anyhow::Result<()> {
        loop {
            let waiting = self.lines.iter().filter_map(|(name, line)| Some((line.again?, name.clone())));
            let next = waiting.min();
            let due = async {
                match &next {
                    Some((due, _)) => sleep_until(*due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.gave_up(ended)?,
                () = due => {
                    if let Some((_, name)) = next {
                        let config = self.lines.get(&name).map(|line| line.config.clone());
                        info!(adapter = name, "starting it again");
                        return config.map_or(Ok(()), |config| self.start(&name, config)).context("start it again");
                    }
                }
            }
        }
    }

    fn gave_up(&mut self, ended: Ended) -> anyhow::Result<()> {
        let id = id_of(&ended);
        let result = outcome(ended)?;
        let Some((name, line)) = self.lines.iter_mut().find(|(_, line)| line.task.id() == id) else {
            return Ok(());
        };
        line.again = Some(Instant::now() + AGAIN);
        if let Err(error) = result {
            error!(again_in = ?AGAIN, "{error}");
            self.tallies.of(name).gave_up(self.clock.now().wall_ms(), error.to_string());
        }
        Ok(())
    }
}

type Ended = Result<(Id, Result<(), AdapterError>), JoinError>;

fn id_of(ended: &Ended) -> Id {
    ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id)
}

/// What an adapter ended with; one that was ended by us ended well.
fn outcome(ended: Ended) -> anyhow::Result<Result<(), AdapterError>> {
    match ended {
        Ok((_, result)) => Ok(result),
        Err(error) if error.is_cancelled() => Ok(Ok(())),
        Err(error) => Err(error).context("an adapter panicked"),
    }
}

/// Runs an adapter, and stores what it captures until all of it is on disk or the grace is over.
async fn run_line<C: Clock>(
    name: String,
    adapter: Box<dyn Adapter>,
    intake: Intake<C>,
    ordered: mpsc::Receiver<Command>,
    stop: CancellationToken,
) -> Result<(), AdapterError> {
    let (put, captured) = mpsc::channel(CAPTURES);
    let tally = Arc::clone(&intake.tally);
    let ended = CancellationToken::new();
    let capture = async {
        let result = adapter.run(put, ordered, stop).await;
        ended.cancel();
        result
    };
    let store = async {
        tokio::select! {
            () = intake.run(captured) => {}
            () = async { ended.cancelled().await; sleep(GRACE).await } => {
                warn!(adapter = name, "some readings could not be stored in time; their senders still have them");
            }
        }
    };
    let (result, ()) = tokio::join!(capture, store);
    let counts = tally.counts();
    info!(
        adapter = name,
        kept = counts.kept,
        repeated = counts.repeated,
        refused = counts.refused,
        suppressed = counts.suppressed,
        dropped = counts.dropped,
        "has ended"
    );
    result
}

#[cfg(test)]
mod tests;
