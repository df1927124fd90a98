//! `watch`: notifications as they arrive, decrypted.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use at_client::{Client, Incoming, MonitorConfig, MonitorState, NotifyRequest, Payload};
use at_protocol::Timestamp;
use atedge_adapters::{Point, Value};
use atedge_agent::payload::{Batch, ClockState, Gap, Record};
use atedge_service::{Exit, stop_signal};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::cli::Watch;
use crate::output::Output;
use crate::reader::{Opened, Reader};

/// At most one receipt a lane in this time.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// As good as for ever, for a watch that is not told when to stop.
const LONG: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Prints until told to stop, or as long or as many as the command line says.
///
/// # Errors
/// The server cannot be listened to, for a reason that waiting does not change.
pub async fn run(args: Watch) -> Result<Exit> {
    let client = args.access.client(&args.atsign)?;
    let output = Output::new(args.access.json);
    let since = args.since.and_then(|ago| SystemTime::now().checked_sub(ago)).map(Timestamp::from);
    let mut monitor = client.monitor(MonitorConfig { regex: args.regex, since, ..MonitorConfig::default() });
    let mut state = monitor.state();
    let mut announced = false;
    let mut reader = Reader::default();
    let mut confirm = interval(CONFIRM_EVERY);
    confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = stop_signal()?;
    let deadline = Instant::now() + args.period.unwrap_or(LONG);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::select! {
            incoming = monitor.next() => {
                show(&incoming?, &mut reader, output)?;
                left -= 1;
            }
            Ok(()) = state.changed() => {
                let now = state.borrow_and_update().clone();
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
            _ = confirm.tick(), if args.confirm => send_receipts(&client, &mut reader).await,
            () = sleep_until(deadline) => break,
            () = stop.cancelled() => break,
        }
    }
    if args.confirm {
        send_receipts(&client, &mut reader).await;
    }
    if !announced {
        bail!("no connection to the atServer of {} was made in time", args.atsign);
    }
    Ok(Exit::Done)
}

/// Tells every gateway what has been printed. A receipt that is lost is repeated with the next batch.
pub(crate) async fn send_receipts(client: &Client, reader: &mut Reader) {
    for due in reader.receipts() {
        let Ok(name) = due.name.parse() else { continue };
        let request = NotifyRequest {
            latest_of: Some(&due.lane),
            ..NotifyRequest::new(&due.to, &name, due.json.as_bytes())
        };
        if let Err(error) = client.notify(request).await {
            tracing::warn!(gateway = %due.to, %error, "a receipt was not sent; the gateway will ask again");
        }
    }
}

fn show(incoming: &Incoming, reader: &mut Reader, output: Output) -> Result<()> {
    let Incoming { id, from, name, epoch_millis, .. } = incoming;
    let value = match &incoming.payload {
        Payload::Opened(plain) => {
            if let Some(opened) = reader.take(from, name.as_str(), plain) {
                return show_readings(incoming, &opened, output);
            }
            Some(String::from_utf8_lossy(plain).into_owned())
        }
        Payload::Clear(text) => Some(text.clone()),
        Payload::Undecryptable => {
            output.say(
                || format!("{from} {name}: cannot be decrypted with the keys at hand"),
                || json!({ "id": id, "from": from, "name": name, "undecryptable": true, "epoch_millis": epoch_millis }),
            )?;
            return Ok(());
        }
        Payload::Nothing => None,
    };
    output.say(
        || format!("{from} {name}: {}", value.as_deref().unwrap_or("(nothing)")),
        || json!({ "id": id, "from": from, "name": name, "value": value, "epoch_millis": epoch_millis }),
    )?;
    Ok(())
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
