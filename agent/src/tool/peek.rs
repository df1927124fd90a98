//! `peek`: what stands in a unit's registers, in every way to take it.

use std::fmt;
use std::str::FromStr;

use atedge_adapters::modbus::pdu::{Response, Table};
use atedge_adapters::modbus::value::{View, views};
use atedge_adapters::modbus::{Addressing, Probe, UnitId};
use atedge_adapters::units::Duration;
use atedge_adapters::{AdapterConfig, Value};
use atedge_service::Exit;
use clap::Args;
use serde_json::json;

use super::{Complaint, ConfigArgs, run, say};

/// Show registers of a Modbus unit as every type, in every byte order.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent peek rs485 40013 --unit 7 --count 2\n\n\
    The address is numbered as the unit's `addressing` has it; of a unit that is not configured, from 0, as on the \
    wire. Nothing is written. Stop the agent meanwhile if it runs with this adapter.")]
pub struct Peek {
    /// The Modbus adapter, by its name in the configuration.
    adapter: String,
    /// The first address.
    address: u32,
    /// The unit; may be left out when the adapter has one only.
    #[arg(long, value_name = "NUMBER")]
    unit: Option<u8>,
    /// Which table: coil, discrete, input or holding.
    #[arg(long, default_value = "holding")]
    table: TableName,
    /// How many registers or bits, up to 64.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    count: u16,
    /// How long the unit has to answer, instead of the adapter's `timeout`.
    #[arg(long, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// A table, as it is called in the configuration.
#[derive(Debug, Clone, Copy)]
struct TableName(Table);

impl fmt::Display for TableName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            Table::Coil => "coil",
            Table::Discrete => "discrete",
            Table::Input => "input",
            Table::Holding => "holding",
        })
    }
}

impl FromStr for TableName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "coil" => Ok(Self(Table::Coil)),
            "discrete" => Ok(Self(Table::Discrete)),
            "input" => Ok(Self(Table::Input)),
            "holding" => Ok(Self(Table::Holding)),
            _ => Err("expected coil, discrete, input or holding"),
        }
    }
}

impl Peek {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(self.look())
    }

    async fn look(self) -> Result<Exit, Complaint> {
        let config = self.config.adapter(&self.adapter)?;
        let (unit, addressing) = self.unit(&config)?;
        let TableName(table) = self.table;
        let address = addressing
            .on_the_wire(table, self.address)
            .map_err(|what| Complaint::usage(format_args!("there is no address {}: {what}", self.address)))?;
        let wrong = |error| Complaint::failed(format_args!("adapter {}: {error}", self.adapter));
        let mut probe = Probe::open(&config, self.timeout).await.map_err(wrong)?;
        let answer = probe.read(unit, table, address, self.count).await;
        let answer = answer.map_err(|error| Complaint::failed(format_args!("the way was lost: {error}")))?;
        match answer.map_err(Complaint::failed)? {
            Response::Registers(words) => self.show_registers(unit, address, &words),
            Response::Bits(bits) => self.show_bits(unit, address, &bits),
            Response::Written => {}
        }
        Ok(Exit::Done)
    }

    /// The unit, and how its addresses are numbered.
    fn unit(&self, config: &AdapterConfig) -> Result<(UnitId, Addressing), Complaint> {
        let mut units = config.units();
        let found = match self.unit {
            Some(number) => {
                let configured = units.find(|(id, _)| id.0 == number);
                return Ok((
                    UnitId(number),
                    configured.map_or(Addressing::Zero, |(_, unit)| unit.addressing),
                ));
            }
            None => units.next(),
        };
        match (found, units.next()) {
            (Some((id, unit)), None) => Ok((id, unit.addressing)),
            _ => Err(Complaint::usage(
                "which unit? Expected `--unit NUMBER`, since the adapter has several or none",
            )),
        }
    }

    fn show_registers(&self, unit: UnitId, address: u16, words: &[u16]) {
        let views = views(words);
        if self.json {
            let of = |view: &View| {
                let value = view.value.as_ref().map(number);
                let at = usize::from(address) + view.at;
                json!({ "address": at, "type": view.kind.to_string(), "order": view.order.to_string(), "value": value })
            };
            let views: Vec<_> = views.iter().map(of).collect();
            let whole = json!({
                "unit": unit.0, "table": self.table.to_string(), "address": address, "registers": words, "views": views,
            });
            return say(format_args!("{whole}"));
        }
        say(format_args!("unit {unit}, {} {address} on the wire, {} of them", self.table.0, words.len()));
        for (n, word) in words.iter().enumerate() {
            let text: String = word.to_be_bytes().iter().map(|byte| shown(*byte)).collect();
            say(format_args!("{:>6}  {word:04x}  {word:016b}  {text:?}", usize::from(address) + n));
        }
        // A line for each type at each place; the orders side by side.
        for of_type in views.chunk_by(|one, other| one.at == other.at && one.kind == other.kind) {
            let Some(first) = of_type.first() else { continue };
            let orders: Vec<_> = of_type
                .iter()
                .map(|View { order, value, .. }| {
                    let value = value.as_ref().map_or_else(|| "no number".to_owned(), short);
                    format!("{order} {value}")
                })
                .collect();
            say(format_args!(
                "{:>6}  {}  {}",
                usize::from(address) + first.at,
                first.kind,
                orders.join("   ")
            ));
        }
    }

    fn show_bits(&self, unit: UnitId, address: u16, bits: &[bool]) {
        if self.json {
            let whole =
                json!({ "unit": unit.0, "table": self.table.to_string(), "address": address, "bits": bits });
            return say(format_args!("{whole}"));
        }
        say(format_args!("unit {unit}, {} {address} on the wire, {} of them", self.table.0, bits.len()));
        for (n, bit) in bits.iter().enumerate() {
            say(format_args!("{:>6}  {bit}", usize::from(address) + n));
        }
    }
}

/// A value of registers for the eye.
fn short(value: &Value) -> String {
    match value {
        Value::Float(number) if *number != 0.0 && !(1e-4..1e15).contains(&number.abs()) => {
            format!("{number:e}")
        }
        Value::Float(_) | Value::Integer(_) | Value::Bool(_) | Value::Text(_) | Value::Data { .. } => {
            value.to_string()
        }
    }
}

/// A value of registers as JSON has it.
fn number(value: &Value) -> serde_json::Value {
    match value {
        Value::Float(number) => json!(number),
        Value::Integer(number) => json!(number),
        Value::Bool(_) | Value::Text(_) | Value::Data { .. } => json!(value.to_string()),
    }
}

/// A byte as a character, where it is one that can be seen.
fn shown(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' }
}
