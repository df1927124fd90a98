//! Few requests for many points. Pure.

use super::pdu::{Request, Response, Table};
use super::value::Conversion;
use crate::{Point, PointName, Value};

/// A point and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spot {
    pub(super) name: PointName,
    pub(super) table: Table,
    /// As on the wire, from 0.
    pub(super) address: u16,
    pub(super) conversion: Conversion,
    pub(super) unit: Option<String>,
    /// The range in which it may be written.
    pub(super) write: Option<Limits>,
}

/// What may be written to a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limits {
    /// On and off.
    Switch,
    /// A number from the first to the second, both included, scaled.
    Range(f64, f64),
}

impl Spot {
    /// Where it ends: the first address behind it, up to 65536.
    pub(super) fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.conversion.kind.items())
    }
}

impl Spot {
    /// The request that reads it alone.
    pub(super) fn request(&self) -> Request {
        Request::Read { table: self.table, address: self.address, count: self.conversion.kind.items() }
    }

    /// Its value in the answer to that; nothing where the registers hold no number.
    pub(super) fn value(&self, response: &Response) -> Option<Value> {
        match response {
            Response::Bits(bits) => bits.first().copied().map(Value::Bool),
            Response::Registers(words) => self.conversion.read(words),
            Response::Written => None,
        }
    }

    /// Whether the answer to that is what writing `text` to it would have made of it.
    pub(super) fn holds(&self, response: &Response, text: &str) -> bool {
        match response {
            Response::Bits(bits) => bits.first().is_some_and(|bit| switch(text) == Some(*bit)),
            Response::Registers(words) => self.conversion.write(text).is_ok_and(|written| written == *words),
            Response::Written => false,
        }
    }
}

/// One request and the points in its answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    pub(super) request: Request,
    spots: Vec<Spot>,
}

/// Joins the points of each table into blocks, over gaps of at most `gap` items that nobody asked for.
pub(super) fn plan(mut spots: Vec<Spot>, gap: u16) -> Vec<Block> {
    spots.sort_by_key(|spot| (spot.table, spot.address));
    let mut blocks: Vec<Vec<Spot>> = Vec::new();
    for spot in spots {
        let joins = blocks.last().and_then(|block| Some((block.first()?, block.last()?))).is_some_and(
            |(first, last)| {
                first.table == spot.table
                    && u32::from(spot.address) <= last.end() + u32::from(gap)
                    && spot.end() - u32::from(first.address) <= u32::from(spot.table.most())
            },
        );
        match blocks.last_mut() {
            Some(block) if joins => block.push(spot),
            Some(_) | None => blocks.push(vec![spot]),
        }
    }
    blocks.into_iter().filter_map(Block::new).collect()
}

impl Block {
    fn new(spots: Vec<Spot>) -> Option<Self> {
        let (first, last) = (spots.first()?, spots.last()?);
        let (table, address) = (first.table, first.address);
        let count = u16::try_from(last.end() - u32::from(address)).ok()?;
        Some(Self { request: Request::Read { table, address, count }, spots })
    }

    /// The points in the answer, and the names of those whose registers hold no number.
    pub(super) fn points(&self, response: &Response) -> (Vec<Point>, Vec<PointName>) {
        let (mut points, mut unreadable) = (Vec::new(), Vec::new());
        for spot in &self.spots {
            let from = usize::from(spot.address - self.request.address());
            let value = match response {
                Response::Bits(bits) => bits.get(from).copied().map(Value::Bool),
                Response::Registers(words) => words
                    .get(from..from + usize::from(spot.conversion.kind.items()))
                    .and_then(|words| spot.conversion.read(words)),
                Response::Written => None,
            };
            match value {
                Some(value) => points.push(Point { name: spot.name.clone(), value, unit: spot.unit.clone() }),
                None => unreadable.push(spot.name.clone()),
            }
        }
        (points, unreadable)
    }
}

impl Spot {
    /// The request that writes `text`, or what the point has to be instead; with `multiple`, by functions 15 and
    /// 16 also where 5 and 6 would do.
    pub(super) fn write(&self, text: &str, multiple: bool) -> Result<Request, String> {
        let address = self.address;
        let (least, most) = match self.write {
            None => return Err("left alone: it has no `write`".to_owned()),
            Some(Limits::Switch) => {
                let on = switch(text).ok_or("true or false")?;
                return Ok(if multiple {
                    Request::WriteCoils { address, on }
                } else {
                    Request::WriteCoil { address, on }
                });
            }
            Some(Limits::Range(least, most)) => (least, most),
        };
        let expected = format!("a number from {least} to {most}");
        if !text.parse::<f64>().is_ok_and(|number| (least..=most).contains(&number)) {
            return Err(expected);
        }
        match self.conversion.write(text) {
            Ok(words) => Ok(match words.as_slice() {
                [word] if !multiple => Request::WriteRegister { address, word: *word },
                _ => Request::WriteRegisters { address, words },
            }),
            Err(unfit) => Err(format!("{expected}; {unfit}")),
        }
    }
}

