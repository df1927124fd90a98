//! What the kernel counts of a process, and how figures are put together.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processor time of all threads of a process, to the nanosecond. A thread that has ended is not counted
/// any more; the programs measured here end none while they are busy.
pub(crate) fn cpu_of(process: u32) -> Result<Duration> {
    let mut spent = 0;
    let tasks = format!("/proc/{process}/task");
    for thread in std::fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        match on_cpu(&thread?.path()) {
            // It has ended since it was listed, or since its file was opened (proc(5)).
            Err(error) if error.kind() == ErrorKind::NotFound || is_gone(&error) => {}
            figure => spent += figure.with_context(|| tasks.clone())?,
        }
    }
    Ok(Duration::from_nanos(spent))
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Processor time of the calling thread.
pub(crate) fn cpu_of_thread() -> Result<Duration> {
    Ok(Duration::from_nanos(on_cpu(Path::new("/proc/thread-self"))?))
}

/// Nanoseconds of one thread.
fn on_cpu(task: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(task.join("schedstat"))?;
    text.split(' ')
        .next()
        .and_then(|figure| figure.parse().ok())
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("{text:?} is no schedstat")))
}

/// Memory that is resident, in bytes.
pub(crate) fn resident(process: u32) -> Result<u64> {
    memory(process, "Rss:")
}

/// The same, where what several processes share counts for each in part (`Pss:`), or another figure of that table.
pub(crate) fn memory(process: u32, what: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)).with_context(|| what.to_owned())?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// How often its threads have waited for something, and so were woken.
pub(crate) fn wakes(process: u32) -> Result<u64> {
    let mut wakes = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("status"))?;
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        wakes += count.context("no count of switches")?.trim().parse::<u64>()?;
    }
    Ok(wakes)
}

/// Open file descriptors.
pub(crate) fn descriptors(process: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// What stands at this part (0 to 1) of the sorted figures.
pub(crate) fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a short list")]
    let place = (part * (sorted.len() as f64 - 1.0)).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// The figure in the middle.
pub(crate) fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// A measurement against its limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) ours: f64,
    pub(crate) limit: f64,
    /// The median of the rounds' ratios, which is not the ratio of the medians.
    pub(crate) ratio: f64,
}

/// How often two sides are measured in turn, after a round that only warms up.
const ROUNDS: usize = 5;

/// Measures in turn, A B A B, so that what else the machine does falls on both. Each side gives the same
/// figures in the same order.
pub(crate) async fn in_turn<const N: usize>(
    mut ours: impl AsyncFnMut() -> Result<[f64; N]>,
    mut limit: impl AsyncFnMut() -> Result<[f64; N]>,
) -> Result<[Pair; N]> {
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let both = (ours().await?, limit().await?);
        if round > 0 {
            rounds.push(both);
        }
    }
    let (ours, limits): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    Ok(std::array::from_fn(|n| {
        let column = |rounds: &[[f64; N]]| rounds.iter().map(|figures| figures[n]).collect::<Vec<_>>();
        let (ours, limits) = (column(&ours), column(&limits));
        let ratios: Vec<f64> = ours.iter().zip(&limits).map(|(ours, limit)| ours / limit).collect();
        Pair { ours: median(&ours), limit: median(&limits), ratio: median(&ratios) }
    }))
}

/// Processor time that a process spends on something, in microseconds.
pub(crate) async fn spent(process: u32, on: impl Future<Output = Result<()>>) -> Result<f64> {
    let before = cpu_of(process)?;
    on.await?;
    Ok(micros(cpu_of(process)?.saturating_sub(before)))
}

/// A time in microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_put_together() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 1.0), 4.0);
    }

    #[test]
    fn the_kernel_counts_this_process() {
        let own = std::process::id();
        assert!(cpu_of(own).unwrap() >= cpu_of_thread().unwrap() / 2);
        assert!(resident(own).unwrap() > 1024 && descriptors(own).unwrap() > 2);
    }
}
