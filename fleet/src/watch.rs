//! `watch`: notifications as they arrive, decrypted.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use at_client::{
    Envelopes, Incoming, LEARNT_WITHIN, MonitorConfig, MonitorState, Need, NotifyRequest, Payload,
};
use at_protocol::{Timestamp, caps};
use atedge_adapters::{Point, Value};
use atedge_agent::payload::{Batch, ClockState, Gap, Lane, Record};
use atedge_service::{Exit, stop_signal};
use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::cli::Watch;
use crate::output::Output;
use crate::reader::{Due, Opened, Reader};
use crate::state::ReaderState;

/// How often it is looked whether receipts are due, while some are owed.
const CONFIRM: Duration = Duration::from_millis(50);
/// The same where all that was taken is written to a file before.
const KEEP_AND_CONFIRM: Duration = Duration::from_secs(1);
/// Receipts that are sent at once.
const RECEIPTS: usize = 16;
/// As good as for ever, for a watch that is not told when to stop.
const LONG: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long what we can do is not announced again: once a day it is looked whether it must be renewed.
const ANNOUNCE: Duration = Duration::from_secs(24 * 60 * 60);
/// The same where that has failed.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(10);

/// Prints until told to stop, or as long or as many as the command line says.
///
/// # Errors
/// The server cannot be listened to, for a reason that waiting does not change; or what was read cannot be
/// kept.
pub async fn run(args: Watch) -> Result<Exit> {
    let client = args.access.client(&args.atsign)?;
    let output = Output::new(args.access.json);
    let state = args.state.as_deref().map(ReaderState::open).transpose()?;
    let (envelopes, reader) = match &state {
        Some(state) => (state.envelopes(client.clone())?, state.reader()?),
        None => (Envelopes::new(client.clone(), None, None), Reader::default()),
    };
    // Until gateways have learnt what this reader opens, they send as to everybody.
    let grace = if envelopes.is_new() { LEARNT_WITHIN + ANNOUNCE_AGAIN } else { Duration::ZERO };
    let strict_from = Instant::now() + grace;
    let mut watched = Watched { envelopes, reader, state, output, strict_from };
    let since = args.since.and_then(|ago| SystemTime::now().checked_sub(ago)).map(Timestamp::from);
    let mut monitor = client.monitor(MonitorConfig { regex: args.regex, since, ..MonitorConfig::default() });
    let mut connection = monitor.state();
    let mut announced = false;
    let mut announce_at = Instant::now() + watched.announce().await?;
    let mut confirm = interval(if watched.state.is_some() { KEEP_AND_CONFIRM } else { CONFIRM });
    confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let may_confirm = args.confirm || args.receipts;
    // They go while more is read.
    let mut receipts = FuturesUnordered::new();
    let stop = stop_signal()?;
    let deadline = Instant::now() + args.period.unwrap_or(LONG);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::select! {
            incoming = monitor.next() => {
                if watched.show(&incoming?).await? {
                    left -= 1;
                }
            }
            Ok(()) = connection.changed() => {
                let now = connection.borrow_and_update().clone();
                match now {
                    MonitorState::Connected if !announced => {
                        announced = true;
                        output.say(|| format!("watching {}", args.atsign), || json!({ "watching": args.atsign }))?;
                    }
                    MonitorState::Connected => output.remark(|| "connected again".to_owned())?,
                    MonitorState::Disconnected { cause } => output.remark(|| format!("disconnected: {cause}"))?,
                    MonitorState::Connecting => {}
                }
            }
            _ = confirm.tick(), if may_confirm && watched.reader.owes() && receipts.is_empty() => {
                if watched.reader.is_due(now()) {
                    watched.keep().await?;
                    receipts.push(send_receipts(watched.envelopes.clone(), watched.reader.receipts(now())));
                }
            }
            Some(()) = receipts.next() => {}
            () = sleep_until(announce_at), if args.receipts => {
                announce_at = Instant::now() + watched.announce().await?;
                watched.reader.forget(now());
            }
            () = sleep_until(deadline) => break,
            () = stop.cancelled() => break,
        }
    }
    while receipts.next().await.is_some() {}
    if may_confirm && watched.reader.owes() {
        watched.keep().await?;
        send_receipts(watched.envelopes.clone(), watched.reader.last_receipts()).await;
    }
    if !announced {
        bail!("no connection to the atServer of {} was made in time", args.atsign);
    }
    Ok(Exit::Done)
}

/// What is shown, kept and confirmed.
struct Watched {
    envelopes: Envelopes,
    reader: Reader,
    state: Option<ReaderState>,
    output: Output,
    /// From when on gateways send in envelopes.
    strict_from: Instant,
}

