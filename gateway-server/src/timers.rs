//! All that a server does by itself, now and again: one table, one task.

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;

/// Something that is done periodically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Removes what has expired and closes what is not used.
    Sweep,
    /// Tells monitors the newest commit ids.
    Ticker,
    /// Takes in tenants that another process has added.
    Adoption,
    /// Looks whether somebody has set the wall clock.
    Clock,
    /// Looks whether the certificate was renewed.
    Certificate,
}

/// When a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At once, and then again so long after each end.
    Every(Duration),
    /// Not at all.
    Never,
}

impl Job {
    const ALL: [Self; 5] = [Self::Sweep, Self::Ticker, Self::Adoption, Self::Clock, Self::Certificate];

    /// The table of all periods, each with its reason.
    fn when(self, config: &ServerConfig) -> When {
        match self {
            // The reference's own (atProtocol wire reference §6.2).
            Self::Sweep => When::Every(Duration::from_mins(3)),
            // Clients that missed a push learn by it that there is something to sync (§8.5).
            Self::Ticker if config.notifications.ticker.is_zero() => When::Never,
            Self::Ticker => When::Every(config.notifications.ticker),
            // Whoever says `tenant add` waits for it.
            Self::Adoption => When::Every(Duration::from_secs(2)),
            // Soon enough for a log that somebody reads.
            Self::Clock => When::Every(Duration::from_mins(1)),
            // A new one is shown within a second, for the price of asking the disk for two dates.
            Self::Certificate => When::Every(Duration::from_millis(500)),
        }
    }
}

/// Does each job when its time comes, until `stop`. Jobs do not wait for each other, and none runs twice
/// at a time.
pub(crate) async fn run<W, F>(config: &ServerConfig, stop: CancellationToken, work: W)
where
    W: Fn(Job) -> F,
    F: Future<Output = ()>,
{
    let work = &work;
    let jobs = Job::ALL.map(|job| async move {
        let When::Every(period) = job.when(config) else { return };
        loop {
            work(job).await;
            tokio::time::sleep(period).await;
        }
    });
    tokio::select! {
        _ = join_all(jobs) => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_job_runs_in_its_own_time() {
        let config: ServerConfig = toml::from_str("[notifications]\nticker = \"15s\"").unwrap();
        let (began, done) = (tokio::time::Instant::now(), Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let until = async {
            tokio::time::sleep(Duration::from_secs(24 * 3600 - 1)).await;
            stop.cancel();
        };
        let work = |job| {
            done.lock().unwrap().push((job, began.elapsed()));
            // A job that takes its time delays itself and no other.
            tokio::time::sleep(Duration::from_secs(if job == Job::Sweep { 60 } else { 0 }))
        };
        tokio::join!(run(&config, stop.clone(), work), until);
        let done = done.into_inner().unwrap();
        let times = |wanted| -> Vec<u64> {
            done.iter().filter(|(job, _)| *job == wanted).map(|(_, at)| at.as_secs()).collect()
        };
        assert_eq!(times(Job::Sweep)[..3], [0, 240, 480]);
        assert_eq!(times(Job::Ticker)[..3], [0, 15, 30]);
        assert_eq!(times(Job::Adoption)[..3], [0, 2, 4]);
        assert_eq!(times(Job::Clock).len(), 24 * 60);
    }

    #[test]
    fn a_ticker_can_be_off() {
        let off: ServerConfig = toml::from_str("[notifications]\nticker = \"0s\"").unwrap();
        assert_eq!(Job::Ticker.when(&off), When::Never);
    }
}
