//! How costs grow: each operation at several sizes, in turn, and the last size against the first.

use std::time::Instant;

use anyhow::{Context as _, Result};
use atedge_tests::random::Random;

use crate::client::Crowd;
use crate::directory::{PIPELINED, Site};
use crate::ground::{Ground, Holds, Host};
use crate::meter::{median, micros, spent};
use crate::report::Row;
use crate::{fanout, login, lookup, notify, peers, start, update};

/// How often each size is measured, after a round that only warms up.
const ROUNDS: usize = 5;
const CLIENTS: usize = 16;

/// The curves that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Curve {
    /// Keys of one atServer
    Keys,
    /// atSigns of one process
    Atsigns,
    /// Connections that only wait
    Idle,
    /// Monitors on one atSign
    Monitors,
    /// Names in the directory
    Names,
    /// Nodes that are spoken to
    Peers,
    /// Nodes that are down and have something waiting
    Down,
}

impl Curve {
    pub(crate) const ALL: [Self; 7] =
        [Self::Keys, Self::Atsigns, Self::Idle, Self::Monitors, Self::Names, Self::Peers, Self::Down];

    pub(crate) async fn run(self, long: bool) -> Result<Vec<Row>> {
        match self {
            Self::Keys => keys(if long { &[1_000, 100_000, 1_000_000] } else { &[1_000, 100_000] }).await,
            Self::Atsigns => atsigns(&[1, 100, 10_000]).await,
            Self::Idle => idle(if long { &[1, 1_000, 10_000] } else { &[1, 1_000] }).await,
            Self::Monitors => monitors(if long { &[1, 100, 5_000] } else { &[1, 100, 1_000] }).await,
            Self::Names => names(if long { &[1_000, 100_000, 1_000_000] } else { &[1_000, 100_000] }).await,
            Self::Peers => peers::warm(if long { &[1, 100, 5_000] } else { &[1, 100, 1_000] }).await,
            Self::Down => peers::down(&[0, 1, 1_000]).await,
        }
    }
}

/// Measures a cost at each size in turn.
pub(crate) async fn grows(
    what: &str,
    unit: &'static str,
    sizes: &[usize],
    bar: f64,
    mut cost: impl AsyncFnMut(usize) -> Result<f64>,
) -> Result<Row> {
    let mut costs = vec![Vec::new(); sizes.len()];
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let mut these = Vec::new();
        for place in 0..sizes.len() {
            these.push(cost(place).await?);
        }
        if round > 0 {
            ratios.push(these[sizes.len() - 1] / these[0]);
            costs.iter_mut().zip(these).for_each(|(costs, cost)| costs.push(cost));
        }
    }
    let points: Vec<_> = sizes.iter().copied().zip(costs.iter().map(|costs| median(costs))).collect();
    Ok(Row::curve(what, unit, &points, median(&ratios), bar))
}

/// Servers that differ in one size, and connections to each of them.
struct Servers<'a> {
    hosts: Vec<Host<'a>>,
    crowds: Vec<Crowd>,
}

impl<'a> Servers<'a> {
    async fn start(ground: &'a Ground, sizes: &[usize], holds: impl Fn(usize) -> Holds) -> Result<Self> {
        let (mut hosts, mut crowds) = (Vec::new(), Vec::new());
        for size in sizes {
            let host = Host::start(ground, &format!("size{size}"), holds(*size)).await?;
            crowds.push(host.crowd(0, CLIENTS).await?);
            hosts.push(host);
        }
        Ok(Self { hosts, crowds })
    }

    /// What the server spends on one of the lines that its clients say, in microseconds.
    async fn cost<F>(&mut self, place: usize, each: usize, line: F) -> Result<f64>
    where
        F: Fn(&mut Random) -> String + Clone + Send + 'static,
    {
        let crowd = &mut self.crowds[place];
        let many = (each * crowd.clients.len()) as f64;
        Ok(spent(self.hosts[place].id(), crowd.rush(each, 1, line)).await? / many)
    }
}

async fn keys(sizes: &[usize]) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let mut servers = Servers::start(&ground, sizes, |keys| Holds { tenants: notify::TENANTS, keys }).await?;
    let least = sizes.iter().min().copied().context("a size")? as u64;
    let size = |place: usize| sizes[place] as u64;
    let mut rows = Vec::new();
    let updates = async |place| servers.cost(place, 100, move |random| update::line(random, least)).await;
    rows.push(grows("keys: update of a thousand of them", "us", sizes, 1.5, updates).await?);
    let updates = async |place| {
        let all = size(place);
        servers.cost(place, 100, move |random| update::line(random, all)).await
    };
    rows.push(grows("keys: update of any", "us", sizes, 1.5, updates).await?);
    let lookups = async |place| servers.cost(place, 300, move |random| lookup::line(random, least)).await;
    rows.push(grows("keys: llookup of a thousand of them", "us", sizes, 1.5, lookups).await?);
    let lookups = async |place| {
        let all = size(place);
        servers.cost(place, 300, move |random| lookup::line(random, all)).await
    };
    rows.push(grows("keys: llookup of any", "us", sizes, 1.5, lookups).await?);
    let notify = async |place| servers.cost(place, 100, |_| notify::line(notify::NEAR)).await;
    rows.push(grows("keys: notify", "us", sizes, 1.5, notify).await?);
    rows.push(behind(&mut servers, sizes).await?);
    Ok(rows)
}

