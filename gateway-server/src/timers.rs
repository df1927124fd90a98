//! All that a server does by itself, now and again: one table, one task.

use std::future::Future;
use std::time::Duration;

use at_protocol::Timestamp;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

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
    /// Looks whether the registrar has granted anew.
    Grant,
    /// Fetches copies of others' records again whose time has come.
    Refresh,
    /// Writes down who called.
    AccessLog,
}

/// When a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At once, and then again so long after each end.
    Every(Duration),
    /// Each day at this many milliseconds after midnight, UTC.
    Daily(i64),
    /// Not at all.
    Never,
}

impl Job {
    const ALL: [Self; 8] = [
        Self::Sweep,
        Self::Ticker,
        Self::Adoption,
        Self::Clock,
        Self::Certificate,
        Self::Grant,
        Self::Refresh,
        Self::AccessLog,
    ];

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
            // Once a year somebody waits for it.
            Self::Grant => When::Every(Duration::from_mins(1)),
            // Rarely enough to be one commit for many, and little is lost in a crash.
            Self::AccessLog => When::Every(Duration::from_secs(5)),
            // At night, each server at another minute, so that they do not all ask at once (§6.5).
            Self::Refresh => config.refresh.hour.map_or(When::Never, |hour| {
                When::Daily((i64::from(hour) * 60 + i64::from(crate::random::byte()) * 60 / 256) * 60_000)
            }),
        }
    }
}

impl When {
    /// How long to wait for the first time, at `now`.
    fn first(self, now: Timestamp) -> Option<Duration> {
        match self {
            Self::Every(_) => Some(Duration::ZERO),
            Self::Daily(_) => self.next(now),
            Self::Never => None,
        }
    }

    /// How long to wait for the next time when the last has ended, at `now`.
    fn next(self, now: Timestamp) -> Option<Duration> {
        match self {
            Self::Every(period) => Some(period),
            Self::Daily(moment) => {
                // A moment that is just now was this time.
                let left = (moment - now.as_millis() - 1).rem_euclid(DAY_MS) + 1;
                Some(Duration::from_millis(left.unsigned_abs()))
            }
            Self::Never => None,
        }
    }
}

/// Does each job when its time comes, until `stop`. Jobs do not wait for each other, and none runs twice
/// at a time.
pub(crate) async fn run<W, F>(
    config: &ServerConfig,
    now: impl Fn() -> Timestamp,
    stop: CancellationToken,
    work: W,
) where
    W: Fn(Job) -> F,
    F: Future<Output = ()>,
{
    let (now, work) = (&now, &work);
    let jobs = Job::ALL.map(|job| async move {
        let when = job.when(config);
        let mut wait = when.first(now());
        while let Some(pause) = wait {
            // Even no time at all is rounded up.
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            work(job).await;
            wait = when.next(now());
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
        let now = || Timestamp::from_millis(i64::try_from(began.elapsed().as_millis()).unwrap());
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
        tokio::join!(run(&config, now, stop.clone(), work), until);
        let done = done.into_inner().unwrap();
        let times = |wanted| -> Vec<u64> {
            done.iter().filter(|(job, _)| *job == wanted).map(|(_, at)| at.as_secs()).collect()
        };
        assert_eq!(times(Job::Sweep)[..3], [0, 240, 480]);
        assert_eq!(times(Job::Ticker)[..3], [0, 15, 30]);
        assert_eq!(times(Job::Adoption)[..3], [0, 2, 4]);
        assert_eq!(times(Job::Clock).len(), 24 * 60);
        let refreshed = times(Job::Refresh);
        assert!(refreshed.len() == 1 && (3 * 3600..4 * 3600).contains(&refreshed[0]), "{refreshed:?}");
    }

    #[test]
    fn what_is_off_never_comes_and_what_is_daily_comes_once_a_day() {
        let off: ServerConfig =
            toml::from_str("[notifications]\nticker = \"0s\"\n[refresh]\nhour = \"off\"").unwrap();
        for job in [Job::Ticker, Job::Refresh] {
            assert_eq!(job.when(&off).first(Timestamp::from_millis(0)), None, "{job:?}");
        }
        let daily = When::Daily(1000);
        for (now, left) in [(0, 1000), (999, 1), (1000, DAY_MS), (1001, DAY_MS - 1), (-500, 1500)] {
            let wait = daily.next(Timestamp::from_millis(now)).unwrap();
            assert_eq!(wait, Duration::from_millis(left.unsigned_abs()), "{now}");
        }
    }
}