/// The state of a coil, as a command gives it.
fn switch(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::{ByteOrder, Kind};
    use super::*;

    fn spot(table: Table, address: u16, kind: Kind) -> Spot {
        Spot {
            name: format!("p{address}").parse().unwrap(),
            table,
            address,
            conversion: Conversion { kind, order: ByteOrder::Abcd, scale: None },
            unit: None,
            write: None,
        }
    }

    fn requests(spots: Vec<Spot>, gap: u16) -> Vec<(Table, u16, u16)> {
        plan(spots, gap)
            .into_iter()
            .filter_map(|block| match block.request {
                Request::Read { table, address, count } => Some((table, address, count)),
                Request::WriteCoil { .. }
                | Request::WriteCoils { .. }
                | Request::WriteRegister { .. }
                | Request::WriteRegisters { .. } => None,
            })
            .collect()
    }

    #[test]
    fn neighbours_are_asked_for_together() {
        let spots = vec![
            spot(Table::Holding, 20, Kind::F32),
            spot(Table::Input, 0, Kind::I16),
            spot(Table::Holding, 10, Kind::F64),
            spot(Table::Holding, 14, Kind::U16),
            spot(Table::Coil, 3, Kind::Bool),
        ];
        let apart =
            [(Table::Coil, 3, 1), (Table::Input, 0, 1), (Table::Holding, 10, 5), (Table::Holding, 20, 2)];
        assert_eq!(requests(spots.clone(), 4), apart);
        assert_eq!(requests(spots, 5)[2..], [(Table::Holding, 10, 12)]);
    }

    #[test]
    fn no_request_is_longer_than_allowed() {
        let registers = (0..300).map(|at| spot(Table::Input, at, Kind::U16)).collect();
        let expected = [(Table::Input, 0, 125), (Table::Input, 125, 125), (Table::Input, 250, 50)];
        assert_eq!(requests(registers, 8), expected);
        // A value is never cut in two.
        let wide = (0..63).map(|at| spot(Table::Input, 2 * at, Kind::U32)).collect();
        assert_eq!(requests(wide, 8), [(Table::Input, 0, 124), (Table::Input, 124, 2)]);
        let coils = (0..2001).map(|at| spot(Table::Coil, at, Kind::Bool)).collect();
        assert_eq!(requests(coils, 8), [(Table::Coil, 0, 2000), (Table::Coil, 2000, 1)]);
        let last = vec![spot(Table::Holding, 65_532, Kind::F64)];
        assert_eq!(requests(last, 8), [(Table::Holding, 65_532, 4)]);
    }

    #[test]
    fn answers_become_points() {
        let mut tenths = spot(Table::Holding, 7, Kind::I16);
        tenths.conversion.scale = Some(0.1);
        let blocks = plan(vec![spot(Table::Holding, 4, Kind::F32), tenths], 8);
        let (points, unreadable) = blocks[0].points(&Response::Registers(vec![0x7FC0, 0, 9, 215]));
        assert_eq!(points.len(), 1);
        assert_eq!((points[0].name.as_str(), &points[0].value), ("p7", &Value::Float(21.5)));
        assert_eq!(unreadable, ["p4".parse().unwrap()]);
        let coils = plan(vec![spot(Table::Coil, 4, Kind::Bool), spot(Table::Coil, 6, Kind::Bool)], 8);
        let (points, _) = coils[0].points(&Response::Bits(vec![true, true, false]));
        assert_eq!(
            points.iter().map(|p| p.value.clone()).collect::<Vec<_>>(),
            [Value::Bool(true), Value::Bool(false)]
        );
    }

    #[test]
    fn writes_keep_to_their_limits() {
        let mut setpoint = spot(Table::Holding, 20, Kind::I16);
        assert!(setpoint.write("5", false).unwrap_err().contains("`write`"));
        setpoint.conversion.scale = Some(0.1);
        setpoint.write = Some(Limits::Range(30.0, 80.0));
        assert_eq!(setpoint.write("62", false), Ok(Request::WriteRegister { address: 20, word: 620 }));
        assert_eq!(setpoint.write("62", true), Ok(Request::WriteRegisters { address: 20, words: vec![620] }));
        for text in ["29.9", "80.1", "NaN", "true", ""] {
            assert_eq!(setpoint.write(text, false).unwrap_err(), "a number from 30 to 80", "{text}");
        }
        let mut pump = spot(Table::Coil, 1, Kind::Bool);
        pump.write = Some(Limits::Switch);
        assert_eq!(pump.write("true", false), Ok(Request::WriteCoil { address: 1, on: true }));
        assert_eq!(pump.write("0", true), Ok(Request::WriteCoils { address: 1, on: false }));
        assert_eq!(pump.write("2", false).unwrap_err(), "true or false");
    }
}
