//! Parts of a town that are killed, several at a time, and started again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::broker::Broker;
use crate::gateway::Gateway;
use crate::random::Random;
use crate::town::{Node, Town};

/// What can be killed and started again.
pub trait Part: Send {
    /// Kills it as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    fn kill(&mut self) -> Result<()>;

    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    fn start(&mut self) -> Result<()>;
}

impl Part for Gateway {
    fn kill(&mut self) -> Result<()> {
        self.kill()
    }

    fn start(&mut self) -> Result<()> {
        self.start()
    }
}

impl Part for Broker {
    fn kill(&mut self) -> Result<()> {
        self.kill()
    }

    fn start(&mut self) -> Result<()> {
        self.start_again()
    }
}

impl Part for Node {
    fn kill(&mut self) -> Result<()> {
        self.kill()
    }

    fn start(&mut self) -> Result<()> {
        self.start()
    }
}

/// Its directory; the servers are parts of their own.
impl Part for Town {
    fn kill(&mut self) -> Result<()> {
        self.kill_directory()
    }

    fn start(&mut self) -> Result<()> {
        self.start_directory()
    }
}

/// When a part is killed, and for how long it stays so.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// From the beginning of a round.
    pub after: Duration,
    /// From the kill until it is started again.
    pub down: Duration,
}

/// From a kill until the part served again.
pub type Down = (Instant, Instant);

impl Fault {
    /// Within these times, or none: every other part is spared.
    pub fn draw(random: &mut Random, after: Duration, down: Duration) -> Option<Self> {
        let fault = Self::certain(random, after, down);
        (random.below(2) == 0).then_some(fault)
    }

    /// Within these times.
    pub fn certain(random: &mut Random, after: Duration, down: Duration) -> Self {
        Self { after: random.time(after), down: random.time(down) }
    }

    /// Does it. The pauses are the fault itself, not a wait for anything.
    ///
    /// # Errors
    /// The part did not run, or does not start.
    pub fn strike(self, part: &mut dyn Part) -> Result<Down> {
        sleep(self.after);
        let killed = Instant::now();
        part.kill()?;
        sleep(self.down);
        part.start()?;
        Ok((killed, Instant::now()))
    }
}

/// How many were killed while another was not there.
#[must_use]
pub fn overlaps(downs: &[Option<Down>]) -> u64 {
    let downs: Vec<&Down> = downs.iter().flatten().collect();
    let met = |killed: &Instant| downs.iter().any(|(from, to)| from < killed && killed < to);
    u64::try_from(downs.iter().filter(|(killed, _)| met(killed)).count()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_killed_while_another_is_down_overlaps() {
        let begin = Instant::now();
        let down = |from, to| Some((begin + Duration::from_millis(from), begin + Duration::from_millis(to)));
        assert_eq!(overlaps(&[down(0, 10), None, down(5, 20), down(15, 30), down(40, 50)]), 2);
        assert_eq!(overlaps(&[None, down(0, 10)]), 0);
    }
}
