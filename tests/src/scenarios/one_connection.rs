//! Many pairs of atSigns between two nodes, and one connection.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, settle};
use crate::scenario::Run;

/// There and back, in milliseconds.
const ROUND_MS: u64 = 100;

/// Each sender tells each recipient something, and on the link there is one flow of UDP and none of TCP.
///
/// # Errors
/// There are more, or one of the notifications is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    // Senders, and as many recipients.
    let each = if run.long { 32 } else { 12 };
    let names = |role: &str| (0..each).map(|number| format!("@{role}{number}")).collect::<Vec<_>>();
    let (senders, recipients) = (names("sender"), names("recipient"));
    let hosted: [Vec<&str>; 2] =
        [&senders, &recipients].map(|names| names.iter().map(String::as_str).collect());
    let federation = Federation::start(run, Way::Nodes, &[&hosted[0], &hosted[1]])?;
    let mut watches = Vec::new();
    for recipient in &recipients {
        watches.push(Watch::start(federation.door(recipient)?)?);
    }
    federation.net.tell(&format!("server1<>server2 delay={}ms", ROUND_MS / 2))?;
    // By recipient, from all senders.
    let mut floods: Vec<Vec<Flood>> = recipients
        .iter()
        .zip(1..)
        .map(|(to, boot)| senders.iter().map(|from| Flood::new(from, to, boot)).collect())
        .collect();
    let since = Instant::now();
    for (place, sender) in senders.iter().enumerate() {
        let mut wire = federation.enter(sender)?;
        for to_one in &mut floods {
            to_one[place].send(1, &mut wire)?;
        }
    }
    for (watch, floods) in watches.iter_mut().zip(&floods) {
        watch.all(floods)?;
    }
    run.note("all_ms", u64::try_from(since.elapsed().as_millis())?);
    let counters = federation.net.counters()?;
    let count = |direction: &str, what: &str| counters[direction][what].as_u64().unwrap_or_default();
    let (there, back) = ("server1>server2", "server2>server1");
    run.note("udp_flows", count(there, "udp_flows"));
    run.note("tcp_flows", count(there, "tcp_flows"));
    ensure!(
        count(there, "udp_flows") == 1 && count(back, "udp_flows") == 1,
        "more than one connection: {counters}"
    );
    ensure!(count(there, "tcp_flows") == 0, "TCP between the nodes: {counters}");
    for ((watch, floods), recipient) in watches.iter_mut().zip(&floods).zip(&recipients) {
        settle(run, floods, watch, federation.door(recipient)?)?;
    }
    run.note("sent", each * each);
    Ok(())
}
