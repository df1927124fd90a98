//! A connection that is a monitor.

use std::sync::Arc;

use at_protocol::AtSign;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::monitors::{Line as Pushed, Subscription};
use crate::node::Node;
use crate::store::StoreError;

/// Stored notifications that a monitor reads at once.
const REPLAY: usize = 64;

/// What a monitor still has to be told.
pub(super) struct Watching {
    pub(super) subscription: Subscription,
    /// Whether the store has more that was not sent yet.
    pub(super) behind: bool,
}

impl Watching {
    /// The next lines that are to be sent: what the store has, then what is new. Cancel-safe.
    pub(super) async fn next(
        &mut self,
        node: &Node,
        tenant: &AtSign,
    ) -> Result<Vec<Arc<Pushed>>, StoreError> {
        loop {
            if self.behind {
                let page = node.store.received_after(tenant, self.subscription.seen, REPLAY, node.now());
                let page = page.await?;
                self.behind = !page.is_empty();
                let lines = page.iter().map(|notification| Arc::new(Pushed::of(notification)));
                let wanted: Vec<_> = lines.filter(|line| self.subscription.wants(line)).collect();
                if !wanted.is_empty() {
                    return Ok(wanted);
                }
                continue;
            }
            match self.subscription.lines.recv().await {
                Ok(line) => {
                    let mut lines = vec![line];
                    // What came with it goes with it.
                    while lines.len() < REPLAY && !self.behind {
                        match self.subscription.lines.try_recv() {
                            Ok(line) => lines.push(line),
                            Err(TryRecvError::Lagged(_)) => self.behind = true,
                            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                        }
                    }
                    lines.retain(|line| self.subscription.wants(line));
                    if !lines.is_empty() {
                        return Ok(lines);
                    }
                }
                // The ring has moved on without us, or is gone: the store has it all.
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Err(StoreError::Closed),
            }
        }
    }
}
