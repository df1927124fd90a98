//! The field side alone: an adapter in this process, and a serial line whose plug can be pulled.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atedge_adapters::{AdapterConfig, AdapterError, Captured};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::process::PATIENCE;

/// Captures between the adapter and the scenario, as many as an agent has.
const CAPTURES: usize = 256;

/// An adapter at work, and all that it captures.
pub struct FieldAdapter {
    runtime: Runtime,
    captured: mpsc::Receiver<Captured>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AdapterError>>,
    /// Whose drop would tell the adapter that there are no more commands.
    _commands: mpsc::Sender<atedge_adapters::Command>,
}

impl FieldAdapter {
    /// Starts an adapter with this table.
    ///
    /// # Errors
    /// The table makes no sense.
    pub fn start(table: Value) -> Result<Self> {
        let config: AdapterConfig = serde_json::from_value(table)?;
        let adapter = config.build("field")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (intake, captured) = mpsc::channel(CAPTURES);
        let (commands, ordered) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let task = {
            let _inside = runtime.enter();
            runtime.spawn(adapter.run(intake, ordered, stop.clone()))
        };
        Ok(Self { runtime, captured, stop, task, _commands: commands })
    }

    /// What it captures next; nothing when nothing comes for so long.
    ///
    /// # Errors
    /// It has ended.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Captured>> {
        let next = async { timeout(patience, self.captured.recv()).await };
        match self.runtime.block_on(next) {
            Ok(captured) => captured.context("the adapter has ended").map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Stops it.
    ///
    /// # Errors
    /// It does not end well.
    pub fn stop(self) -> Result<()> {
        self.stop.cancel();
        let ended = async { timeout(PATIENCE, self.task).await };
        self.runtime.block_on(ended).context("the adapter does not end")???;
        Ok(())
    }
}

/// A serial line by socat. Dropping it pulls the plug.
pub struct Cable(Child);

impl Cable {
    /// A line between two paths.
    ///
    /// # Errors
    /// There is no socat, or it makes no line.
    pub fn between(port: &Path, far: &Path) -> Result<Self> {
        let end = |path: &Path| format!("pty,raw,echo=0,link={}", path.display());
        let socat = Command::new("socat").args([end(port), end(far)]).spawn();
        let cable = Self(socat.context("cannot run socat (apt-get install socat)")?);
        let began = Instant::now();
        while !(port.exists() && far.exists()) {
            ensure!(began.elapsed() < PATIENCE, "socat makes no line");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // With SIGTERM it takes its links away.
        Command::new("kill").arg(self.0.id().to_string()).status().ok();
        self.0.wait().ok();
    }
}
