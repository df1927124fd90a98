//! `watch`: notifications as they arrive, decrypted.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use at_client::{
    Envelopes, Incoming, LEARNT_WITHIN, MonitorConfig, MonitorState, Need, NotifyRequest, Payload,
};
use at_protocol::{Timestamp, caps};
use atedge_adapters::{Point, Value};
use atedge_agent::payload::{Batch, ClockState, Gap, Record};
use atedge_service::{Exit, stop_signal};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::cli::Watch;
use crate::output::Output;
use crate::reader::{Opened, Reader};
use crate::state::ReaderState;

/// At most one receipt a lane in this time.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
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
    let mut confirm = interval(CONFIRM_EVERY);
    confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            _ = confirm.tick(), if args.confirm || args.receipts => watched.confirm().await?,
            () = sleep_until(announce_at), if args.receipts => {
                announce_at = Instant::now() + watched.announce().await?;
                watched.reader.forget(now());
            }
            () = sleep_until(deadline) => break,
            () = stop.cancelled() => break,
        }
    }
    if args.confirm || args.receipts {
        watched.confirm().await?;
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

    /// Tells the gateways what has been printed; what is to be kept is on disk before.
    async fn confirm(&mut self) -> Result<()> {
        if let Some(state) = self.state.as_ref().filter(|_| self.reader.is_due()) {
            state.keep(&self.reader).await?;
        }
        send_receipts(&self.envelopes, &mut self.reader).await;
        Ok(())
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

/// Sends what receipts are due. One that is lost is repeated with the next batch.
pub(crate) async fn send_receipts(envelopes: &Envelopes, reader: &mut Reader) {
    for due in reader.receipts() {
        let Ok(name) = due.name.parse() else { continue };
        let request = NotifyRequest {
            latest_of: Some(&due.lane),
            ..NotifyRequest::new(&due.to, &name, due.json.as_bytes())
        };
        if let Err(error) = envelopes.notify(request, Need::default()).await {
            tracing::warn!(gateway = %due.to, %error, "a receipt was not sent; the gateway will ask again");
        }
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

pub(crate) fn show_readings(incoming: &Incoming, opened: &Opened, output: Output) -> Result<()> {
    for (record, duplicate) in opened.batch.records.iter().zip(&opened.duplicate) {
        output.say(
            || line(&incoming.from.to_string(), &opened.batch, record, *duplicate),
            || {
                json!({
                    "gateway": incoming.from,
                    "device": opened.batch.lane.device.to_string(),
                    "stream": opened.batch.lane.stream.to_string(),
                    "boot": opened.batch.lane.boot.to_string(),
                    "seq": record.seq,
                    "time": time(record).to_string(),
                    "unix": record.time_us as f64 / 1e6,
                    "clock": opened.batch.clock,
                    "mono": opened.batch.mono_of(record) as f64 / 1e6,
                    "timefix": record.as_timefix().map(|began_us| began_us as f64 / 1e6),
                    "points": points(record),
                    "duplicate": duplicate,
                    "id": incoming.id,
                })
            },
        )?;
    }
    for (gap, lost) in opened.batch.gaps.iter().zip(&opened.lost).filter(|(_, lost)| **lost > 0) {
        let (lane, cause) = (&opened.batch.lane, gap.cause.as_str());
        output.say(
            || {
                let Gap { first, last, .. } = gap;
                format!(
                    "{} {}/{} #{first}-{last}  {lost} lost: {cause}",
                    incoming.from, lane.device, lane.stream
                )
            },
            || {
                json!({
                    "gateway": incoming.from,
                    "device": lane.device.to_string(),
                    "stream": lane.stream.to_string(),
                    "boot": lane.boot.to_string(),
                    "gap": [gap.first, gap.last],
                    "cause": cause,
                    "lost": lost,
                    "id": incoming.id,
                })
            },
        )?;
    }
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
