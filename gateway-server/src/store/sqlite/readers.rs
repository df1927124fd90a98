//! The threads that read, each on a snapshot of its own, so that no query stops the runtime or the writer.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::super::StoreError;

type Query = Box<dyn FnOnce(&Connection) + Send>;

/// Hands queries to the threads, which end when this is dropped.
pub(super) struct Readers {
    /// Unbounded: each connection has at most one query on its way, and connections are bounded.
    queries: mpsc::Sender<Query>,
}

impl Readers {
    pub(super) fn start(connections: Vec<Connection>) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (queries, waiting) = mpsc::channel::<Query>();
        let waiting = Arc::new(Mutex::new(waiting));
        let mut threads = Vec::new();
        for connection in connections {
            let waiting = Arc::clone(&waiting);
            let thread = std::thread::Builder::new().name("store-reader".to_owned());
            threads.push(thread.spawn(move || {
                while let Some(query) = next(&waiting) {
                    query(&connection);
                }
            })?);
        }
        Ok((Self { queries }, threads))
    }

    /// Performs `query` on a snapshot.
    pub(super) async fn run<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let query: Query = Box::new(move |sql| {
            let found = query(sql).map_err(|error| StoreError::Failed(error.to_string()));
            // Who has gone meanwhile does not want to know.
            drop(reply.send(found));
        });
        self.queries.send(query).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn next(waiting: &Mutex<mpsc::Receiver<Query>>) -> Option<Query> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