/// The ten newest commits of so many.
async fn behind(servers: &mut Servers<'_>, sizes: &[usize]) -> Result<Row> {
    let mut newest = Vec::new();
    for crowd in &mut servers.crowds {
        let client = crowd.clients.first_mut().context("a client")?;
        let id = client.ask("update:k0.bench@a0 now\n").await?;
        newest.push(id.trim_start_matches("data:").parse::<i64>()?);
    }
    let sync = async |place: usize| {
        let from = newest[place] - 10;
        servers.cost(place, 100, move |_| format!("sync:from:{from}:limit:25\n")).await
    };
    grows("sync: ten behind, of so many keys", "us", sizes, 1.2, sync).await
}

async fn atsigns(sizes: &[usize]) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let mut servers = Servers::start(&ground, sizes, |tenants| Holds { tenants, keys: 1_000 }).await?;
    let mut rows = Vec::new();
    let lookups = async |place| servers.cost(place, 300, |random| lookup::line(random, 1_000)).await;
    rows.push(grows("atSigns: llookup on one", "us", sizes, 1.3, lookups).await?);
    let updates = async |place| servers.cost(place, 100, |random| update::line(random, 1_000)).await;
    rows.push(grows("atSigns: update on one", "us", sizes, 1.3, updates).await?);
    let logins =
        async |place: usize| login::cost(&servers.hosts[place], &mut servers.crowds[place], 20).await;
    rows.push(grows("atSigns: login to one", "us", sizes, 1.3, logins).await?);
    servers.crowds.clear();
    for host in &mut servers.hosts {
        host.stop()?;
    }
    let starts = async |place: usize| start::cold(&mut servers.hosts[place]).await;
    rows.push(grows("atSigns: start to first answer", "ms", sizes, 1.3, starts).await?);
    Ok(rows)
}

async fn idle(sizes: &[usize]) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let mut servers = Servers::start(&ground, sizes, |_| Holds { tenants: 100, keys: 1_000 }).await?;
    let mut waiting = Vec::new();
    for (host, size) in servers.hosts.iter().zip(sizes) {
        for number in 0..*size {
            waiting.push(host.sign_in(number % 100).await?);
        }
    }
    let lookups = async |place| servers.cost(place, 300, |random| lookup::line(random, 1_000)).await;
    let mut rows = vec![grows("idle connections: llookup on others", "us", sizes, 1.3, lookups).await?];
    let accepted = async |place: usize| {
        let mut took = Vec::new();
        for _ in 0..50 {
            let began = Instant::now();
            drop(servers.hosts[place].dial().await?);
            took.push(micros(began.elapsed()));
        }
        Ok(median(&took))
    };
    rows.push(grows("idle connections: connect to greeting", "us", sizes, 1.3, accepted).await?);
    Ok(rows)
}

async fn monitors(sizes: &[usize]) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let unheard = fanout::Unheard::start(&ground, Holds { tenants: notify::TENANTS, keys: 0 }).await?;
    let mut servers = Servers::start(&ground, sizes, |_| Holds { tenants: notify::TENANTS, keys: 0 }).await?;
    let mut watching = Vec::new();
    for (host, size) in servers.hosts.iter().zip(sizes) {
        watching.push(fanout::watching(host, *size).await?);
    }
    let times = |size: usize| (2_000 / size).clamp(5, 200);
    let deliveries = async |place: usize| {
        let times = times(sizes[place]);
        // What the notification itself costs is taken off, as nobody but the first would see it.
        let none = unheard.cost(times).await?;
        let sender = servers.crowds[place].clients.first_mut().context("a sender")?;
        let all = fanout::one_by_one(sender, &mut watching[place], times);
        let cost = spent(servers.hosts[place].id(), all).await?;
        Ok((cost - none) / (times * sizes[place]) as f64)
    };
    Ok(vec![grows("monitors: a delivery", "us", sizes, 1.2, deliveries).await?])
}

async fn names(sizes: &[usize]) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let mut sites = Vec::new();
    for size in sizes {
        let site = Site::start(&ground, *size)?;
        let crowd = site.crowd(CLIENTS).await?;
        sites.push((site, crowd));
    }
    let mut rows = Vec::new();
    // In the second, look-ups are all there is to do, and each waits for memory that no cache holds.
    for (what, rounds, window, bar) in
        [("names: look-up of any", 300, 1, 1.3), ("names: look-up of any, 32 a write", 200, PIPELINED, 3.0)]
    {
        let lookups = async |place: usize| {
            let (site, crowd) = &mut sites[place];
            site.cost(crowd, rounds, window).await
        };
        rows.push(grows(what, "us", sizes, bar, lookups).await?);
    }
    Ok(rows)
}
