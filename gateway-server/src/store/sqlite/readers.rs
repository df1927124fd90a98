//! The threads that read, each on snapshots of its own, so that no query stops the runtime or a writer.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::super::StoreError;
use super::file::{ShardFile, is_of_disk};

/// Says whether the connection may be used again.
type Query = Box<dyn FnOnce(rusqlite::Result<&Connection>) -> bool + Send>;

/// Hands queries to the threads, which end when this is dropped.
pub(super) struct Readers {
    /// Unbounded: each connection has at most one query on its way, and connections are bounded.
    queries: mpsc::Sender<(usize, Query)>,
    files: Vec<Arc<ShardFile>>,
}

impl Readers {
    pub(super) fn start(
        files: Vec<Arc<ShardFile>>,
        threads: usize,
    ) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (queries, waiting) = mpsc::channel::<(usize, Query)>();
        let waiting = Arc::new(Mutex::new(waiting));
        let start = |_| {
            let (waiting, files) = (Arc::clone(&waiting), files.clone());
            let thread = std::thread::Builder::new().name("store-reader".to_owned());
            thread.spawn(move || answer_all(&waiting, &files))
        };
        let threads = (0..threads).map(start).collect::<std::io::Result<_>>()?;
        Ok((Self { queries, files }, threads))
    }

    /// Performs `query` on a snapshot of a shard.
    pub(super) async fn run<T, F>(&self, shard: usize, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let file = Arc::clone(&self.files[shard]);
        file.sound()?;
        let (reply, answer) = oneshot::channel();
        let query: Query = Box::new(move |connection| {
            let found = connection.and_then(query);
            let is_usable = !found.as_ref().is_err_and(is_of_disk);
            // Who has gone meanwhile does not want to know.
            drop(reply.send(found.map_err(|error| file.judge(&error))));
            is_usable
        });
        self.queries.send((shard, query)).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn answer_all(waiting: &Mutex<mpsc::Receiver<(usize, Query)>>, files: &[Arc<ShardFile>]) {
    // Opened when they are first needed.
    let mut connections: Vec<Option<Connection>> = files.iter().map(|_| None).collect();
    while let Some((shard, query)) = next(waiting) {
        let connection = match connections[shard].take() {
            Some(connection) => Ok(connection),
            None => files[shard].open_reader(),
        };
        match connection {
            Ok(connection) => {
                if query(Ok(&connection)) {
                    connections[shard] = Some(connection);
                }
            }
            Err(error) => {
                query(Err(error));
            }
        }
    }
}

fn next(waiting: &Mutex<mpsc::Receiver<(usize, Query)>>) -> Option<(usize, Query)> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
