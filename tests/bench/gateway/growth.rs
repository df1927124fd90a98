//! How costs of the gateway grow: with what waits, with devices, with what a reading holds, and with time.

use anyhow::Result;

use super::ingest::flood;
use super::site::{BYTES, Crew, Site};
use crate::curves::grows;
use crate::meter::{cpu_of, memory, micros, spent};
use crate::report::Row;

/// Devices where they are not what grows.
const DEVICES: usize = 16;
/// Readings of a round.
const MANY: usize = 5_000;
/// Readings of each device in a round, where devices are what grows.
const EACH: usize = 5;
/// Readings out of which what is done once does not count.
const LEAST: usize = 20_000;
/// Readings of an hour and of a day, one a second.
const HOUR: usize = 3_600;
const DAY: usize = 86_400;
/// Until SQLite has first moved its log into the database, nothing is in that.
const EARLY: usize = 3 * HOUR;

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let depths: &[usize] = if long { &[0, 10_000, 1_000_000] } else { &[0, 10_000, 100_000] };
    let mut rows = by_depth(depths).await?;
    rows.push(by_devices("devices: a reading, the whole path", &[1, 100, 1_000], |_| MANY).await?);
    // As many of each device at a time, so that what goes by itself for each device is not shared by more readings
    // where devices are few.
    let sizes: &[usize] = if long { &[100, 1_000, 10_000] } else { &[100, 1_000] };
    rows.push(by_devices("devices: a reading, five of each", sizes, |devices| EACH * devices).await?);
    rows.push(by_payload(&[256, 4_096, 65_536]).await?);
    rows.extend(by_time(if long { DAY } else { DAY / 2 }).await?);
    Ok(rows)
}

/// Into a queue that holds so much, and out of it.
async fn by_depth(depths: &[usize]) -> Result<Vec<Row>> {
    let mut away: Vec<(Site, Crew)> = Vec::new();
    for depth in depths {
        let mut site = Site::new(false)?;
        site.fill(DEVICES, *depth).await?;
        site.town.nodes[0].kill()?;
        site.start().await?;
        let crew = site.crew(DEVICES, BYTES).await?;
        away.push((site, crew));
    }
    let into = grows("queue: a reading into it, of depth", "us", depths, 1.2, async |place| {
        let (site, crew) = &mut away[place];
        let agent = site.agent()?;
        Ok(flood(crew, agent, MANY).await?[1])
    })
    .await?;
    drop(away);
    // Out of it, all of it: a reader's receipts come once a second, and cover more than a part of it by then.
    let mut points = Vec::new();
    for depth in depths {
        let mut site = Site::new(false)?;
        let all = depth + LEAST;
        site.fill(DEVICES, all).await?;
        let _reader = site.reader()?;
        site.start().await?;
        let agent = site.agent()?;
        let before = cpu_of(agent)?;
        site.until_left(0).await?;
        points.push((all, micros(cpu_of(agent)?.saturating_sub(before)) / all as f64));
    }
    let ratio = points[points.len() - 1].1 / points[0].1;
    Ok(vec![into, Row::curve("queue: a reading out of it, of depth", "us", &points, ratio, 1.2)])
}

/// The whole path, of so many devices, with so many readings in a round.
async fn by_devices(what: &str, sizes: &[usize], readings: impl Fn(usize) -> usize) -> Result<Row> {
    let mut sites = Vec::new();
    for devices in sizes {
        let mut site = Site::new(false)?;
        site.start().await?;
        let reader = site.reader()?;
        let crew = site.crew(*devices, BYTES).await?;
        sites.push((site, crew, reader));
    }
    grows(what, "us", sizes, 1.3, async |place| {
        let (site, crew, _) = &mut sites[place];
        let agent = site.agent()?;
        let many = readings(sizes[place]);
        let path = async {
            crew.publish(many).await?;
            site.until_left(0).await
        };
        Ok(spent(agent, path).await? / many as f64)
    })
    .await
}

/// A byte on the whole path, of readings of so many bytes.
async fn by_payload(sizes: &[usize]) -> Result<Row> {
    let mut site = Site::new(false)?;
    site.start().await?;
    let _reader = site.reader()?;
    let mut crews = Vec::new();
    for bytes in sizes {
        crews.push(site.crew(DEVICES, *bytes).await?);
    }
    let agent = site.agent()?;
    let all = 4 << 20;
    grows("payload: a byte, the whole path", "us", sizes, 1.0, async |place| {
        let many = (all / sizes[place]).min(MANY);
        let path = async {
            crews[place].publish(many).await?;
            site.until_left(0).await
        };
        Ok(spent(agent, path).await? / (many * sizes[place]) as f64)
    })
    .await
}

/// After few hours' readings and after a day's: memory, the log, the file.
async fn by_time(day: usize) -> Result<Vec<Row>> {
    let mut site = Site::new(false)?;
    site.start().await?;
    let _reader = site.reader()?;
    let mut crew = site.crew(DEVICES, BYTES).await?;
    let mut seen = Vec::new();
    for many in [EARLY, day - EARLY] {
        for _ in 0..many / HOUR {
            crew.publish(HOUR).await?;
            site.until_left(0).await?;
        }
        let size = |name: &str| std::fs::metadata(site.state().join(name)).map_or(0, |file| file.len());
        seen.push([memory(site.agent()?, "Rss:")?, size("outbox.db-wal"), size("outbox.db")]);
    }
    let names = ["memory (RSS)", "write-ahead log", "file"];
    let rows = names.into_iter().enumerate().map(|(place, name)| {
        let points = [(EARLY, seen[0][place] as f64 / 1e6), (day, seen[1][place] as f64 / 1e6)];
        let ratio = points[1].1 / points[0].1;
        Row::curve(format!("time: {name} after so many readings, one a second"), "MB", &points, ratio, 1.1)
    });
    Ok(rows.collect())
}
