//! How manuals number addresses. Pure.

use serde::Deserialize;

use super::pdu::Table;

/// How addresses are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    /// From 0, as on the wire.
    #[default]
    Zero,
    /// From 1, as the specification's data model does (§4.4).
    One,
    /// From 1, with the table in front: coils 1, discrete inputs 10001, input registers 30001, holding
    /// registers 40001; or with six digits 100001, 300001, 400001.
    Plc,
}

impl Addressing {
    /// The address on the wire.
    ///
    /// # Errors
    /// Says what is wrong with `address`.
    pub fn on_the_wire(self, table: Table, address: u32) -> Result<u16, String> {
        let (first, last) = match (self, table) {
            (Self::Zero, _) => (0, 65_535),
            (Self::One, _) | (Self::Plc, Table::Coil) => (1, 65_536),
            (Self::Plc, _) => {
                let digit = match table {
                    Table::Coil | Table::Discrete => 1,
                    Table::Input => 3,
                    Table::Holding => 4,
                };
                if address < 100_000 {
                    (digit * 10_000 + 1, digit * 10_000 + 9_999)
                } else {
                    (digit * 100_000 + 1, digit * 100_000 + 65_536)
                }
            }
        };
        if !(first..=last).contains(&address) {
            let name = match self {
                Self::Zero => "zero",
                Self::One => "one",
                Self::Plc => "plc",
            };
            return Err(format!("with `addressing = \"{name}\"` a {table} is {first} to {last}"));
        }
        u16::try_from(address - first).map_err(|error| error.to_string())
    }
}