impl Watched {
    /// Announces what this reader can do; returns when to do so again.
    async fn announce(&self) -> Result<Duration> {
        match self.envelopes.announce().await {
            Ok(()) => Ok(ANNOUNCE),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "what this reader can do is not announced yet; trying again");
                Ok(ANNOUNCE_AGAIN)
            }
            Err(error) => Err(error).context("cannot announce what this reader can do"),
        }
    }

    /// What was printed is on disk before it is confirmed, if it is to be kept.
    async fn keep(&self) -> Result<()> {
        match &self.state {
            Some(state) => state.keep(&self.reader).await,
            None => Ok(()),
        }
    }

    /// Shows a notification; `false` if it is one between programs.
    async fn show(&mut self, incoming: &Incoming) -> Result<bool> {
        let Incoming { id, from, name, epoch_millis, .. } = incoming;
        let strange = |text: &str, member: &str| {
            self.output.say(
                || format!("{from} {name}: {text}"),
                || json!({ "id": id, "from": from, "name": name, member: true, "epoch_millis": epoch_millis }),
            )
        };
        if name.as_str() == caps::PAIR {
            return Ok(false);
        }
        // A reader that gateways rely on takes nothing that a server in between may have made up.
        let is_strict = Instant::now() >= self.strict_from;
        let must_be_genuine = self.state.is_some() && is_strict && name.as_str().contains(".tel.");
        let value = match &incoming.payload {
            Payload::Opened(_) => {
                let content = match must_be_genuine {
                    true => self.envelopes.accept(incoming).await,
                    false => self.envelopes.open(incoming).await,
                };
                let Ok(content) = content else {
                    strange("not known to be genuine", "refused")?;
                    return Ok(true);
                };
                if let Some(opened) = self.reader.take(from, name.as_str(), &content.plain, now()) {
                    show_readings(incoming, &opened, self.output)?;
                    return Ok(true);
                }
                Some(String::from_utf8_lossy(&content.plain).into_owned())
            }
            Payload::Clear(text) => Some(text.clone()),
            Payload::Undecryptable => {
                strange("cannot be decrypted with the keys at hand", "undecryptable")?;
                return Ok(true);
            }
            Payload::Nothing => None,
        };
        self.output.say(
            || format!("{from} {name}: {}", value.as_deref().unwrap_or("(nothing)")),
            || json!({ "id": id, "from": from, "name": name, "value": value, "epoch_millis": epoch_millis }),
        )?;
        Ok(true)
    }
}

/// Sends receipts, several at once. One that is lost is repeated with the next batch.
pub(crate) async fn send_receipts(envelopes: Envelopes, due: Vec<Due>) {
    let send = async |Due { to, name, json, lane }: Due| {
        let Ok(name) = name.parse() else { return };
        let request =
            NotifyRequest { latest_of: Some(&lane), ..NotifyRequest::new(&to, &name, json.as_bytes()) };
        if let Err(error) = envelopes.notify(request, Need::default()).await {
            tracing::warn!(gateway = %to, %error, "a receipt was not sent; the gateway will ask again");
        }
    };
    stream::iter(due).for_each_concurrent(RECEIPTS, send).await;
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

pub(crate) fn show_readings(incoming: &Incoming, opened: &Opened, output: Output) -> Result<()> {
    let (Incoming { from, id, .. }, Opened { batch, duplicate, lost }) = (incoming, opened);
    let Lane { device, stream, boot } = &batch.lane;
    let gateway = from.to_string();
    output.say_all(
        batch.records.iter().zip(duplicate),
        |(record, duplicate)| line(&gateway, batch, record, **duplicate),
        |(record, duplicate)| {
            json!({
                "gateway": from,
                "device": device,
                "stream": stream,
                "boot": boot,
                "seq": record.seq,
                "time": time(record).to_string(),
                "unix": record.time_us as f64 / 1e6,
                "clock": batch.clock,
                "mono": batch.mono_of(record) as f64 / 1e6,
                "timefix": record.as_timefix().map(|began_us| began_us as f64 / 1e6),
                "points": points(record),
                "duplicate": duplicate,
                "id": id,
            })
        },
    )?;
    output.say_all(
        batch.gaps.iter().zip(lost).filter(|(_, lost)| **lost > 0),
        |(Gap { first, last, cause }, lost)| {
            format!("{gateway} {device}/{stream} #{first}-{last}  {lost} lost: {}", cause.as_str())
        },
        |(gap, lost)| {
            json!({
                "gateway": from,
                "device": device,
                "stream": stream,
                "boot": boot,
                "gap": [gap.first, gap.last],
                "cause": gap.cause.as_str(),
                "lost": lost,
                "id": id,
            })
        },
    )?;
    Ok(())
}

/// One reading for people.
fn line(gateway: &str, batch: &Batch, record: &Record, duplicate: bool) -> String {
    let points: Vec<String> = record.points.iter().map(shown).collect();
    let again = if duplicate { "  (again)" } else { "" };
    let free = if batch.clock == ClockState::Free { "~" } else { "" };
    let lane = &batch.lane;
    format!(
        "{free}{} {gateway} {}/{} #{}  {}{again}",
        time(record),
        lane.device,
        lane.stream,
        record.seq,
        points.join("  ")
    )
}

fn time(record: &Record) -> Timestamp {
    Timestamp::from_millis(record.time_us / 1000)
}

fn shown(point: &Point) -> String {
    let unit = point.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
    let value = if let Value::Text(text) = &point.value {
        text.clone()
    } else {
        json_value(&point.value).to_string()
    };
    format!("{}={value}{unit}", point.name)
}

fn points(record: &Record) -> serde_json::Map<String, serde_json::Value> {
    record.points.iter().map(|point| (point.name.to_string(), json_value(&point.value))).collect()
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Float(number) => json!(number),
        Value::Integer(number) => json!(number),
        Value::Bool(truth) => json!(truth),
        Value::Text(text) => json!(text),
        Value::Data { bytes, .. } => json!(hex::encode(bytes)),
    }
}
