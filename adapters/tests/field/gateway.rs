//! The receiving end of an adapter.

use std::sync::Arc;
use std::time::Duration;

use atedge_adapters::{
    Ack, AdapterConfig, AdapterError, Captured, Command, CommandError, Order, Reading, Refusal, Value,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nothing here takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that has to come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// An adapter at work, and all that it captures.
pub(crate) struct Gateway {
    captured: mpsc::Receiver<Captured>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    adapter: JoinHandle<Result<(), AdapterError>>,
}

impl Gateway {
    /// Starts the adapter with this table; its name is `field`.
    pub(crate) fn start(table: &str) -> Self {
        let config: AdapterConfig = toml::from_str(table).unwrap();
        let adapter = config.build("field").unwrap();
        let (intake, captured) = mpsc::channel(4);
        let (commands, ordered) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let adapter = tokio::spawn(adapter.run(intake, ordered, stop.clone()));
        Self { captured, commands, stop, adapter }
    }

    pub(crate) async fn next(&mut self) -> Captured {
        within("a capture", self.captured.recv()).await.expect("the adapter ended")
    }

    /// The next reading; what is said about sessions is passed over.
    pub(crate) async fn reading(&mut self) -> (Reading, Ack) {
        loop {
            match self.next().await {
                Captured::Reading { reading, ack } => return (reading, ack),
                Captured::Settled { .. }
                | Captured::SessionLost { .. }
                | Captured::Reached
                | Captured::Unreached { .. }
                | Captured::Suppressed { .. } => {}
                Captured::Refused { why, .. } => panic!("refused: {why}"),
            }
        }
    }

    /// The next refusal; what is said about sessions is passed over.
    pub(crate) async fn refusal(&mut self) -> Refusal {
        loop {
            match self.next().await {
                Captured::Refused { why, .. } => return why,
                Captured::Settled { .. }
                | Captured::SessionLost { .. }
                | Captured::Reached
                | Captured::Unreached { .. }
                | Captured::Suppressed { .. } => {}
                Captured::Reading { reading, .. } => panic!("a reading: {reading:?}"),
            }
        }
    }

    /// The number of the delivery up to which all are settled next.
    pub(crate) async fn settled(&mut self) -> u64 {
        loop {
            if let Captured::Settled { upto, .. } = self.next().await {
                return upto;
            }
        }
    }

    pub(crate) async fn session_lost(&mut self) -> Arc<str> {
        loop {
            if let Captured::SessionLost { session } = self.next().await {
                return session;
            }
        }
    }

    pub(crate) async fn order(&self, order: Order) -> Result<(), CommandError> {
        let (done, outcome) = oneshot::channel();
        self.commands.send(Command { order, done }).await.expect("the adapter ended");
        within("the outcome of an order", outcome).await.expect("the adapter dropped the order")
    }

    pub(crate) async fn publish(&self, topic: &str, payload: &str) -> Result<(), CommandError> {
        self.order(Order::Publish { topic: topic.into(), payload: payload.into() }).await
    }

    /// Ends the adapter as a crash would.
    pub(crate) async fn kill(self) {
        self.adapter.abort();
        assert!(self.adapter.await.unwrap_err().is_cancelled());
    }

    /// Stops the adapter as it should be stopped.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        within("the adapter's end", self.adapter).await.unwrap().unwrap();
    }
}

/// The only value of a reading.
pub(crate) fn value(reading: &Reading) -> &Value {
    assert_eq!(reading.points.len(), 1, "{reading:?}");
    &reading.points[0].value
}
