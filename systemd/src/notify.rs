//! The service manager's side channel: readiness, a status line, the watchdog. All of it is silence
//! when nobody set `NOTIFY_SOCKET`, so that a daemon runs the same from a shell.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Tells the service manager how this daemon is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notifier;

impl Notifier {
    /// `READY=1`: the daemon serves. Units that are ordered after it start now.
    pub fn ready(self) {
        tell(&[NotifyState::Ready]);
    }

    /// `RELOADING=1`: the daemon follows a changed configuration; [`Notifier::ready`] says that it has.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!(%error, "the service manager is not told of a reload"),
        }
    }

    /// `STATUS=`: one line for `systemctl status`.
    pub fn status(self, line: &str) {
        tell(&[NotifyState::Status(line)]);
    }

    /// `STOPPING=1`: the daemon drains and will exit by itself.
    pub fn stopping(self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Feeds the watchdog at half its interval until `stop`; returns at once when the unit sets no
    /// `WatchdogSec=`. It runs as a task beside the daemon's own: a runtime that no longer polls its
    /// tasks does not feed it, and is restarted.
    pub async fn watchdog(self, stop: CancellationToken) {
        if let Some(limit) = sd_notify::watchdog_enabled() {
            feed(limit, stop, || tell(&[NotifyState::Watchdog])).await;
        }
    }
}

async fn feed(limit: Duration, stop: CancellationToken, mut sign_of_life: impl FnMut()) {
    let mut beat = tokio::time::interval(limit / 2);
    loop {
        tokio::select! {
            _ = beat.tick() => sign_of_life(),
            () = stop.cancelled() => return,
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager does not listen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_twice_per_interval_until_the_stop() {
        let stop = CancellationToken::new();
        let (beats, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let began = tokio::time::Instant::now();
        let feeding = tokio::spawn(feed(Duration::from_secs(20), stop.clone(), move || {
            beats.send(began.elapsed().as_secs()).unwrap();
        }));
        for due in [0, 10, 20, 30] {
            assert_eq!(seen.recv().await, Some(due));
        }
        stop.cancel();
        feeding.await.unwrap();
        assert_eq!(seen.recv().await, None);
    }
}
