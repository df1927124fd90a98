//! What is counted, for Prometheus: the text, and who serves it.

mod server;

use std::fmt::Write as _;

pub use server::{MetricsServer, Route, route};

use crate::look::Status;
use crate::outbox::Backlog;
use crate::payload::ClockState;
use crate::reach::Reached;
use crate::standing::Standing;
use crate::tally::{Counts, State};
use crate::voice::VoiceStatus;

/// The states of an adapter, each a series.
const STATES: [(State, &str); 5] = [
    (State::Starting, "starting"),
    (State::Running, "running"),
    (State::Degraded, "degraded"),
    (State::Waiting, "waiting"),
    (State::Failed, "failed"),
];

/// Writes metrics in the text format of Prometheus.
#[derive(Default)]
struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // A string takes all that is written.
        _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        _ = writeln!(self.0, "{end} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// All metrics of an agent.
#[must_use]
pub fn page(status: &Status) -> String {
    let mut page = Page::default();
    agent(&mut page, status);
    adapters(&mut page, status);
    queue(&mut page, status);
    losses(&mut page, status);
    page.0
}

fn agent(page: &mut Page, status: &Status) {
    let Status { version, gateway, boot, server, .. } = status;
    page.metric("atedge_agent_info", "gauge", "The agent that runs.");
    let gateway = gateway.to_string();
    page.sample("atedge_agent_info", &[("version", version), ("gateway", &gateway), ("boot", boot)], 1);
    page.one("atedge_uptime_seconds", "gauge", "Time since the agent started.", status.uptime_s);
    let right = u8::from(status.clock == ClockState::Sync);
    page.one("atedge_clock_synchronised", "gauge", "Whether the clock is right.", right);
    let frozen = u8::from(matches!(status.standing, Standing::Frozen { .. }));
    let help = "Whether another box is, or was, this gateway, so that nothing is sent.";
    page.one("atedge_frozen", "gauge", help, frozen);
    if let Some(kib) = status.memory_kib {
        page.one("process_resident_memory_bytes", "gauge", "Memory in use.", kib * 1024);
    }
    let reached = u8::from(server.reached == Reached::Yes);
    page.one("atedge_server_reached", "gauge", "Whether our atServer answered last.", reached);
    page.metric(
        "atedge_device_server_reached",
        "gauge",
        "The same of each device with an atSign of its own.",
    );
    for (device, VoiceStatus { atsign, server }) in &status.own {
        let labels = [("device", device.as_str()), ("atsign", &atsign.to_string())];
        page.sample("atedge_device_server_reached", &labels, u8::from(server.reached == Reached::Yes));
    }
    page.one(
        "atedge_server_reconnects_total",
        "counter",
        "How often it was reached again.",
        server.reconnects,
    );
    page.metric("atedge_notifications_total", "counter", "Attempts to send, by what came of them.");
    for (result, count) in [
        ("sent", server.sent),
        ("put_off", server.put_off),
        ("refused", server.refused),
        ("unreached", server.unreached),
    ] {
        page.sample("atedge_notifications_total", &[("result", result)], count);
    }
    page.one("atedge_receipts_total", "counter", "Receipts of readers that were taken.", status.receipts);
    page.one(
        "atedge_receipts_refused_total",
        "counter",
        "Receipts that were not known to be genuine, or came again.",
        status.receipts_refused,
    );
    page.metric("atedge_commands_total", "counter", "Commands, by how they ended.");
    for (outcome, count) in &status.commands {
        page.sample("atedge_commands_total", &[("outcome", outcome)], count);
    }
}

fn adapters(page: &mut Page, status: &Status) {
    page.metric("atedge_adapter_state", "gauge", "1 for the state that the adapter is in.");
    for (name, adapter) in &status.adapters {
        for (state, word) in STATES {
            let is_it = u8::from(adapter.state == state);
            page.sample("atedge_adapter_state", &[("adapter", name), ("state", word)], is_it);
        }
    }
    page.metric(
        "atedge_readings_total",
        "counter",
        "Readings by what became of them; `kept` became records.",
    );
    for (name, adapter) in &status.adapters {
        let Counts { kept, repeated, refused: _, suppressed, dropped } = adapter.counts;
        let results =
            [("kept", kept), ("repeated", repeated), ("suppressed", suppressed), ("dropped", dropped)];
        for (result, count) in results {
            page.sample("atedge_readings_total", &[("adapter", name), ("result", result)], count);
        }
    }
    page.metric("atedge_refusals_total", "counter", "What devices said and could not be kept, by reason.");
    for (name, adapter) in &status.adapters {
        for (reason, count) in &adapter.refused_as {
            page.sample("atedge_refusals_total", &[("adapter", name), ("reason", reason)], count);
        }
    }
    page.metric("atedge_last_reading_timestamp_seconds", "gauge", "When the last reading came.");
    for (name, adapter) in &status.adapters {
        if let Some(at_ms) = adapter.last_reading_ms {
            page.sample("atedge_last_reading_timestamp_seconds", &[("adapter", name)], seconds(at_ms));
        }
    }
}

fn queue(page: &mut Page, status: &Status) {
    let queue = &status.queue;
    let takes = u8::from(status.disk.is_none());
    page.one("atedge_queue_writable", "gauge", "Whether the disk takes what the queue is given.", takes);
    page.one("atedge_queue_records", "gauge", "Records that wait.", queue.records);
    page.one("atedge_queue_bytes", "gauge", "Bytes of the queue on disk.", queue.bytes);
    if let Some(at_ms) = queue.oldest_ms {
        let help = "When the oldest record that waits was captured.";
        page.one("atedge_queue_oldest_timestamp_seconds", "gauge", help, seconds(at_ms));
    }
    page.one("atedge_queue_aside", "gauge", "Records set aside, refused for good.", queue.aside);
    for (name, help, count) in [
        ("atedge_queue_repeats_total", "Captures that came again and were not kept twice.", queue.repeats),
        ("atedge_queue_expired_total", "Records lost because their time was up.", queue.expired),
        ("atedge_queue_dropped_total", "Records dropped because the queue was full.", queue.dropped),
        ("atedge_queue_thinned_total", "Records that one of their window stands for.", queue.thinned),
        ("atedge_queue_damaged_total", "Records lost because they no longer opened.", queue.damaged),
    ] {
        page.one(name, "counter", help, count);
    }
    page.metric("atedge_unconfirmed_records", "gauge", "What a reader of a stream has not confirmed.");
    for Backlog { stream, reader, unconfirmed, .. } in &queue.readers {
        page.sample("atedge_unconfirmed_records", &[("stream", stream), ("reader", reader)], unconfirmed);
    }
}

/// What readers will not get.
fn losses(page: &mut Page, status: &Status) {
    page.metric("atedge_lost_records_total", "counter", "What a reader of a stream has lost, by cause.");
    for Backlog { stream, reader, lost, .. } in &status.queue.readers {
        for (cause, count) in lost {
            let labels = [("stream", stream.as_str()), ("reader", reader), ("cause", cause)];
            page.sample("atedge_lost_records_total", &labels, count);
        }
    }
}

/// Milliseconds as seconds, to the millisecond.
fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

#[cfg(test)]
mod tests;
